"""Ask whether a graph takes pixels from 0 to 255 or from 0 to 1, where nobody has said it.

Only who trained a network knows its scale, mean and std; a network of several layers answers
something to any of them. One linear layer is the exception: its numbers show what moves them.
Legend: N rows, H height, W width, C channels, K classes.
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.errors import AdoptError
from export.interface import LAYERS
from export.sandbox import Bounds, run_foreign
from export.wrap import Foreign

logger = logging.getLogger("foveal.adopt")

# Operators by which the scores stay linear in the pixels; behind them one softmax or sigmoid.
_LINEAR = frozenset(
    {"Add", "Sub", "Mul", "Div", "Cast", "Constant", "Dropout", "Identity", "Transpose"}
    | {"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Sum"}
    | {"AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"}
    | {"Sigmoid", "Softmax"}
)
# A logit moves by at most this much between black, white and noise: no picture gets a label of its
# own. A probability moves by at least that much: the graph is sure of some pictures.
_BLIND, _SURE = 0.25, 0.9


def ask_scale(
    foreign: Foreign, images_NHWC: NDArray[np.uint8], bounds: Bounds, weights: Path
) -> None:
    """Take pixels as they are only of one linear layer, and if its answers show that it is right.

    Args:
        foreign: A graph of float input, whose options scale nothing.
        images_NHWC: uint8 [N, H, W, C].
        bounds: Resources that it may use.
        weights: Folder of its weights.

    Raises:
        AdoptError: Only who trained the network knows.
    """
    where = f'input "{foreign.given.name}"'
    if not (_is_linear(foreign.model) and _is_blind_to_1(foreign, images_NHWC, bounds, weights)):
        raise AdoptError(
            f"{where}: expected --scale, --mean or --std, as it takes floats and the file does not "
            "say of what range: give --scale 1 if it takes 0 to 255, --scale 1/255 if it takes 0 "
            "to 1, and the mean and std that it was trained with"
        )
    logger.warning(
        "%s: takes pixels from 0 to 255, as from 0 to 1 it cannot tell pictures apart; give "
        "--scale 1 to say so, or the scale that it was trained with",
        where,
    )


def _is_linear(model: onnx.ModelProto) -> bool:
    """Whether a graph has no more than one layer, and nothing that bends its numbers before it."""
    kinds = [node.op_type for node in model.graph.node]
    layers = sum(kind in LAYERS for kind in kinds)
    return layers <= 1 and all(kind in LAYERS or kind in _LINEAR for kind in kinds)


def _is_blind_to_1(
    foreign: Foreign, images_NHWC: NDArray[np.uint8], bounds: Bounds, weights: Path
) -> bool:
    """Whether a graph tells pictures of 0 to 255 apart, and none of 0 to 1."""
    pictures_NHWC = np.concatenate([images_NHWC, _plain(images_NHWC.shape)])
    plain = replace(foreign, answer=replace(foreign.answer, is_guess=False))
    scaled = replace(plain, options=replace(foreign.options, scale=1 / 255))
    _, probabilities_NK = run_foreign(plain, pictures_NHWC, bounds, weights)
    logits_NK, _ = run_foreign(scaled, pictures_NHWC, bounds, weights)
    return bool(
        np.ptp(probabilities_NK, axis=0).max() > _SURE and np.ptp(logits_NK, axis=0).max() < _BLIND
    )


def _plain(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return uint8 [N, H, W, C]: black, white and each channel alone, over all or half of it."""
    _, height, width, channels = shape
    colours = np.array([[0] * channels, [255] * channels, *(np.eye(channels) * 255)], np.uint8)
    whole = np.tile(colours[:, None, None], (1, height, width, 1))
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    places = (rows < height // 2, rows >= height // 2, columns < width // 2, columns >= width // 2)
    return np.concatenate([whole, *(np.where(place, whole, np.uint8(0)) for place in places)])
