"""The one error of this room: what a user of a load test can mend."""


class LoadTestError(Exception):
    """No service to load, nothing to load it with, or the load broke; one line says which."""
