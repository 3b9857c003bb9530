"""The only exception of ``loadtest``: a failure that the user can fix."""


class LoadTestError(Exception):
    """The service or the load generator is missing, or the load failed; the message is one line."""
