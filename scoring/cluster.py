"""The engine on Ray: the same rows from an actor pool, one session an actor, on any machines.

Sources are cut into tasks; a task is read, decoded and run in one actor, and its small results come
back in order. Ray repeats the tasks of a worker that died. Workers must be able to read the
sources: from a shared file system, or by URL. The model and this code are sent to them.
"""

import logging
import os
import pickle
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import ray.exceptions

from models.artifact import Precision
from models.machine import available_cpus
from models.repository import MODEL_JSON, ModelRepository
from scoring.engine import Position
from scoring.files import check_size, fetch_ahead
from scoring.local import LocalModel
from scoring.rows import ScoreError, Source
from scoring.stages import OutputOptions, Scored, Stages
from scoring.urls import Fetches
from service.errors import InferenceError

# Most rows of a task, a multiple of a chunk's: small enough that a lost task costs little, large
# enough that Ray's own milliseconds for a task do not count. An archive is one task, because its
# rows are not known before it is read; several archives (WebDataset's shards) are read in parallel.
TASK_ROWS = 1024
# Results on their way to the driver when Ray runs on this machine alone; Ray's minimum is 75 MiB.
_STORE_BYTES = 256 << 20
# The code that workers need. Named by path, because importing a package only to find its folder
# would load it; the rooms lie side by side in a checkout and when installed.
_HOME = Path(__file__).resolve().parent.parent
_CODE = tuple(str(_HOME / room) for room in ("models", "scoring", "service"))

Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Shipment:
    """All that an actor needs to load the model.

    Attributes:
        reference: ``name:version``.
        precision: Which of its files to run.
        files: Every file of the version, by path within the repository.
        output: What is written for each row.
        folder: The driver's working folder, the base of relative paths.
    """

    reference: str
    precision: Precision
    files: Files
    output: OutputOptions
    folder: str


class Scorer:
    """One actor: a session on one core, verified and self-tested like any other.

    Args:
        shipment: The model.
    """

    def __init__(self, shipment: Shipment) -> None:
        if Path(shipment.folder).is_dir():
            os.chdir(shipment.folder)
        with tempfile.TemporaryDirectory() as root:
            for path, content in shipment.files.items():
                file = Path(root) / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            repository = ModelRepository(Path(root))
            model = LocalModel.load(repository, shipment.reference, 1, shipment.precision)
        if model.file.precision != shipment.precision:  # it fell back: rows would not agree
            raise InferenceError(
                f"{shipment.reference}: expected its {shipment.precision} file to run on every "
                "machine of the cluster, got one where it does not; use --precision fp32"
            )
        self._stages = Stages(model, shipment.output)
        self._fetches = Fetches(check_size)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Score one task; yield its scored chunks, and the error as the last item if it fails."""
        for task in batch["task"]:
            number, source, start, stop = pickle.loads(task)
            try:
                for chunk in source.chunks(start, stop):
                    fetch_ahead(chunk, self._fetches)
                    yield _packed((number, self._stages(chunk)))
            except (ScoreError, InferenceError) as error:
                yield _packed(error)  # if raised here, Ray would wrap it and lose its class


class RayEngine:
    """Ray Data, on this machine's cores or on a cluster's.

    Args:
        repository: Holds the model.
        model: The model, as loaded here.
        output: What is written for each row.
        address: Running cluster (``auto``, ``host:port``, ``ray://…``); "" starts one here.
    """

    def __init__(
        self,
        repository: ModelRepository,
        model: LocalModel,
        output: OutputOptions,
        address: str = "",
    ) -> None:
        artifact = model.artifact
        folder = f"{artifact.name}/{artifact.version}"
        files = {
            f"{folder}/{path}": repository.read_file(artifact, path) for path in artifact.digests
        }
        files[f"{folder}/{MODEL_JSON}"] = artifact.to_json().encode()
        self._shipment = Shipment(
            artifact.reference, model.file.precision, files, output, str(Path.cwd())
        )
        self._address = address

    def __call__(
        self, sources: Sequence[Source], position: Position
    ) -> Generator[tuple[int, Scored]]:
        """Score all rows after a position, in order."""
        tasks = [{"task": pickle.dumps(task)} for task in _tasks(sources, position)]
        if not tasks:
            return
        try:
            with _connected(self._address) as actors:
                dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
                    Scorer,
                    batch_size=1,
                    compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
                    num_cpus=1,
                    fn_constructor_args=(self._shipment,),
                )
                for row in dataset.iter_rows():
                    scored = pickle.loads(row["scored"])
                    if isinstance(scored, Exception):
                        raise scored
                    yield scored
        except ray.exceptions.RayTaskError:
            raise  # our own bug, with its traceback
        except (ray.exceptions.RayError, ConnectionError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ScoreError(f"ray: expected a cluster that works, got: {lines[0]}") from error


def _packed(scored: tuple[int, Scored] | Exception) -> dict[str, Any]:
    """Return one row for Ray Data."""
    return {"scored": np.array([pickle.dumps(scored)], dtype=object)}


def _tasks(
    sources: Sequence[Source], position: Position
) -> Iterator[tuple[int, Source, int, int | None]]:
    """Yield (number of the source, a source, first row, last row + 1), in order."""
    first, done = position
    for number in range(first, len(sources)):
        source, start = sources[number], done if number == first else 0
        count = source.count()
        if count is None:
            yield number, source, start, None
        else:
            for begin in range(start, count, TASK_ROWS):
                end = min(begin + TASK_ROWS, count)
                yield number, source.cut(begin, end), begin, end


@contextmanager
def _connected(address: str) -> Iterator[int]:
    """Connect to a cluster, or start one for the time of the block; yield how many cores it has."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    # Failures are raised; at lower levels Ray prints internal warnings to the terminal.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    own: dict[str, Any] = (
        {}
        if address
        else {
            "num_cpus": available_cpus(),
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
        }
    )
    ray.init(
        address or "local",
        runtime_env={
            "py_modules": list(_CODE),
            "excludes": ["**/*.onnx", "**/*.png", "**/__pycache__"],
        },
        log_to_driver=False,
        logging_level=logging.ERROR,
        **own,
    )
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield max(1, int(resources.get("CPU", 1)))
    finally:
        ray.shutdown()
