"""What a start measured about a version on this machine, kept for the next start.

It lies in ``<name>/measured-<version>.json`` beside the version's folder, or, where that cannot be
written, in the user's cache folder by the digest of the file. It is valid only for the same bytes,
machine and settings; whatever is wrong with the file, the version is measured again. Unlike a
``Tuning`` nobody asked for it, and it changes no setting.
"""

import contextlib
import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.artifact import ModelArtifact, Precision
from models.fields import FieldError, read_dataclass
from models.files import read_file, write_atomically
from models.machine import Machine
from models.repository import ModelRepository

logger = logging.getLogger("foveal.measured")

FORMAT = 1
_MOST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Measurement:
    """How a version runs best on a machine, as far as a start measures it.

    Attributes:
        sha256: Checksum of the fp32 file.
        machine: Machine that it was measured on.
        asked: What the plan was chosen from, as one line of text.
        precision: Precision of the file that was chosen.
        threads: Threads of one run, at least 1.
        full_batch_s: Seconds of a full batch, above 0.
        tf32: Whether float32 products are rounded to TF32, on a GPU.
        layout: Order of the tensors inside the graph, on a GPU.
        buckets: Batch sizes that are run, on a GPU.
        format: Version of the file format.
    """

    sha256: str
    machine: Machine
    asked: str
    precision: Precision
    threads: int
    full_batch_s: float
    tf32: bool = False
    layout: Literal["nchw", "nhwc"] = "nchw"
    buckets: tuple[int, ...] = ()
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Check ranges; raises FieldError."""
        buckets_are_right = [*self.buckets] == sorted({max(1, rows) for rows in self.buckets})
        numbers = self.threads > 0 and 0 < self.full_batch_s < 1e6 and buckets_are_right
        if self.format != FORMAT or not numbers:
            raise FieldError(f"measurement: expected format {FORMAT} and positive numbers")


def read_measurement(
    repository: ModelRepository, artifact: ModelArtifact, machine: Machine, asked: str
) -> Measurement | None:
    """Read what was measured about a version on this machine; None if nothing valid is kept."""
    for path in _paths(repository, artifact):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            document = json.loads(read_file(path, _MOST_BYTES))
            found = read_dataclass(Measurement, document, "measurement")
            if (found.sha256, found.machine, found.asked) == (
                artifact.fp32.sha256,
                machine,
                asked,
            ):
                return found
    return None


def write_measurement(
    repository: ModelRepository, artifact: ModelArtifact, measurement: Measurement
) -> Path | None:
    """Keep a measurement in the first place that can be written; return it, None if there is none.

    Failing to keep it is no error: the next start measures again.
    """
    text = json.dumps(dataclasses.asdict(measurement), indent=2, ensure_ascii=False) + "\n"
    for path in _paths(repository, artifact):
        try:
            if path.parent.name == "measured":
                path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
        except OSError as error:
            logger.debug("%s: not written: %s", path, error)
            continue
        return path
    return None


def _paths(repository: ModelRepository, artifact: ModelArtifact) -> list[Path]:
    paths = [repository.measured_path(artifact.name, artifact.version)]
    with contextlib.suppress(RuntimeError):  # no home
        paths.append(Path.home() / f".cache/foveal/measured/{artifact.fp32.sha256}.json")
    return paths
