"""The settings that ``foveal tune`` chose for a version on one machine: a ``Tuning``.

It lies in ``<name>/plan-<version>.json``, beside the version's folder, which never changes, and is
copied with the models. It is valid only for the bytes and the machine that it was measured with.
Knows the file; not how a model runs or how a tuning is searched.
"""

import dataclasses
import json
from dataclasses import dataclass

from models.artifact import ArtifactError, ModelArtifact, Precision
from models.fields import FieldError, read_dataclass
from models.files import read_file, write_atomically
from models.machine import Machine
from models.repository import ModelRepository

FORMAT = 1
_MOST = 1 << 20  # of any whole number in the file: more is a mistake


@dataclass(frozen=True, slots=True)
class Tuning:
    """The best settings for a version on one machine, and the gain that was measured.

    Attributes:
        model: ``name:version``.
        sha256: Checksum of the file that runs.
        machine: Machine that it was measured on.
        precision: Precision of that file.
        threads: Threads of one run.
        instances: Runs at once.
        max_batch_size: Rows one run gets at most.
        max_queue_delay_ms: Longest wait for company while a runner is free.
        buckets: Batch sizes that runs are padded to, ascending; empty: none.
        p99_ms: Goal: 99 % of the answers within this time, ms.
        goodput_per_s: Requests a second that met it.
        default_goodput_per_s: The same under the default settings.
        date: Time of the measurement, ISO 8601.
        command: Command that repeats it.
        format: Version of the file format.
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
        """Check ranges; raises FieldError."""
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
        """Return why this is not valid for a version here, None if it is."""
        file = artifact.file(self.precision)
        if self.model != artifact.reference or file is None or file.sha256 != self.sha256:
            return f"it was measured with other bytes than {artifact.reference} has here"
        for name in ("cpu", "cores", "workers", "device", "onnxruntime"):
            was, now = getattr(self.machine, name), getattr(machine, name)
            if was != now:
                return f"it was measured with {name} {was}, here it is {now}"
        return None


def read_tuning(repository: ModelRepository, name: str, version: int) -> Tuning | None:
    """Read the tuning of a version; None if it has none.

    Raises:
        ArtifactError: The file cannot be read, or breaks the format.
    """
    path = repository.plan_path(name, version)
    try:
        return read_dataclass(Tuning, json.loads(read_file(path)), "plan")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(f"{path}: expected a plan, got {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path}: expected a plan, got {str(error).splitlines()[0]:.200}; tune the model again"
        ) from None


def write_tuning(repository: ModelRepository, name: str, version: int, tuning: Tuning) -> None:
    """Write or replace the tuning of a version, atomically."""
    text = json.dumps(dataclasses.asdict(tuning), indent=2, ensure_ascii=False) + "\n"
    write_atomically(repository.plan_path(name, version), text)


def remove_tuning(repository: ModelRepository, name: str, version: int) -> bool:
    """Remove the tuning of a version; return whether it had one."""
    try:
        repository.plan_path(name, version).unlink()
    except FileNotFoundError:
        return False
    return True


def describe_tuning(tuning: Tuning) -> list[tuple[str, str]]:
    """Return a tuning as (title, text) pairs for a terminal."""
    machine = tuning.machine
    delay = (
        f", waits {tuning.max_queue_delay_ms:g} ms for company" if tuning.max_queue_delay_ms else ""
    )
    buckets = f", padded to {', '.join(map(str, tuning.buckets))}" if tuning.buckets else ""
    gain = (
        f" ({tuning.goodput_per_s / tuning.default_goodput_per_s - 1:+.0%} to the defaults)"
        if tuning.default_goodput_per_s
        else ""
    )
    return [
        (
            "plan",
            f"{tuning.precision}, {tuning.instances} x {tuning.threads} threads, batches up to "
            f"{tuning.max_batch_size}{buckets}{delay}: {tuning.goodput_per_s:.0f} requests/s "
            f"within {tuning.p99_ms:g} ms{gain}",
        ),
        (
            "",
            f"tuned {tuning.date} on {machine.cpu}, {machine.cores} cores, {machine.workers} "
            f"workers, {machine.device}, onnxruntime {machine.onnxruntime}",
        ),
    ]
