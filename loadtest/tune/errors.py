"""The one error of this room: a request that cannot be measured on this machine."""


class TuneError(Exception):
    """One line: where, expected, got, and how to fix it."""
