"""One budget for the bytes that requests hold: bodies that arrive, pixels, rows that wait."""


class Inflight:
    """Counts the bytes in flight in one worker; used on the event loop's thread only.

    Args:
        limit_bytes: Most bytes at once. One request may hold more when nothing else is in flight:
            else a body within its own limit could never be answered.

    Attributes:
        used: Bytes of bodies and of pixels that are being decoded now.
        queued: Bytes of rows that wait in the queues of all models now.
        queue_bytes: Most of these: half of the limit, so that requests still arrive while rows
            wait, and rows of small requests still wait while a large picture is decoded.
    """

    __slots__ = ("limit_bytes", "queue_bytes", "queued", "used")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.queue_bytes = limit_bytes // 2
        self.used = 0
        self.queued = 0

    @property
    def is_full(self) -> bool:
        """Whether the limit is passed."""
        return self.used + self.queued > self.limit_bytes

    def take(self, size: int) -> bool:
        """Count bytes, or return False and count none where they exceed the limit."""
        held = self.used + self.queued
        if held and held + size > self.limit_bytes:
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """Take back bytes that are held no longer."""
        self.used -= size
