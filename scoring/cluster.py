"""The engine on Ray: the same rows from an actor pool, one session an actor, on any machines.

Sources are cut into tasks; a task is read, decoded and run in one actor, and what comes back is in
order and small. Ray repeats the tasks of a worker that died. Sources have to be where the workers
are: on a shared file system, or behind URLs. The model and this code are sent along.
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

import models
import service
from models.artifact import Precision
from models.machine import available_cpus
from models.repository import MODEL_JSON, ModelRepository
from scoring.job import Position
from scoring.local import LocalModel
from scoring.rows import ScoreError, Source
from scoring.stages import Answers, Scored, Stages
from service.errors import InferenceError

# Rows of a task at most, a multiple of a chunk's: small enough that a lost task costs little, large
# enough that Ray's own milliseconds a task do not count. An archive is one task, as its rows are
# not known before it is read: several archives, as WebDataset's shards, are read side by side.
TASK_ROWS = 1024
# What is on its way to the driver at once on a machine of its own; Ray's least is 75 MiB.
_STORE_BYTES = 256 << 20

Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Shipment:
    """What an actor needs to be a model.

    Attributes:
        reference: ``name:version``.
        precision: Which of its files runs.
        files: All files of the version, by path within the repository.
        answers: What is wanted of it.
        folder: The driver's working folder, where relative paths begin.
    """

    reference: str
    precision: Precision
    files: Files
    answers: Answers
    folder: str


class Scorer:
    """One actor: a session on one core, verified and self-tested like any other.

    Args:
        sent: The model.
    """

    def __init__(self, sent: Shipment) -> None:
        if Path(sent.folder).is_dir():
            os.chdir(sent.folder)
        with tempfile.TemporaryDirectory() as root:
            for path, content in sent.files.items():
                file = Path(root) / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            repository = ModelRepository(Path(root))
            model = LocalModel.load(repository, sent.reference, 1, sent.precision)
        if model.file.precision != sent.precision:  # it fell back: other rows would be answered so
            raise InferenceError(
                f"{sent.reference}: expected its {sent.precision} file to run on every machine of "
                "the cluster, got one where it does not; use --precision fp32"
            )
        self._stages = Stages(model, sent.answers)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Score one task; give the answers a chunk at a time, or at the end what went wrong."""
        for task in batch["task"]:
            number, source, start, stop = pickle.loads(task)
            try:
                for chunk in source.chunks(start, stop):
                    yield _packed((number, self._stages(chunk)))
            except (ScoreError, InferenceError) as error:
                yield _packed(error)  # raised here, it would come out as Ray's, without its class


class RayEngine:
    """Ray Data, on this machine's cores or on a cluster's.

    Args:
        repository: Where the model lies.
        model: Who answers, as loaded here.
        answers: What is wanted of it.
        address: Of a running cluster (``auto``, ``host:port``, ``ray://…``); "": one of its own.
    """

    def __init__(
        self, repository: ModelRepository, model: LocalModel, answers: Answers, address: str = ""
    ) -> None:
        artifact = model.artifact
        folder = f"{artifact.name}/{artifact.version}"
        files = {
            f"{folder}/{path}": repository.read_file(artifact, path) for path in artifact.digests
        }
        files[f"{folder}/{MODEL_JSON}"] = artifact.to_json().encode()
        self._shipment = Shipment(
            artifact.reference, model.file.precision, files, answers, str(Path.cwd())
        )
        self._address = address

    def __call__(
        self, sources: Sequence[Source], position: Position
    ) -> Generator[tuple[int, Scored]]:
        """Score all rows from a position on, in order."""
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
                    answered = pickle.loads(row["answers"])
                    if isinstance(answered, Exception):
                        raise answered
                    yield answered
        except ray.exceptions.RayTaskError:
            raise  # our own bug, with its traceback
        except (ray.exceptions.RayError, ConnectionError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise ScoreError(f"ray: expected a cluster that works, got: {said[0]}") from error


def _packed(answered: tuple[int, Scored] | Exception) -> dict[str, Any]:
    """Return one row for Ray Data."""
    return {"answers": np.array([pickle.dumps(answered)], dtype=object)}


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
    """Connect to a cluster, or start one for as long as the block takes; give its cores."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing phones home
    # What fails is raised; at lower levels Ray warns the terminal of its own inner workings.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    code = [str(Path(package.__path__[0])) for package in (models, service)]
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
        runtime_env={"py_modules": code, "excludes": ["**/*.onnx", "**/*.png", "**/__pycache__"]},
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
