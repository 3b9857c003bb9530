"""The report of a run: one self-contained HTML page, and each plot as a PNG.

``report.html`` embeds its pictures, so it can be mailed or archived; ``report/`` has them as files.
The plots come from the run folder and from the logits of the test split.
Legend: N rows, K classes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from numpy.typing import NDArray
from torch import Tensor

from export.figures import count_confusions, reliability
from models.labels import distinct_names
from report.page import Picture, Table, render, write_pictures
from report.plots import drawable_names
from training.datasets.sources import Dataset
from training.networks import ImageNetwork, multiply_adds
from training.report.curves import kept_epoch, read_curves
from training.report.plots import (
    plot_confusion,
    plot_curves,
    plot_filters,
    plot_learning_rate,
    plot_mistakes,
    plot_reliability,
)
from training.report.words import (
    confusion_words,
    curve_words,
    learning_rate_words,
    reliability_words,
)
from training.runs import Outcome, Run

REPORT_HTML = "report.html"
REPORT_FOLDER = "report"

_TEMPLATE = Path(__file__).with_name("run.html")
_MISTAKES = 32


def write_report(
    run: Run, outcome: Outcome, dataset: Dataset, network: ImageNetwork, test_NK: Tensor
) -> Path:
    """Write ``report.html`` and ``report/*.png`` into the folder of a run.

    Args:
        run: Content of ``run.json``.
        outcome: Content of ``evaluation.json``.
        dataset: Dataset of the run; the test split is shown.
        network: The network with the measured weights.
        test_NK: float32 [N, K], its logits on the test split.

    Returns:
        The path of the page.
    """
    folder = run.config.run / REPORT_FOLDER
    folder.mkdir(exist_ok=True)
    predictions_N = test_NK.argmax(dim=1).numpy()
    confusion_KK = count_confusions(predictions_N, dataset.test.targets_N, len(dataset.labels))
    with rc_context({"text.parse_math": False}):  # a label may contain a dollar sign
        pictures = _pictures(run, outcome, dataset, network, test_NK, confusion_KK)
    write_pictures(folder, pictures)
    versions = [*run.versions.items(), ("git", run.git), ("data, sha256", run.dataset_sha256)]
    text = render(
        _TEMPLATE,
        title=f"{run.config.network} on {dataset.name}",
        about=f"{run.config.run.name}, started {run.date}",
        summary=_summary(outcome, dataset, network),
        pictures=pictures,
        classes=_class_table(confusion_KK, distinct_names(dataset.labels)),
        command=run.command,
        options=Table(("option", "value"), sorted(_words(run.config.to_json()))),
        versions=Table(("component", "version"), versions),
    )
    path = run.config.run / REPORT_HTML
    path.write_text(text, encoding="utf-8")
    return path


def worst_mistakes(
    probabilities_NK: NDArray[np.float32], targets_N: NDArray[np.int64]
) -> list[int]:
    """Return the wrong rows, the least probability of the right label first; at most 32."""
    wrong = np.flatnonzero(probabilities_NK.argmax(axis=1) != targets_N)
    order = np.argsort(probabilities_NK[wrong, targets_N[wrong]], kind="stable")
    return [int(row) for row in wrong[order][:_MISTAKES]]


def _pictures(
    run: Run,
    outcome: Outcome,
    dataset: Dataset,
    network: ImageNetwork,
    test_NK: Tensor,
    confusion_KK: NDArray[np.int64],
) -> list[Picture]:
    names = distinct_names(dataset.labels)
    test = dataset.test
    raw_NK, scaled_NK = (
        torch.softmax(test_NK / temperature, dim=1).numpy()
        for temperature in (1.0, outcome.temperature)
    )
    is_right_N = scaled_NK.argmax(axis=1) == test.targets_N
    before, after = (reliability(p_NK.max(axis=1), is_right_N) for p_NK in (raw_NK, scaled_NK))
    return [
        *_curves(run),
        Picture(
            "confusion",
            "Confusion matrix",
            "Rows are the true labels, columns the predicted ones. A number, as #12, stands for a "
            "class whose name a picture cannot show; the table below has it.",
            plot_confusion(confusion_KK, names),
            confusion_words(confusion_KK, names),
        ),
        Picture(
            "reliability",
            "Reliability",
            "Of the images with a confidence of 80 %, 80 % should be right: bars should end "
            "on the dashed line. The temperature was fitted on the validation split; this "
            "is the test split.",
            plot_reliability(before, after, outcome.temperature),
            reliability_words(before.error, after.error, outcome.temperature),
        ),
        _mistakes(dataset, scaled_NK, int((~is_right_N).sum())),
        Picture(
            "filters",
            "First-layer filters",
            "Weights of the first layer, up to 64 of them; red is positive, blue negative "
            "(of RGB images: in their colours, grey is zero).",
            plot_filters(network),
            f"Weights of the first layer of {run.config.network}.",
        ),
    ]


def _curves(run: Run) -> list[Picture]:
    epochs = read_curves(run.config.run)
    kept = kept_epoch(epochs, run.config.keep)
    return [
        Picture(
            "curves",
            "Loss and accuracy",
            "Training is measured on augmented images while the weights still change, "
            "validation on plain ones after the epoch, so validation can be "
            "better. The dotted line marks the epoch whose weights were kept.",
            plot_curves(epochs, kept),
            curve_words(epochs, kept),
        ),
        Picture(
            "learning_rate",
            "Learning rate",
            "",
            plot_learning_rate(epochs),
            learning_rate_words(epochs),
        ),
    ]


def _mistakes(dataset: Dataset, probabilities_NK: NDArray[np.float32], wrong: int) -> Picture:
    targets_N = dataset.test.targets_N
    mistakes = worst_mistakes(probabilities_NK, targets_N)
    names = drawable_names(distinct_names(dataset.labels))
    captions = [
        f"{names[int(probabilities_NK[row].argmax())]} {probabilities_NK[row].max():.0%}\n"
        f"is {names[targets_N[row]]} {probabilities_NK[row, targets_N[row]]:.0%}"
        for row in mistakes
    ]
    return Picture(
        "mistakes",
        f"The worst {len(mistakes)} of {wrong} mistakes",
        "The predicted and the true label with their probabilities; the lowest probability of "
        "the true label comes first.",
        plot_mistakes(dataset.test, mistakes, captions) if mistakes else None,
        f"{len(mistakes)} images; the first ones: "
        + "; ".join(caption.replace("\n", ", ") for caption in captions[:3])
        + ".",
    )


def _summary(outcome: Outcome, dataset: Dataset, network: ImageNetwork) -> dict[str, str]:
    return {
        "test accuracy": f"{outcome.test.accuracy:.2%}",
        "balanced: mean of the classes": f"{outcome.test.balanced_accuracy:.2%}",
        "validation accuracy": f"{outcome.validation.accuracy:.2%}",
        "calibration error": f"{outcome.test.calibration_error:.4f}",
        "parameters": f"{sum(p.numel() for p in network.parameters()):,}",
        "multiply-adds per image": f"{multiply_adds(network.network, dataset.image_shape):,}",
        "images: train, validation, test": f"{len(dataset.train):,}, "
        f"{len(dataset.validation):,}, {len(dataset.test):,}",
    }


def _class_table(confusion_KK: NDArray[np.int64], labels: Sequence[str]) -> Table:
    """Return a table of recall, precision and F1 of each class, the lowest recall first."""
    right_K = np.diag(confusion_KK)
    images_K, predicted_K = confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    recall_K, precision_K = (right_K / np.maximum(total, 1) for total in (images_K, predicted_K))
    f1_K = 2 * right_K / np.maximum(images_K + predicted_K, 1)
    rows = []
    for index in np.argsort(recall_K, kind="stable"):
        others = confusion_KK[index].copy()
        others[index] = 0
        taken_for = f"{labels[others.argmax()]} ({others.max()})" if others.any() else "none"
        shares = (f"{float(value[index]):.2%}" for value in (recall_K, precision_K, f1_K))
        rows.append((str(index), labels[index], f"{images_K[index]:,}", *shares, taken_for))
    names = ("#", "class", "images", "recall", "precision", "F1", "most often predicted as")
    return Table(names, rows, numbers=(0, *range(2, 6)))


def _words(record: dict[str, object]) -> list[tuple[str, str]]:
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, tuple) else str(value))
        for name, value in record.items()
    ]
