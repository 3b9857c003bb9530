"""Search for options: Optuna proposes them, each trial is a run, the best one is measured.

    RUN/sweep.log       Optuna's journal: a killed sweep goes on from it
    RUN/sweep.csv       a row for each trial
    RUN/trials/003/     the run of a trial; only the best one's checkpoints are kept
    RUN/                the best run, as ``foveal train`` would have left it

Trials are compared on the validation split; the test split is read once, by the best run.
"""

import csv
import dataclasses
import importlib
import io
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from models.files import write_atomically
from models.installation import how_to_add
from training.batches import mix_seed
from training.config import TrainConfig
from training.datasets.sources import Dataset
from training.early import check_free
from training.errors import ConfigError, RunError, TrainingError
from training.fit import fit
from training.initial import load_checkpoint
from training.pipeline import finish, load_data
from training.report.curves import METRICS_CSV, kept_epoch, read_curves
from training.runs import EVALUATION_JSON, start_run
from training.search import Choice, Range, Space

_LOG = logging.getLogger(__name__)

JOURNAL = "sweep.log"
TABLE = "sweep.csv"
_TRIALS = "trials"
# Trials that end before any is pruned: a median needs a few.
_FIRST_TRIALS = 4


def sweep(
    config: TrainConfig,
    space: Space,
    trials: int,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Try options, and leave the best run.

    Args:
        config: All other options; its run is the folder of the sweep.
        space: What is tried.
        trials: How many trials there are in the end, those of earlier calls counted in.
        resume: Go on with the sweep in the folder, if there is one.
        overwrite: Throw away the sweep in the folder, once the data has been read.

    Returns:
        The folder, a finished run.

    Raises:
        ConfigError: Optuna is missing, or the run has several devices.
        DatasetError: The data is missing or damaged.
        RunError: The folder holds another sweep, or no trial ended.
    """
    optuna = _optuna()
    if config.devices * config.nodes > 1:
        raise ConfigError(
            f"sweep: expected one device, got {config.nodes} x {config.devices}; a sweep runs one "
            "trial at a time"
        )
    if (config.run / JOURNAL).exists() and not resume and not overwrite:
        raise RunError(
            f"{config.run}: expected a new folder, got a sweep; go on with --resume, choose "
            "another with --run, or throw it away with --overwrite"
        )
    if not resume and not overwrite:
        check_free(config.run)
    dataset = load_data(config)
    if overwrite:
        (config.run / JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(config.run / _TRIALS, ignore_errors=True)
    study = _open(optuna, config, space, dataset)
    left = trials - len(_ended(study))
    if left > 0:
        (config.run / EVALUATION_JSON).unlink(missing_ok=True)
        objective = _Objective(optuna, study, config, space, dataset, trials)
        study.optimize(objective, n_trials=left, catch=(TrainingError,), callbacks=[objective.note])
    if not any(trial.state.name == "COMPLETE" for trial in study.trials):
        why = next((t.user_attrs["error"] for t in study.trials if "error" in t.user_attrs), "")
        raise RunError(f"{config.run}: expected one trial to end, got none; {why}")
    if not (config.run / EVALUATION_JSON).exists():
        _finish_best(study, config, dataset)
    return config.run


class _Objective:
    """One trial: a run with the options that Optuna proposes; its score is what it keeps."""

    def __init__(
        self,
        optuna: Any,
        study: Any,
        config: TrainConfig,
        space: Space,
        dataset: Dataset,
        trials: int,
    ):
        self._optuna, self._study, self._trials = optuna, study, trials
        self._config, self._space, self._dataset = config, space, dataset

    def __call__(self, trial: Any) -> float:
        """Fit the run of a trial and return its validation accuracy."""
        values = {name: _propose(trial, name, tried) for name, tried in self._space.items()}
        run = _folder(self._config, trial.number)

        def watch(epoch: int, accuracy: float) -> None:
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise self._optuna.TrialPruned

        try:
            config = dataclasses.replace(self._config, run=run, **values)
            start_run(config, self._dataset, overwrite=True)
            fit(config, self._dataset, show_progress=False, watch=watch)
        except TrainingError as error:
            trial.set_user_attr("error", str(error))
            raise
        epochs = read_curves(run)
        return float(kept_epoch(epochs, config.keep).validation_accuracy)

    def note(self, study: Any, trial: Any) -> None:
        """Log a trial that has ended, and keep only the best one's checkpoints."""
        completed = [t for t in study.trials if t.state.name == "COMPLETE"]
        best = study.best_trial.number if completed else None
        for other in study.trials:
            if other.number != best and other.state.is_finished():
                folder = _folder(self._config, other.number) / "checkpoints"
                shutil.rmtree(folder, ignore_errors=True)
        _write_table(self._config, study, self._space)
        words = ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in trial.params.items()
        )
        if trial.state.name == "COMPLETE":
            result = f"validation {trial.value:.4f}"
        elif trial.state.name == "PRUNED":
            result = f"stopped after epoch {len(trial.intermediate_values)}"
        else:
            result = trial.user_attrs.get("error", "failed")
        mark = " (best)" if trial.number == best else ""
        _LOG.info("trial %d of %d: %s: %s%s", len(_ended(study)), self._trials, words, result, mark)


