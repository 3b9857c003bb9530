"""One budget for the bytes that requests hold: bodies that arrive and pixels that are decoded."""


class Inflight:
    """Counts the bytes in flight in one worker; used on the event loop's thread only.

    Args:
        limit_bytes: Most bytes at once. One request may hold more when nothing else is in flight:
            else a body within its own limit could never be answered.

    Attributes:
        used: Bytes in flight now.
    """

    __slots__ = ("limit_bytes", "used")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used = 0

    def take(self, size: int) -> bool:
        """Count bytes, or return False and count none where they exceed the limit."""
        if self.used and self.used + size > self.limit_bytes:
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """Take back bytes that are held no longer."""
        self.used -= size
