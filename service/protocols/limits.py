"""What the body of one request may cost: limits of its form, and the bytes that it holds."""

from dataclasses import dataclass

from service.errors import QueueFullError
from service.inflight import Inflight
from service.lane.bodies import UNCOUNTED_BYTES


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits of forms that cost more to read than their bytes say; binary tensors have none.

    Attributes:
        max_json_bytes: Length of a JSON text.
        max_body_bytes: Length of a body, once it is expanded.
        max_values: Values that JSON, or the typed contents of gRPC, may spell out.
    """

    max_json_bytes: int = 6 << 20
    # 512 rows of 28 x 28 numbers, flat; the parser takes up to 0.1 us for each, the loop 50 ms.
    max_values: int = 420_000
    max_body_bytes: int = 32 << 20


class Held:
    """Bytes that one request holds beside its body, counted in the worker's budget.

    Used on the loop only.

    Args:
        inflight: The budget; None: nothing is counted.
    """

    __slots__ = ("_bytes", "_inflight")

    def __init__(self, inflight: Inflight | None) -> None:
        self._inflight = inflight
        self._bytes = 0

    def take(self, size: int) -> None:
        """Count bytes before memory is allocated for them.

        A request that holds little is never refused: a large picture that is decoded may take all
        of the budget, for as long as it takes.

        Raises:
            QueueFullError: Other requests hold too much now.
        """
        inflight = self._inflight
        if inflight is None:
            return
        if self._bytes + size <= UNCOUNTED_BYTES:
            inflight.used += size
        elif not inflight.take(size):
            raise QueueFullError(
                f"memory: expected room for {size} bytes, got {inflight.used} of "
                f"{inflight.limit_bytes} in use; retry later or raise FOVEAL_MAX_INFLIGHT_MIB"
            )
        self._bytes += size

    def give(self) -> None:
        """Take all of them off; may be called again."""
        if self._bytes and self._inflight is not None:
            self._inflight.give(self._bytes)
            self._bytes = 0
