"""The plan that ``foveal tune`` chose for a version on one machine: ``<name>/plan-<version>.json``.

It lies beside the version's folder, which never changes, and goes where the models go. It counts
only for the bytes and the machine that it was measured with; who serves decides what it follows.
Knows the file; nothing about how a model runs or how a plan is found.
"""

import dataclasses
import json
from dataclasses import dataclass

from models.artifact import ArtifactError, ModelArtifact, Precision
from models.fields import FieldError, read_dataclass
from models.files import write_atomically
from models.machine import Machine
from models.repository import ModelRepository

FORMAT = 1
_MOST = 1 << 20  # of any whole number in a plan: more is a mistake


@dataclass(frozen=True, slots=True)
class TunedPlan:
    """How a version is best served on one machine, and what that was measured to be worth.

    Attributes:
        model: ``name:version``.
        sha256: Of the file that runs.
        machine: Where it was measured.
        precision: Of that file.
        threads: That one run uses.
        instances: Runs at once.
        max_batch_size: Rows one run gets at most.
        max_queue_delay_ms: Longest wait for company while a runner is free.
        buckets: Batch sizes that runs are padded to, ascending; empty: none.
        p99_ms: The promise: 99 % of the answers within so many milliseconds.
        goodput_per_s: Requests a second that kept it.
        default_goodput_per_s: The same without a plan.
        date: When, ISO 8601.
        command: That repeats it.
        format: Of the file.
    """

    model: str
    sha256: str
    machine: Machine
    precision: Precision
    threads: int
    instances: int
    max_batch_size: int
    max_queue_delay_ms: float
    buckets: tuple[int, ...]
    p99_ms: float
    goodput_per_s: float
    default_goodput_per_s: float
    date: str
    command: str
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Check what types cannot say; raises FieldError."""
        if self.format != FORMAT:
            raise FieldError(f"plan.format: expected {FORMAT}, got {self.format}")
        for name in ("threads", "instances", "max_batch_size"):
            value = getattr(self, name)
            if not 1 <= value <= _MOST:
                raise FieldError(f"plan.{name}: expected 1 or more, got {value}")
        if not 0 <= self.max_queue_delay_ms <= _MOST:
            raise FieldError(
                f"plan.max_queue_delay_ms: expected 0 or more, got {self.max_queue_delay_ms}"
            )
        if list(self.buckets) != sorted({b for b in self.buckets if 1 <= b <= self.max_batch_size}):
            raise FieldError(
                "plan.buckets: expected ascending sizes up to max_batch_size, got "
                f"{list(self.buckets)}"
            )

    def mismatch(self, artifact: ModelArtifact, machine: Machine) -> str | None:
        """Return why the plan does not count for a version here, None if it does."""
        file = artifact.file(self.precision)
        if self.model != artifact.reference or file is None or file.sha256 != self.sha256:
            return f"it was measured with other bytes than {artifact.reference} has here"
        for name in ("cpu", "cores", "workers", "device", "onnxruntime"):
            was, now = getattr(self.machine, name), getattr(machine, name)
            if was != now:
                return f"it was measured with {name} {was}, here it is {now}"
        return None


def read_plan(repository: ModelRepository, name: str, version: int) -> TunedPlan | None:
    """Read the plan of a version; None if it has none.

    Raises:
        ArtifactError: There is a file, and it cannot be read or is no plan.
    """
    path = repository.plan_path(name, version)
    try:
        return read_dataclass(TunedPlan, json.loads(path.read_bytes()), "plan")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(f"{path}: expected a plan, got {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path}: expected a plan, got {str(error).splitlines()[0]:.200}; tune the model again"
        ) from None


def write_plan(repository: ModelRepository, name: str, version: int, plan: TunedPlan) -> None:
    """Write the plan of a version, in place of the one that it had; whole or not at all."""
    text = json.dumps(dataclasses.asdict(plan), indent=2, ensure_ascii=False) + "\n"
    write_atomically(repository.plan_path(name, version), text)


def remove_plan(repository: ModelRepository, name: str, version: int) -> bool:
    """Remove the plan of a version; return whether it had one."""
    try:
        repository.plan_path(name, version).unlink()
    except FileNotFoundError:
        return False
    return True


def tell_plan(plan: TunedPlan) -> list[tuple[str, str]]:
    """Return what a plan says, as (title, text) pairs."""
    machine = plan.machine
    delay = f", waits {plan.max_queue_delay_ms:g} ms for company" if plan.max_queue_delay_ms else ""
    buckets = f", padded to {', '.join(map(str, plan.buckets))}" if plan.buckets else ""
    gain = (
        f" ({plan.goodput_per_s / plan.default_goodput_per_s - 1:+.0%} to the defaults)"
        if plan.default_goodput_per_s
        else ""
    )
    return [
        (
            "plan",
            f"{plan.precision}, {plan.instances} x {plan.threads} threads, batches up to "
            f"{plan.max_batch_size}{buckets}{delay}: {plan.goodput_per_s:.0f} requests/s within "
            f"{plan.p99_ms:g} ms{gain}",
        ),
        (
            "",
            f"tuned {plan.date} on {machine.cpu}, {machine.cores} cores, {machine.workers} "
            f"workers, {machine.device}, onnxruntime {machine.onnxruntime}",
        ),
    ]
