"""Find out whether a graph takes pixels from 0 to 255, where nobody has said it.

Legend: N rows, H height, W width, C channels, K classes.
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import AdoptError
from export.sandbox import Bounds, run_foreign
from export.wrap import Foreign

logger = logging.getLogger("foveal.adopt")

# Spread of a probability over very different pictures: below the one a graph tells none apart,
# above the other it is sure of each.
_BLIND, _SURE = 0.05, 0.9


def ask_scale(
    foreign: Foreign, images_NHWC: NDArray[np.uint8], bounds: Bounds, weights: Path
) -> None:
    """Take pixels as they are only if the graph's answers show that it was made for them.

    Args:
        foreign: A graph of float input, whose options scale nothing.
        images_NHWC: uint8 [N, H, W, C].
        bounds: Resources that it may use.
        weights: Folder of its weights.

    Raises:
        AdoptError: The answers do not show it: only the one who trained the network knows.
    """
    pictures_NHWC = np.concatenate([images_NHWC, _plain(images_NHWC.shape)])
    spreads = []
    for scale in (1.0, 1 / 255):
        scaled = replace(
            foreign,
            options=replace(foreign.options, scale=scale),
            answer=replace(foreign.answer, is_guess=False),
        )
        _, probabilities_NK = run_foreign(scaled, pictures_NHWC, bounds, weights)
        spreads.append(float(np.ptp(probabilities_NK, axis=0).max()))
    where = f'input "{foreign.given.name}"'
    if not (spreads[0] > _SURE and spreads[1] < _BLIND):
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


def _plain(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return pictures of one colour: black, white, and each channel alone, uint8 [N, H, W, C]."""
    channels = shape[-1]
    colours = np.array([[0] * channels, [255] * channels, *(np.eye(channels) * 255)], np.uint8)
    return np.tile(colours[:, None, None], (1, *shape[1:3], 1))
