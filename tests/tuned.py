"""A tuning of a tiny model on this machine."""

from models.artifact import ModelArtifact, Precision
from models.machine import Machine
from models.tuned import Tuning
from service.session.machine import this_machine


def tuning_for(
    artifact: ModelArtifact, machine: Machine | None = None, precision: Precision = "fp32"
) -> Tuning:
    """Return a tuning that differs from all defaults."""
    file = artifact.file(precision)
    assert file is not None
    return Tuning(
        model=artifact.reference,
        sha256=file.sha256,
        machine=machine or this_machine(workers=1),
        precision=precision,
        threads=1,
        instances=2,
        max_batch_size=7,
        max_queue_delay_ms=1.5,
        buckets=(),
        p99_ms=20.0,
        goodput_per_s=1500.0,
        default_goodput_per_s=1000.0,
        date="2026-11-21T12:00:00+00:00",
        command="foveal tune tiny --p99-ms 20",
    )
