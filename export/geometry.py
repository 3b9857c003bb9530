"""From an adopted graph's options to the ``image`` of ``model.json``: how files become pixels.

Each value of the options names what torchvision, timm or transformers do, so that the pixels are
theirs; ``models.geometry`` computes them.
"""

import math

from export.errors import AdoptError
from export.options import Options, Rule
from models.artifact import Colour, Crop, ImageSpec, Mode, Resize, Side

_SIDES: dict[Rule, Side] = {"stretch": "both", "crop": "shorter", "pad": "longer"}
_WHITE = (255, 255, 255)


def image_spec(options: Options, mode: Mode, height: int, width: int) -> ImageSpec:
    """Return how files become the pixels of a graph.

    Args:
        options: What was said about the graph.
        mode: Of its input.
        height: Of its input, pixels.
        width: Of its input, pixels.

    Raises:
        AdoptError: Two options contradict each other, or a colour has other channels.
    """
    is_viewer = options.loader == "viewer"
    return ImageSpec(
        mode,
        height,
        width,
        _resize(options, (height, width)),
        Crop(_colour(options.pad_colour, mode), rounding=options.crop_rounding),
        exif=is_viewer,
        # As pages show it: two files that look the same are the same.
        background=_WHITE if is_viewer else None,
        clip_16_bits=not is_viewer,
    )


def _resize(options: Options, size: tuple[int, int]) -> Resize:
    rule, share = options.resize, options.crop_share
    if isinstance(rule, int):
        if share is not None:
            raise AdoptError(
                f"crop_share: expected none beside resize {rule}, which says the same, got "
                f"{share:g}; give one of the two"
            )
        return Resize("shorter", options.filter, rule, rule)
    if share is None:
        return Resize(_SIDES[rule or "stretch"], options.filter)
    height, width = (math.floor(side / share) for side in size)
    # timm resizes by torchvision's rule only to a square, or where both sides are given.
    is_timms = rule == "pad" or (rule != "stretch" and height != width)
    return Resize(
        _SIDES[rule or "crop"], options.filter, height, width, "half-even" if is_timms else "down"
    )


def _colour(colour: tuple[int, ...] | None, mode: Mode) -> Colour | None:
    if colour is None:
        return None
    if mode == "L" and len(colour) != 1:
        raise AdoptError(
            f"pad_colour: expected one number, as the graph takes grey images, got {list(colour)}"
        )
    return colour * 3 if mode == "RGB" and len(colour) == 1 else colour
