"""What bounds a model that is served: rows, pixels, threads, and which file answers."""

from dataclasses import dataclass, field

from models.machine import available_cpus
from models.tuned import TunedPlan
from service.pipeline.job import BatchLimits
from service.session.planning import Choice, PlanLimits
from service.session.plans import DeviceLimits


@dataclass(frozen=True, slots=True)
class ServingLimits:
    """What bounds one classifier; units in the names.

    ``instances`` run at once, each on a thread of its own; a single one runs short batches on the
    event loop's. ``explicit`` names the settings that no plan changes, ``tuned`` is the plan that
    is followed in the others.
    """

    batch: BatchLimits = field(default_factory=BatchLimits)
    max_image_pixels: int = 1 << 25
    threads: int = 0
    workers: int = 1
    precision: Choice = "fp32"
    instances: int = 1
    device: DeviceLimits = field(default_factory=DeviceLimits)
    explicit: frozenset[str] = frozenset()
    tuned: TunedPlan | None = None

    @property
    def plan(self) -> PlanLimits:
        """Return what a session may choose from: threads asked for, else one or its share."""
        share = max(1, available_cpus() // (self.workers * self.instances))
        threads = (self.threads,) if self.threads else (1, share)
        return PlanLimits(self.precision, threads, self.batch.max_batch_size, self.device)
