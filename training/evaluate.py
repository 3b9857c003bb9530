"""The evaluate stage: accuracy and calibration of a network on a split that it has not seen.

Legend: N rows, K classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.evidence import Statistics
from models.histograms import entropy, pixel_statistics
from training.batches import EVALUATION_ROWS, Batches
from training.datasets.sources import Dataset
from training.datasets.splits import Split
from training.networks import ImageNetwork

# The number of Guo et al. 2017, and the usual one since.
_BINS = 15


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of one network on one split.

    Attributes:
        images: Number of rows.
        accuracy: Share of rows whose label is right, 0-1.
        per_class: For each label the share of its own rows that are right, 0-1; None: it has none.
        calibration_error: Expected calibration error over 15 equal bins of confidence, 0-1.
    """

    images: int
    accuracy: float
    per_class: tuple[float | None, ...]
    calibration_error: float


def compute_logits(network: ImageNetwork, split: Split) -> Tensor:
    """Run a network over a whole split, in float32 and in batches.

    Args:
        network: Put into evaluation mode.
        split: N rows.

    Returns:
        logits_NK: float32 [N, K].
    """
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(images) for images, _ in Batches(split, EVALUATION_ROWS)])


def evaluate(logits_NK: Tensor, targets_N: NDArray[np.int64], temperature: float) -> Evaluation:
    """Compute the figures of a split from its logits.

    Args:
        logits_NK: float32 [N, K].
        targets_N: int64 [N].
        temperature: Divides the logits before the softmax, > 0.
    """
    probabilities_NK = torch.softmax(logits_NK / temperature, dim=1).numpy()
    is_right_N = probabilities_NK.argmax(axis=1) == targets_N
    per_class = tuple(
        float(is_right_N[targets_N == index].mean()) if (targets_N == index).any() else None
        for index in range(probabilities_NK.shape[1])
    )
    error = calibration_error(probabilities_NK.max(axis=1), is_right_N)
    return Evaluation(len(targets_N), float(is_right_N.mean()), per_class, error)


def count_confusions(
    predictions_N: NDArray[np.int64], targets_N: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Count the predictions of each class.

    Returns:
        int64 [K, K]: rows of the class of the first index with the label of the second predicted.
    """
    pairs_N = targets_N * classes + predictions_N
    return np.bincount(pairs_N, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True, slots=True)
class Reliability:
    """Confidence and accuracy in 15 equal bins of confidence; B = 15.

    Attributes:
        rows_B: Rows in each bin.
        confidence_B: Their mean confidence, 0-1; NaN for an empty bin.
        accuracy_B: Share of them that were right, 0-1; NaN for an empty bin.
    """

    rows_B: NDArray[np.int64]
    confidence_B: NDArray[np.float64]
    accuracy_B: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error: mean gap between the two, weighted by rows, 0-1."""
        gaps = np.abs(self.accuracy_B - self.confidence_B) * self.rows_B
        return float(np.nansum(gaps) / self.rows_B.sum())


def reliability(confidence_N: NDArray[np.floating], is_right_N: NDArray[np.bool_]) -> Reliability:
    """Compare confidence with accuracy.

    Args:
        confidence_N: float [N], probability of the predicted class, 0-1.
        is_right_N: bool [N].
    """
    bins_N = np.minimum((confidence_N * _BINS).astype(np.int64), _BINS - 1)
    rows_B = np.bincount(bins_N, minlength=_BINS)
    with np.errstate(invalid="ignore"):
        return Reliability(
            rows_B,
            np.bincount(bins_N, confidence_N, minlength=_BINS) / rows_B,
            np.bincount(bins_N, is_right_N, minlength=_BINS) / rows_B,
        )


def calibration_error(confidence_N: NDArray[np.floating], is_right_N: NDArray[np.bool_]) -> float:
    """Compute the expected calibration error, the distance of confidence and accuracy.

    Args:
        confidence_N: float [N], probability of the predicted class, 0-1.
        is_right_N: bool [N].

    Returns:
        Mean over 15 equal bins of |accuracy - confidence|, weighted by rows, 0-1.
    """
    return reliability(confidence_N, is_right_N).error


def error_before(logits_NK: NDArray[np.float32], targets_N: NDArray[np.int64]) -> float:
    """Compute the expected calibration error of the logits without a temperature."""
    probabilities_NK = torch.softmax(torch.from_numpy(logits_NK), dim=1).numpy()
    is_right_N = probabilities_NK.argmax(axis=1) == targets_N
    return calibration_error(probabilities_NK.max(axis=1), is_right_N)


def describe_training(dataset: Dataset, validation_NK: NDArray[np.float32]) -> Statistics:
    """Summarize the training images, for the service to compare with.

    Args:
        dataset: Pixels and shares of the labels are those of its training split.
        validation_NK: Probabilities on the validation split, float32 [N, K]: on the training
            split a network is more confident than on new images.
    """
    train = dataset.train
    pixels_N2 = np.array([pixel_statistics(image) for image in train.images_NHWC])
    mean, spread = pixels_N2.mean(axis=0)
    counts_K = np.bincount(train.targets_N, minlength=len(dataset.labels))
    return Statistics(
        images=len(train),
        pixel_mean=float(mean),
        pixel_spread=float(spread),
        class_shares=tuple(float(share) for share in counts_K / len(train)),
        entropy=float(entropy(validation_NK).mean()),
    )
