"""The two steps of the offline half, as the command line calls them.

``train``: dataset -> augment -> fit -> evaluate, writes a run folder.
``export``: graph -> prove -> publish, turns a run folder into a version of a model.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from export.calibrate import fit_temperature
from export.figures import evaluate, softmax
from export.precision import MAX_ACCURACY_DROP, PRECISIONS
from export.serving import MAX_DROP
from models.artifact import ModelArtifact
from models.repository import ModelRepository
from training.config import TrainConfig
from training.data_config import chosen_size
from training.datasets.encoded import Reading
from training.datasets.listing import Columns
from training.datasets.sources import Dataset, load_dataset
from training.datasets.splits import describe_imbalance
from training.devices import is_first_process
from training.divergence import check_answers
from training.early import check_free
from training.errors import ConfigError, RunError
from training.evaluate import compute_logits
from training.fit import fit
from training.graph import ServedNetwork
from training.initial import load_checkpoint
from training.loggers import LoggerName
from training.networks import ImageNetwork, multiply_adds
from training.pretrained import own_image
from training.publish import Wishes, publish
from training.report.run_page import write_report
from training.runs import (
    Outcome,
    Run,
    is_finished,
    read_run,
    start_run,
    write_outcome,
)

_LOG = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    *,
    show_progress: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    logger: LoggerName = "tensorboard",
) -> Path:
    """Train a network and measure it, once, on the test split.

    With several devices every process calls this; all but the first end here by SystemExit after
    the fit.

    Args:
        config: Configuration of the run, see ``recipes.resolve``.
        show_progress: Whether to draw a progress bar on stderr.
        resume: Continue an interrupted run of the same configuration, if there is one; a finished
            one stays as it is.
        overwrite: Throw away the run in the folder, once the data has been read.
        logger: Where the figures of each epoch also go.

    Returns:
        The run folder, ``config.run``, ready for ``export``.

    Raises:
        ConfigError: A name or number in the configuration is wrong.
        DatasetError: The data is missing or damaged.
        RunError: The run folder holds a run, or one of another configuration; or the run diverges.
    """
    if resume and is_finished(config):
        _LOG.info("%s: finished already", config.run)
        return config.run
    if not overwrite:
        check_free(config.run, resume=resume)  # before hours of decoding
    dataset = load_data(config)
    imbalance = describe_imbalance(dataset.labels, dataset.train.targets_N)
    if imbalance and is_first_process():
        hint = "" if config.class_weights != "none" else "; see --class-weights"
        _LOG.info("classes are unbalanced: %s%s", imbalance, hint)
    run = None
    if is_first_process():
        run = start_run(config, dataset, resume=resume, overwrite=overwrite)
    network = fit(config, dataset, show_progress=show_progress, resume=resume, logger=logger)
    if run is None:
        sys.exit()
    finish(run, dataset, network)
    return config.run


def finish(run: Run, dataset: Dataset, network: ImageNetwork) -> None:
    """Measure a fitted network and write the results into the run folder.

    Args:
        run: The run.
        dataset: Its data; the test split is read here, once.
        network: The network with the weights that the run keeps.
    """
    config = run.config
    outcome, test_NK = measure(config, network, dataset)
    write_report(run, outcome, dataset, network, test_NK)
    write_outcome(config.run, outcome, dataset.labels)
    _LOG.info(
        "%s on %s: %d parameters, %d multiply-adds per image, test accuracy %.4f, "
        "balanced %.4f, calibration error %.4f, temperature %.3f",
        config.network,
        dataset.name,
        sum(parameter.numel() for parameter in network.parameters()),
        multiply_adds(network.network, dataset.image_shape),
        outcome.test.accuracy,
        outcome.test.balanced_accuracy,
        outcome.test.calibration_error,
        outcome.temperature,
    )


def export(  # noqa: PLR0913 - what the command line asks
    run: Path,
    name: str,
    repository: ModelRepository,
    precisions: Sequence[str] = ("fp32",),
    *,
    max_accuracy_drop: float = MAX_ACCURACY_DROP,
    abstain_precision: float | None = None,
    max_drop: float | None = MAX_DROP,
    embedding: bool = False,
) -> ModelArtifact:
    """Export the weights of a run, prove the graph, and publish it as the next version.

    Args:
        run: Folder that ``train`` finished.
        name: Name of the model.
        repository: Where to publish.
        precisions: Files to write; ``fp32`` is always written.
        max_accuracy_drop: Accuracy that a file of lower precision may lose, as a share.
        abstain_precision: Wanted share of right labels among the answers, see ``export.abstain``;
            None: the model always answers.
        max_drop: Accuracy that it may lose against the serving version, as a share; None: any.
        embedding: Whether the graph gives the input of its last layer, too.

    Returns:
        The published artifact.

    Raises:
        RunError: The run is unfinished, or its data has changed since.
        ConfigError: A precision does not exist.
        ExportError: The network has no layer for a lower precision, no threshold is as precise as
            asked, or the serving version is better or cannot be compared.
        ParityError: onnxruntime does not answer as torch does.
        GateError: A file of lower precision loses more than it may.
        ArtifactError: The repository refuses the name or the files.
    """
    unknown = sorted(set(precisions) - set(PRECISIONS))
    if unknown or not precisions:
        raise ConfigError(
            f"precision: expected {', '.join(PRECISIONS)}, got {', '.join(unknown) or 'none'}"
        )
    record, outcome = read_run(run)
    dataset = load_data(record.config)
    if dataset.sha256 != record.dataset_sha256:
        raise RunError(
            f"{run}: expected data with sha256 {record.dataset_sha256[:12]}…, "
            f"got {dataset.sha256[:12]}…; train again on this data"
        )
    network = load_checkpoint(record.config, dataset)
    served = ServedNetwork(network, outcome.temperature, has_embedding=embedding)
    lower = tuple(p for p in PRECISIONS if p in precisions and p != "fp32")
    wishes = Wishes(lower, max_accuracy_drop, abstain_precision, max_drop)
    return publish(repository, name, served, dataset, record, outcome, wishes=wishes)


def measure(config: TrainConfig, network: ImageNetwork, dataset: Dataset) -> tuple[Outcome, Tensor]:
    """Fit the temperature on the validation split, then measure validation and test.

    Returns:
        The figures, and the logits on the test split, float32 [N, K].

    Raises:
        RunError: All answers are the same.
    """
    validation, test = dataset.validation, dataset.test
    validation_NK, test_NK = (compute_logits(network, split) for split in (validation, test))
    answers_N = torch.cat((validation_NK, test_NK)).argmax(dim=1).numpy()
    check_answers(config, answers_N, dataset.labels)
    temperature = fit_temperature(validation_NK.numpy(), validation.targets_N)
    outcome = Outcome(
        temperature,
        evaluate(softmax(validation_NK.numpy() / temperature), validation.targets_N),
        evaluate(softmax(test_NK.numpy() / temperature), test.targets_N),
    )
    return outcome, test_NK


def load_data(config: TrainConfig) -> Dataset:
    """Load the dataset of a run, as its network takes the pixels.

    Raises:
        ConfigError: A name does not exist.
        DatasetError: The data is missing or damaged.
    """
    return load_dataset(
        config.dataset,
        config.data_dir,
        validation=config.validation,
        split_seed=config.split_seed,
        positive=config.positive,
        reading=Reading(
            chosen_size(config),
            config.grey,
            config.resize,
            config.skip_unreadable,
            config.run,
            own=own_image(config),
            columns=Columns(config.image_column or "", config.label_column or ""),
        ),
    )
