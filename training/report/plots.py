"""The plots of a report, each a PNG. Knows matplotlib and arrays, nothing about files or HTML.

Legend: N rows, K classes, H height, W width, C channels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from torch import nn

from export.figures import Reliability
from report.plots import BLUE, GREY, ORANGE, WIDTH, drawable_names, new_figure, to_png
from training.datasets.splits import Split
from training.networks import ImageNetwork
from training.report.curves import Epoch

# More filters than these are too many for one picture.
_FILTERS = 64
# With more classes, numbers do not fit into the cells of the confusion matrix.
_CLASSES_WITH_NUMBERS = 20
# With more, names do not fit beside the rows; the table of classes has them.
_CLASSES_WITH_NAMES = 60


def plot_curves(epochs: Sequence[Epoch], kept: Epoch) -> bytes:
    """Draw loss and accuracy of training and validation over the epochs, and mark one of them."""
    figure = new_figure(3.6)
    loss, accuracy = figure.subplots(1, 2)
    numbers = [epoch.epoch for epoch in epochs]
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        for split, colour in (("train", BLUE), ("validation", ORANGE)):
            values = [getattr(epoch, f"{split}_{name}") for epoch in epochs]
            axes.plot(numbers, values, color=colour, marker=_marker(epochs), label=split)
        axes.set_title(name.capitalize())
        _epochs(axes)
        axes.legend(frameon=False)
    accuracy.axvline(kept.epoch, color=GREY, linewidth=0.8, linestyle=":")
    accuracy.set_title(f"Accuracy: {kept.validation_accuracy:.2%} in epoch {kept.epoch}")
    loss.set_ylabel("mean loss per image")
    accuracy.set_ylabel("share of images that are right")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    return to_png(figure)


def plot_learning_rate(epochs: Sequence[Epoch]) -> bytes:
    """Draw the learning rate at the end of each epoch."""
    figure = new_figure(2.6)
    axes = figure.subplots()
    axes.plot(
        [epoch.epoch for epoch in epochs],
        [epoch.lr for epoch in epochs],
        color=BLUE,
        marker=_marker(epochs),
    )
    axes.set_title("Learning rate")
    axes.set_ylabel("rate at the end of the epoch")
    axes.set_ylim(bottom=0)
    _epochs(axes)
    return to_png(figure)


def plot_confusion(confusion_KK: NDArray[np.int64], labels: Sequence[str]) -> bytes:
    """Draw the confusion matrix: the colour is the share of a class, the number counts images."""
    classes = len(labels)
    side = min(WIDTH, 2.5 + 0.55 * classes)
    figure = new_figure(side, side + 0.6)
    axes = figure.subplots()
    shares_KK = confusion_KK / np.maximum(confusion_KK.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares_KK, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(
        image, ax=axes, shrink=0.7, label="share of the class", format=PercentFormatter(1)
    )
    axes.set_title("Confusion matrix: test images")
    axes.set_xlabel("predicted label")
    axes.set_ylabel("true label")
    if classes <= _CLASSES_WITH_NAMES:
        names = drawable_names(labels)
        size = 9 if classes <= _CLASSES_WITH_NUMBERS else 5
        axes.set_xticks(range(classes), names, rotation=45, ha="right", fontsize=size)
        axes.set_yticks(range(classes), names, fontsize=size)
    else:
        axes.set_xlabel("predicted label: its number in the table")
        axes.set_ylabel("true label: its number in the table")
    if classes <= _CLASSES_WITH_NUMBERS:
        for (true, predicted), count in np.ndenumerate(confusion_KK):
            if count:
                colour = "white" if shares_KK[true, predicted] > 0.5 else "black"
                axes.text(
                    predicted, true, f"{count}", ha="center", va="center", fontsize=8, color=colour
                )
    return to_png(figure)


def plot_reliability(before: Reliability, after: Reliability, temperature: float) -> bytes:
    """Draw accuracy over confidence, before and after dividing the logits by the temperature."""
    figure = new_figure(4.6)
    axes_2 = figure.subplots(1, 2, sharey=True)
    titles = ("Before temperature scaling", f"After, temperature {temperature:.3f}")
    for axes, bins, title in zip(axes_2, (before, after), titles, strict=True):
        edges = np.linspace(0, 1, len(bins.rows_B) + 1)
        width = edges[1]
        axes.bar(
            edges[:-1],
            bins.accuracy_B,
            width,
            align="edge",
            color=BLUE,
            alpha=0.75,
            edgecolor="white",
            label="accuracy in the bin",
        )
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="ideal")
        axes.plot(
            bins.confidence_B,
            bins.accuracy_B,
            "o",
            color=ORANGE,
            markersize=4,
            label="mean confidence of the bin",
        )
        for left, rows in zip(edges, bins.rows_B, strict=False):
            axes.text(
                left + width / 2,
                1.03,
                f"{rows}",
                ha="center",
                va="bottom",
                fontsize=7,
                color=GREY,
                rotation=90,
            )
        axes.set_title(f"{title}\ncalibration error {bins.error:.4f}", fontsize=11)
        axes.set_xlabel("confidence: probability of the predicted label")
        axes.set(xlim=(0, 1), ylim=(0, 1.2), yticks=np.linspace(0, 1, 6))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes_2[0].set_ylabel("accuracy (at the top: test images in the bin)")
    handles, names = axes_2[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return to_png(figure)


def plot_mistakes(
    split: Split, rows: Sequence[int], captions: Sequence[str], columns: int = 8
) -> bytes:
    """Draw images with captions.

    Args:
        split: The split of the images.
        rows: Indices of the images, at least one.
        captions: One per image; may have several lines.
        columns: Images per line.
    """
    lines = -(-len(rows) // columns)
    figure = new_figure(1.5 * lines + 0.3, WIDTH + 1)
    figure.suptitle("Mistakes on test images: predicted label, then true label, with probabilities")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, row, caption in zip(grid, rows, captions, strict=False):
        _show(axes, split.images_NHWC[row])
        axes.set_title(caption, fontsize=7)
    return to_png(figure)


def plot_filters(network: ImageNetwork) -> bytes | None:
    """Draw the weights of the first layer; None if they do not make a picture.

    Kernels of RGB images are drawn in RGB; others in red for positive and blue for negative.
    """
    filters_NHWC = _first_layer(network)
    if filters_NHWC is None:
        return None
    count, _, _, channels = filters_NHWC.shape
    columns = min(16, count)
    lines = -(-count // columns)
    figure = new_figure(0.5 * lines + 0.5)
    figure.suptitle(f"First layer: {count} of its filters", fontsize=11)
    gaps = {"wspace": 0.15, "hspace": 0.15}
    grid = figure.subplots(lines, columns, squeeze=False, gridspec_kw=gaps).ravel()
    largest = np.abs(filters_NHWC).max() or 1.0
    for axes in grid:
        axes.axis("off")
    for axes, weights_HWC in zip(grid, filters_NHWC, strict=False):
        if channels == 3:
            axes.imshow(0.5 + weights_HWC / (2 * np.abs(weights_HWC).max() or 1.0))
        else:
            axes.imshow(weights_HWC.mean(axis=-1), cmap="RdBu_r", vmin=-largest, vmax=largest)
    return to_png(figure)


def _first_layer(network: ImageNetwork) -> NDArray[np.float32] | None:
    """Return the first weights as pictures [n, H, W, C], at most 64 of them."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.detach().permute(0, 2, 3, 1)
            return np.asarray(weight[:_FILTERS].contiguous().cpu(), dtype=np.float32)
        if isinstance(layer, nn.Linear):
            return _as_images(layer.weight.detach()[:_FILTERS], network.scale_C.numel())
    return None


def _as_images(weight: torch.Tensor, channels: int) -> NDArray[np.float32] | None:
    """Reshape the weights of a linear layer into images, if those are square."""
    pixels = weight.shape[1] // channels
    side = round(pixels**0.5)
    if side * side * channels != weight.shape[1]:
        return None
    return np.asarray(
        weight.reshape(-1, channels, side, side).permute(0, 2, 3, 1).cpu(), dtype=np.float32
    )


def _show(axes: Axes, image_HWC: NDArray[np.uint8]) -> None:
    if image_HWC.shape[-1] == 1:
        axes.imshow(image_HWC[..., 0], cmap="gray", vmin=0, vmax=255)
    else:
        axes.imshow(image_HWC)


def _epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _marker(epochs: Sequence[Epoch]) -> str:
    return "o" if len(epochs) < 3 else ""