def _optuna() -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ModuleNotFoundError as error:
        raise ConfigError(f"sweep: expected Optuna, got none; {how_to_add('sweep')}") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _open(optuna: Any, config: TrainConfig, space: Space, dataset: Dataset) -> Any:
    """Open the study in the folder, or begin one; trials that were killed are tried again.

    Raises:
        RunError: The folder holds a sweep of other options or data.
    """
    config.run.mkdir(parents=True, exist_ok=True)
    journal = importlib.import_module("optuna.storages.journal")
    storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(config.run / JOURNAL)))
    study = optuna.create_study(
        storage=storage,
        study_name="sweep",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=_FIRST_TRIALS, n_warmup_steps=config.epochs // 5
        ),
    )
    study.sampler = optuna.samplers.TPESampler(seed=mix_seed(config.seed, len(study.trials)))
    same = {
        "space": {name: dataclasses.asdict(tried) for name, tried in space.items()},
        "config": config.to_json() | {"run": "", "data_dir": None},
        "data": dataset.sha256,
    }
    same = json.loads(json.dumps(same))
    before = study.user_attrs or same
    changed = [name for name in same if before.get(name) != same[name]]
    if changed:
        raise RunError(
            f"{config.run}: expected the sweep to resume, got one with other "
            f"{' and '.join(changed)}; repeat its options, or choose another folder with --run"
        )
    for name, value in same.items():
        study.set_user_attr(name, value)
    for trial in study.trials:
        if trial.state.name == "RUNNING":
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)
    return study


def _propose(trial: Any, name: str, tried: Range | Choice) -> Any:
    if isinstance(tried, Choice):
        return trial.suggest_categorical(name, tried.values)
    suggest = trial.suggest_int if isinstance(tried.low, int) else trial.suggest_float
    return suggest(name, tried.low, tried.high, log=tried.is_log)


def _ended(study: Any) -> list[Any]:
    """Return the trials that count: not those that a kill has ended."""
    return [
        trial
        for trial in study.trials
        if trial.state.name in ("COMPLETE", "PRUNED") or "error" in trial.user_attrs
    ]


def _folder(config: TrainConfig, number: int) -> Path:
    return config.run / _TRIALS / f"{number:03}"


def _write_table(config: TrainConfig, study: Any, space: Space) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("trial", "state", "validation_accuracy", "epochs", *space))
    for trial in study.trials:
        values = [trial.params.get(name, "") for name in space]
        score = "" if trial.value is None else trial.value
        state = trial.state.name.lower()
        table.writerow((trial.number, state, score, len(trial.intermediate_values), *values))
    write_atomically(config.run / TABLE, text.getvalue())


def _finish_best(study: Any, config: TrainConfig, dataset: Dataset) -> None:
    """Make the best trial's run the run of the folder, and measure it on the test split."""
    best = study.best_trial
    config = dataclasses.replace(config, **best.params)
    source = _folder(config, best.number)
    run = start_run(config, dataset, overwrite=True)
    shutil.copytree(source / "checkpoints", config.run / "checkpoints", dirs_exist_ok=True)
    shutil.copy(source / METRICS_CSV, config.run / METRICS_CSV)
    finish(run, dataset, load_checkpoint(config, dataset))
