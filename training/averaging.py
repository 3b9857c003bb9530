"""The moving average of the weights, whose decay rises with the steps."""

from functools import partial

from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class MovingAverage(WeightAveraging):
    """Averages the weights exponentially; a short run does not keep the random ones of its start.

    Args:
        decay: The decay that is reached, 0 < decay < 1.
    """

    def __init__(self, decay: float):
        super().__init__(avg_fn=partial(_average, decay=decay))


def _average(averaged: Tensor, current: Tensor, updates: Tensor, *, decay: float) -> Tensor:
    """Average by min(decay, (1 + updates) / (10 + updates)).

    Source: https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage.
    """
    share = ((1 + updates) / (10 + updates)).clamp(max=decay)
    return share * averaged + (1 - share) * current
