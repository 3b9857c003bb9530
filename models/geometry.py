"""From decoded pixels to the size that a model takes: resize, crop and pad.

For uint8 bit-equal to Pillow, so to torchvision, timm and transformers on PIL images. OpenCV
resizes for versions of format 1 only; it is in the extra ``opencv``.

Layout legend: H height, W width, C channels (1 grey, 3 RGB).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.artifact import ArtifactError, Crop, ImageSpec, OpenCVResize, Resize
from models.enlarge import enlarge
from models.installation import how_to_add
from models.resample import resample

try:
    import cv2
except ImportError:
    cv2 = None  # type: ignore[assignment]

Pixels = NDArray[np.uint8]
Span = tuple[int, int]
"""First pixel and the pixel after the last, on one axis."""

# A strip that is enlarged to more than this many times the pixels of the resize's size is enlarged
# only where it is kept: the whole would take any amount of memory and time.
_MAX_STRIP = 4


class Place(NamedTuple):
    """Where the pixels of a picture go.

    Attributes:
        size: (height, width) of the whole resized picture.
        rows: First row that is kept, and the one after the last.
        columns: First column that is kept, and the one after the last.
        top: Row of the model's input where the kept part begins; padding is around it.
        left: Its column.
        is_strip: Whether the resized picture is too large to be made whole.
    """

    size: Span
    rows: Span
    columns: Span
    top: int
    left: int
    is_strip: bool


def fit(image: Pixels, spec: ImageSpec) -> Pixels:
    """Bring decoded pixels to the model's size by the spec's geometry.

    Args:
        image: uint8 [H, W] or [H, W, C], any H and W, contiguous.
        spec: Target size, resize, crop.

    Returns:
        uint8 [spec.height, spec.width] or with C, 0-255, contiguous; ``image`` itself if the
        geometry leaves it as it is.

    Raises:
        ArtifactError: OpenCV has to resize and is not installed.
    """
    height, width = image.shape[:2]
    if (height, width) == (spec.height, spec.width) and spec.keeps_own_size:
        return image
    if isinstance(spec.resize, OpenCVResize):
        return _fit_opencv(image, spec, spec.resize)
    place = place_of((height, width), spec)
    if spec.resize is None:
        part = image[slice(*place.rows), slice(*place.columns)]
    else:
        resize = enlarge if place.is_strip else resample
        part = resize(image, place.size, place.rows, place.columns, spec.resize.filter)
    if part.shape[:2] != (spec.height, spec.width):
        part = _pad(part, spec, place)
    return np.ascontiguousarray(part)


def place_of(source: Span, spec: ImageSpec) -> Place:
    """Return where a picture's pixels go under a spec whose resize is Pillow's, or none.

    Args:
        source: (height, width) of the picture.
        spec: Target size, resize, crop.
    """
    size = source
    if isinstance(spec.resize, Resize):
        size = resized_size(size, spec.resized, spec.resize)
    targets = spec.height, spec.width
    offsets = [_offset(was, to, spec.crop) for was, to in zip(size, targets, strict=True)]
    rows, columns = (
        (max(0, offset), min(side, offset + target))
        for offset, side, target in zip(offsets, size, targets, strict=True)
    )
    top, left = (max(0, -offset) for offset in offsets)
    most = max(_MAX_STRIP * math.prod(spec.resized), math.prod(source))
    return Place(size, rows, columns, top, left, size[0] * size[1] > most)


def check_available(spec: ImageSpec, name: str) -> None:
    """Check that what resizes for a spec is installed.

    Args:
        spec: The spec.
        name: Name of the model, for the message.

    Raises:
        ArtifactError: It is OpenCV, and it is not.
    """
    if cv2 is None and isinstance(spec.resize, OpenCVResize):
        raise ArtifactError(
            f'model "{name}": expected OpenCV, which resizes in format 1, got none; publish the '
            f'model in format 2 with "foveal models upgrade {name}", or add it: '
            f"{how_to_add('opencv')}"
        )


def resized_size(size: Span, target: Span, resize: Resize) -> Span:
    """Return (height, width) of a picture after its resize.

    In integers, which give what torchvision's and transformers' ``int(size * long / short)`` and
    timm's ``round(side / ratio)`` give; a side is at least one pixel.

    Args:
        size: (height, width) of the picture.
        target: (height, width) of the resize.
        resize: Which sides come to the target, and the rounding of the other.
    """
    if resize.side == "both":
        return target
    height, width = size
    # Compares height / target height with width / target width.
    is_flat = height * target[1] < width * target[0]
    by_height = is_flat if resize.side == "shorter" else not is_flat
    if by_height:
        return target[0], max(1, _scaled(width, target[0], height, resize.rounding))
    return max(1, _scaled(height, target[1], width, resize.rounding)), target[1]


def _scaled(side: int, target: int, source: int, rounding: str) -> int:
    return side * target // source if rounding == "down" else round(side / (source / target))


def _offset(size: int, target: int, crop: Crop) -> int:
    """Return where the crop starts; negative where the picture is padded before."""
    spare = size - target
    if crop.place == "top-left":
        return 0
    if crop.rounding == "floor":
        return spare // 2
    return round(spare / 2) if spare > 0 and crop.rounding == "half-even" else int(spare / 2)


def _pad(part: Pixels, spec: ImageSpec, place: Place) -> Pixels:
    padded = np.empty((spec.height, spec.width, *part.shape[2:]), np.uint8)
    colour = spec.crop.colour or (0,) * spec.channels
    padded[...] = colour if part.ndim == 3 else colour[0]
    bottom, right = place.top + part.shape[0], place.left + part.shape[1]
    padded[place.top : bottom, place.left : right] = part
    return padded


def opencv_version() -> str:
    """Return OpenCV's version; empty without the extra ``opencv``."""
    return "" if cv2 is None else str(cv2.__version__)


def _fit_opencv(image: Pixels, spec: ImageSpec, resize: OpenCVResize) -> Pixels:
    check_available(spec, "NAME")
    height, width = image.shape[:2]
    scales = spec.height / height, spec.width / width
    size = spec.height, spec.width
    if resize.rule == "crop":
        # Cut, then resize: a strip enlarged first, to be cut, would take any amount of memory.
        kept = [max(1, round(side / max(scales))) for side in size]
        top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
        image = image[top : top + kept[0], left : left + kept[1]]
    elif resize.rule == "pad":
        size = max(1, round(height * min(scales))), max(1, round(width * min(scales)))
    filters = {
        "nearest": cv2.INTER_NEAREST,
        "linear": cv2.INTER_LINEAR,
        "cubic": cv2.INTER_CUBIC,
        "area": cv2.INTER_AREA,
    }
    resized = cv2.resize(image, size[::-1], interpolation=filters[resize.interpolation])
    if resize.rule == "pad":
        top, left = (spec.height - size[0]) // 2, (spec.width - size[1]) // 2
        bottom, right = spec.height - size[0] - top, spec.width - size[1] - left
        resized = cv2.copyMakeBorder(resized, top, bottom, left, right, cv2.BORDER_CONSTANT)
    return np.ascontiguousarray(resized, dtype=np.uint8)
