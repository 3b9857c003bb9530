"""The bounds of a model that is served: rows, pixels and runs at once."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of one batcher.

    Attributes:
        max_batch_size: Rows of one run, at most.
        max_wait_s: Longest expected wait, seconds; rows that would wait longer are refused.
        max_queue_delay_s: Longest wait for more rows while a runner is free, seconds.
    """

    max_batch_size: int = 64
    max_wait_s: float = 1.0
    max_queue_delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ServingLimits:
    """Bounds of one classifier.

    Attributes:
        batch: Of its queue and batches.
        max_image_pixels: Pixels of an image that is decoded, at most.
        instances: Runs at once, each on a thread of its own; a single one runs short batches on
            the event loop's thread.
    """

    batch: BatchLimits = field(default_factory=BatchLimits)
    max_image_pixels: int = 1 << 25
    instances: int = 1
