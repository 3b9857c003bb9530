"""The report of a run: one self-contained HTML page, and each plot as a PNG.

``report.html`` embeds its pictures, so it can be mailed or archived; ``report/`` has them as files.
The plots come from the run folder and from the logits of the test split.
Legend: N rows, K classes.
"""

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from numpy.typing import NDArray
from torch import Tensor

from training.datasets.sources import Dataset
from training.evaluate import count_confusions, reliability
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
from training.runs import Outcome, Run

REPORT_HTML = "report.html"
REPORT_FOLDER = "report"

_MISTAKES = 32

_STYLE = """
body { max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; background: #fff;
       font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p.note { color: #555; margin: .2rem 0 .8rem; } img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid #e3e3e3; }
th.number, td.number { text-align: right; } th { font-weight: 600; }
pre { background: #f4f4f4; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
pre span { display: inline-block; }
dl.summary { display: flex; flex-wrap: wrap; gap: 1.5rem; margin: 1.2rem 0; }
dl.summary div { min-width: 8rem; } dt { color: #555; font-size: .85rem; }
dd { margin: 0; font-size: 1.3rem; font-weight: 600; }
"""


@dataclass(frozen=True, slots=True)
class _Picture:
    """A section of the page that is a picture.

    Attributes:
        name: Name of its file, without the suffix.
        title: Heading of the section.
        note: How to read the picture.
        png: The picture; None if there is nothing to show.
    """

    name: str
    title: str
    note: str
    png: bytes | None


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
    for picture in pictures:
        if picture.png is not None:
            (folder / f"{picture.name}.png").write_bytes(picture.png)
    title = f"{run.config.network} on {dataset.name}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="note">{html.escape(f"{run.config.run.name}, started {run.date}")}</p>',
        _summary(outcome, dataset, network),
        *(_section(picture) for picture in pictures[:3]),
        _heading("Each class", "Test images, sorted by recall, the lowest first."),
        _class_table(confusion_KK, dataset.labels),
        *(_section(picture) for picture in pictures[3:]),
        _heading("Command", "Repeats this run; every option is given."),
        _command(run.command),
        _heading("Configuration", ""),
        _table(("option", "value"), sorted(_words(run.config.to_json()))),
        _heading("Versions", ""),
        _table(
            ("component", "version"),
            [*run.versions.items(), ("git", run.git), ("data, sha256", run.dataset_sha256)],
        ),
    ]
    path = run.config.run / REPORT_HTML
    path.write_text(_page(title, parts), encoding="utf-8")
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
) -> list[_Picture]:
    epochs = read_curves(run.config.run)
    test = dataset.test
    raw_NK, scaled_NK = (
        torch.softmax(test_NK / temperature, dim=1).numpy()
        for temperature in (1.0, outcome.temperature)
    )
    is_right_N = scaled_NK.argmax(axis=1) == test.targets_N
    before, after = (reliability(p_NK.max(axis=1), is_right_N) for p_NK in (raw_NK, scaled_NK))
    return [
        _Picture(
            "curves",
            "Loss and accuracy",
            "Training is measured on augmented images while the weights still change, "
            "validation on plain ones after the epoch, so validation can be "
            "better. The dotted line marks the epoch whose weights were kept.",
            plot_curves(epochs, kept_epoch(epochs, run.config.keep)),
        ),
        _Picture("learning_rate", "Learning rate", "", plot_learning_rate(epochs)),
        _Picture(
            "confusion",
            "Confusion matrix",
            "Rows are the true labels, columns the predicted ones.",
            plot_confusion(confusion_KK, dataset.labels),
        ),
        _Picture(
            "reliability",
            "Reliability",
            "Of the images with a confidence of 80 %, 80 % should be right: bars should end "
            "on the dashed line. The temperature was fitted on the validation split; this "
            "is the test split.",
            plot_reliability(before, after, outcome.temperature),
        ),
        _mistakes(dataset, scaled_NK, int((~is_right_N).sum())),
        _Picture(
            "filters",
            "First-layer filters",
            "Weights of the first layer, up to 64 of them; red is positive, blue negative "
            "(of RGB images: in their colours, grey is zero).",
            plot_filters(network),
        ),
    ]


def _mistakes(dataset: Dataset, probabilities_NK: NDArray[np.float32], wrong: int) -> _Picture:
    targets_N = dataset.test.targets_N
    mistakes = worst_mistakes(probabilities_NK, targets_N)
    captions = [
        f"{dataset.labels[int(probabilities_NK[row].argmax())]} {probabilities_NK[row].max():.0%}\n"
        f"is {dataset.labels[targets_N[row]]} {probabilities_NK[row, targets_N[row]]:.0%}"
        for row in mistakes
    ]
    return _Picture(
        "mistakes",
        f"The worst {len(mistakes)} of {wrong} mistakes",
        "The predicted and the true label with their probabilities; the lowest probability of "
        "the true label comes first.",
        plot_mistakes(dataset.test, mistakes, captions) if mistakes else None,
    )


def _summary(outcome: Outcome, dataset: Dataset, network: ImageNetwork) -> str:
    figures = {
        "test accuracy": f"{outcome.test.accuracy:.2%}",
        "validation accuracy": f"{outcome.validation.accuracy:.2%}",
        "calibration error": f"{outcome.test.calibration_error:.4f}",
        "parameters": f"{sum(p.numel() for p in network.parameters()):,}",
        "multiply-adds per image": f"{multiply_adds(network.network, dataset.image_shape):,}",
        "images: train, validation, test": f"{len(dataset.train):,}, "
        f"{len(dataset.validation):,}, {len(dataset.test):,}",
    }
    items = (f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items())
    return f'<dl class="summary">{"".join(items)}</dl>'


def _class_table(confusion_KK: NDArray[np.int64], labels: Sequence[str]) -> str:
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
        rows.append((labels[index], f"{images_K[index]:,}", *shares, taken_for))
    names = ("class", "images", "recall", "precision", "F1", "most often predicted as")
    return _table(names, rows, numbers=range(1, 5))


def _table(names: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    right = set(numbers)

    def line(cell: str, values: Sequence[str]) -> str:
        cells = (
            f"<{cell}{' class=number' if index in right else ''}>{html.escape(value)}</{cell}>"
            for index, value in enumerate(values)
        )
        return f"<tr>{''.join(cells)}</tr>"

    return f"<table>{line('th', names)}{''.join(line('td', row) for row in rows)}</table>"


def _words(record: dict[str, object]) -> list[tuple[str, str]]:
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, tuple) else str(value))
        for name, value in record.items()
    ]


def _command(command: str) -> str:
    """Return a command that breaks lines only between options and can be pasted into a shell."""
    first, *options = html.escape(command).split(" --")
    return f"<pre>{first} {' '.join(f'<span>--{option}</span>' for option in options)}</pre>"


def _heading(title: str, note: str) -> str:
    line = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f"<h2>{html.escape(title)}</h2>{line}"


def _section(picture: _Picture) -> str:
    if picture.png is None:
        return _heading(picture.title, "None to show.")
    data = base64.b64encode(picture.png).decode()
    image = f'<img alt="{html.escape(picture.title)}" src="data:image/png;base64,{data}">'
    return _heading(picture.title, picture.note) + image


def _page(title: str, parts: Iterable[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
