"""The only exception of ``loadtest.tune``: a failure that the user can fix."""


class TuneError(Exception):
    """One line: where, expected, got, and how to fix it."""
