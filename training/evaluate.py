"""The evaluate stage: what a network answers on a split that it has not seen.

Its figures are computed by ``export.figures``. Legend: N rows, K classes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.evidence import Statistics
from models.histograms import entropy, pixel_statistics
from training.batches import Batches, evaluation_rows
from training.datasets.sources import Dataset
from training.datasets.splits import Split
from training.networks import ImageNetwork


def compute_logits(network: ImageNetwork, split: Split) -> Tensor:
    """Run a network over a whole split, in float32 and in batches.

    Args:
        network: Put into evaluation mode.
        split: N rows.

    Returns:
        logits_NK: float32 [N, K].
    """
    network.eval()
    logits_NK = torch.empty(0, 0)
    start = 0
    with torch.inference_mode():
        for images_NHWC, _ in Batches(split, evaluation_rows(split)):
            answers_NK = network(images_NHWC)
            if not start:
                logits_NK = torch.empty(len(split), answers_NK.shape[1])
            # Kept in one block: small ones between those of batches would keep their memory.
            logits_NK[start : start + len(answers_NK)] = answers_NK
            start += len(answers_NK)
    return logits_NK


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
