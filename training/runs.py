"""A run folder: configuration, data and versions of a run, and its results.

``runs/<name>/run.json`` is written before training, to explain a failed run too, and
``evaluation.json`` after it; the weights are in ``checkpoints/``, the curves in ``metrics.csv``.
"""

import importlib.metadata
import json
import logging
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnxruntime

from export.figures import Evaluation
from models.files import write_atomically
from models.labels import distinct_names
from training.checkpoints import CHECKPOINT, LAST_CHECKPOINT
from training.config import TrainConfig
from training.datasets.sources import Dataset
from training.early import OF_A_FINISHED_RUN, check_free
from training.errors import ConfigError, RunError
from training.report.curves import METRICS_CSV

_LOG = logging.getLogger(__name__)

RUN_JSON, EVALUATION_JSON = OF_A_FINISHED_RUN

# Distributions whose version can change a weight or a node of the graph.
_DISTRIBUTIONS = ("torch", "pytorch-lightning", "numpy", "onnx", "onnxscript")


@dataclass(frozen=True, slots=True)
class Run:
    """The content of ``run.json``.

    Attributes:
        config: The whole configuration.
        command: The command line that repeats the run.
        dataset_sha256: Checksum of the data.
        versions: Distribution to version, Python included.
        git: Revision of the working tree, with ``-dirty`` if its code was changed, or
            ``unknown``.
        date: When the run started, ISO 8601 in UTC.
    """

    config: TrainConfig
    command: str
    dataset_sha256: str
    versions: dict[str, str]
    git: str
    date: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The content of ``evaluation.json``.

    Attributes:
        temperature: Fitted on the validation split.
        validation: Figures on the validation split, which chose the checkpoint and the temperature.
        test: Figures on the test split.
    """

    temperature: float
    validation: Evaluation
    test: Evaluation


def start_run(
    config: TrainConfig, dataset: Dataset, *, resume: bool = False, overwrite: bool = False
) -> Run:
    """Create the folder of a run and write ``run.json``, or resume the run in it.

    Args:
        config: Configuration of the run.
        dataset: Data of the run.
        resume: Keep the files of an interrupted run. The folder may be empty: a scheduler can
            repeat one command until the run is finished.
        overwrite: Throw away the run in the folder.

    Raises:
        RunError: The folder holds a run, and neither ``resume`` nor ``overwrite``; or ``resume``,
            and the run in it is finished or has another configuration.
    """
    if not overwrite:
        check_free(config.run, resume=resume)
    if resume and (config.run / RUN_JSON).exists():
        return _resume(config, dataset)
    for stale in (CHECKPOINT, LAST_CHECKPOINT, Path(METRICS_CSV), Path(EVALUATION_JSON)):
        (config.run / stale).unlink(missing_ok=True)
    run = Run(
        config=config,
        command=config.command(),
        dataset_sha256=dataset.sha256,
        versions=_versions(),
        git=_git_revision(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    config.run.mkdir(parents=True, exist_ok=True)
    _write(config.run / RUN_JSON, asdict(run) | {"config": config.to_json()})
    return run


def is_finished(config: TrainConfig) -> bool:
    """Return whether the folder holds this run, finished: there is nothing left to resume.

    Raises:
        RunError: The finished run in it has another configuration.
    """
    if not (config.run / EVALUATION_JSON).exists():
        return False
    _check_same(config, read_run(config.run)[0], None)
    return True


def write_outcome(folder: Path, outcome: Outcome, labels: Sequence[str]) -> None:
    """Write ``evaluation.json`` into a run folder; shares of classes stand by their names."""
    record = asdict(outcome)
    for split in ("validation", "test"):
        shares = record[split]["per_class"]
        record[split]["per_class"] = dict(zip(distinct_names(labels), shares, strict=True))
    _write(folder / EVALUATION_JSON, record)


def read_run(folder: Path) -> tuple[Run, Outcome]:
    """Read a finished run.

    The folder may have moved since: ``config.run`` is its current place.

    Raises:
        RunError: The folder holds no run, an unfinished run, or a run of another program.
    """
    record, outcome = _read(folder / RUN_JSON), _read(folder / EVALUATION_JSON)
    try:
        return _run(folder, record), Outcome(
            temperature=outcome["temperature"],
            validation=_evaluation(outcome["validation"]),
            test=_evaluation(outcome["test"]),
        )
    except (KeyError, TypeError, ConfigError) as error:
        raise RunError(f"{folder}: expected a run of foveal train, got {error}") from error


def _evaluation(figures: dict[str, Any]) -> Evaluation:
    per_class = figures["per_class"]
    if isinstance(per_class, dict):  # in the order of the labels
        per_class = list(per_class.values())
    return Evaluation(**(figures | {"per_class": tuple(per_class)}))


def _resume(config: TrainConfig, dataset: Dataset) -> Run:
    try:
        run = _run(config.run, _read(config.run / RUN_JSON))
    except (KeyError, TypeError, ConfigError) as error:
        raise RunError(f"{config.run}: expected a run of foveal train, got {error}") from error
    _check_same(config, run, dataset)
    if run.versions != (now := _versions()):
        _LOG.warning("%s: other versions than before (%s): weights may differ", config.run, now)
    return run


def _check_same(config: TrainConfig, run: Run, dataset: Dataset | None) -> None:
    """Raise RunError if a run has another configuration, or other data; None: not compared."""
    changes = [
        f"{name.replace('_', '-')} {before} (now {now})"
        for name in (field.name for field in fields(config))
        if (before := getattr(run.config, name)) != (now := getattr(config, name))
        and name != "data_dir"  # the checksum compares the data itself
    ]
    if dataset is not None and run.dataset_sha256 != dataset.sha256:
        changes.append(f"data {run.dataset_sha256[:12]}… (now {dataset.sha256[:12]}…)")
    if changes:
        raise RunError(
            f"{config.run}: expected the run to resume, got one with "
            f"{', '.join(changes)}; repeat its options, or start again without --resume"
        )


def _run(folder: Path, record: dict[str, Any]) -> Run:
    config = TrainConfig.from_json(record.pop("config") | {"run": str(folder)})
    return Run(config=config, **record)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: expected a finished run, got {error}; run foveal train to its end"
        ) from error
    if not isinstance(record, dict):
        raise RunError(f"{path}: expected an object, got {type(record).__name__}")
    return record


def _write(path: Path, record: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        versions[name] = importlib.metadata.version(name)
    # Not by the distribution: with a GPU that is onnxruntime-gpu.
    return versions | {"onnxruntime": onnxruntime.__version__}


def _git_revision() -> str:
    """Return the git revision of this folder and of ``models``, which training depends on.

    ``git describe --dirty`` would miss files that were never added.
    """
    here = Path(__file__).parent
    revision = _git(here, "rev-parse", "HEAD")
    changes = _git(here, "status", "--porcelain", "--", "*.py", "../models/*.py")
    if revision is None or changes is None:
        return "unknown"
    return f"{revision}-dirty" if changes else revision


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
