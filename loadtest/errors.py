"""The one error of this room: a failure that the user of a load test can fix."""


class LoadTestError(Exception):
    """The service or the load generator is missing, or the load failed; the message is one line."""
