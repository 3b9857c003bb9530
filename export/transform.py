"""Read a PyTorch transform into the contract's geometry and normalisation.

Reads the description that ``torch_child`` writes: classes by name, attributes as plain values. It
knows the transforms of torchvision, timm and transformers. What it cannot read it names; whether it
reads right is measured on pixels by ``tensors``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from export.options import Channels
from models.artifact import Crop, Filter, ImageSpec, Mode, Resize, Side

# Numbers of Pillow's and names of torchvision's filters that are not names of Pillow's.
_FILTERS: dict[Any, Filter] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
    "nearest-exact": "nearest",
    **{name: name for name in get_args(Filter)},
}
# From this size of a side on, ConvNeXT's image processor stretches instead of cropping.
_CONVNEXT_STRETCHES = 384


@dataclass(slots=True)
class Reading:
    """What a transform does, as far as it is read.

    Attributes:
        resize: First step of the geometry.
        crop: Second step.
        channels: Order of the colours in the tensor.
        is_grey: Whether pictures become grey.
        scale: Factor for each pixel, 0-255.
        mean: Then subtracted; one number, or one a channel.
        std: Then divided by.
        unread: Steps that are not read, as their author wrote them.
    """

    resize: Resize | None = None
    crop: Crop | None = None
    channels: Channels = "RGB"
    is_grey: bool = False
    scale: float = 1.0
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    std: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))
    unread: list[str] = field(default_factory=list)

    def multiply(self, factor: float) -> None:
        """Add a factor behind what is read."""
        if self.mean.any() or (self.std != 1).any():
            self.std = self.std / factor
        else:
            self.scale *= factor

    def normalise(self, mean: Any, std: Any) -> None:
        """Add ``(value - mean) / std`` behind what is read."""
        self.mean = self.mean + np.atleast_1d(np.array(mean, np.float64)) * self.std
        self.std = self.std * np.atleast_1d(np.array(std, np.float64))

    def specs(self, height: int, width: int, channels: int) -> Iterator[ImageSpec]:
        """Yield what images may look like that become tensors of a size, the likeliest first.

        They differ in what no description says: how the user's loader opens a file (the first one
        is as ``Image.open(path).convert("RGB")``), and how an image processor rounds the place of
        its crop.

        Args:
            height: Of the tensor.
            width: Of the tensor.
            channels: Of the tensor, 1 or 3.
        """
        mode: Mode = "L" if channels == 1 else "RGB"
        crop = self.crop or Crop()
        crops = [crop]
        if crop.rounding == "floor":
            crops.append(Crop(crop.colour, crop.place, "trunc"))
        backgrounds = (None, (255, 255, 255), (0, 0, 0))
        for exif, background, clips, each in product(
            (False, True), backgrounds, (True, False), crops
        ):
            yield ImageSpec(
                mode, height, width, self.resize, each, exif, background, clip_16_bits=clips
            )


def read_transform(description: Any) -> Reading:
    """Read the description of a transform.

    Args:
        description: As ``torch_child`` writes it.
    """
    reading = Reading()
    for step in _steps(description):
        name = str(step.get("class", "")).rsplit(".", maxsplit=1)[-1]
        if "image_processor_type" in step["attributes"]:
            _read_processor(reading, step["attributes"])
        elif name == "ToTensor" and step["class"].startswith("timm."):
            continue  # its values stay 0-255
        elif name not in _READERS or not _READERS[name](reading, step["attributes"]):
            reading.unread.append(_named(step, name))
    return reading


def _steps(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the steps of a transform in order; a function that uses one transform stands for it."""
    if isinstance(node, list):
        for item in node:
            yield from _steps(item)
        return
    if not isinstance(node, dict) or "class" not in node:
        yield {"class": str(node), "attributes": {}}
        return
    attributes, parts = node["attributes"], node["parts"]
    if isinstance(attributes.get("transforms"), list) and attributes["transforms"]:
        yield from _steps(attributes["transforms"])
    elif node["class"].endswith(".Sequential") or (node["class"] == "function" and len(parts) == 1):
        yield from _steps(parts)
    else:
        yield node


def _named(step: dict[str, Any], name: str) -> str:
    attributes = step["attributes"]
    if step.get("class") == "function":
        return f"the function {attributes['name']} ({attributes['file']}:{attributes['line']})"
    inner = attributes.get("lambd")
    if isinstance(inner, dict):
        return f"{name} ({inner['attributes']['file']}:{inner['attributes']['line']})"
    return f"{name}, which is for training" if name.startswith("Random") else name


def _resize(reading: Reading, attributes: dict[str, Any]) -> bool:
    size = attributes.get("size")
    sides = size if isinstance(size, list) else [size]
    largest = attributes.get("max_size")
    kind = _FILTERS.get(attributes.get("interpolation"))
    if reading.resize or reading.crop or kind is None:
        return False
    if sides == [None] and largest:
        reading.resize = Resize("longer", kind, largest, largest)
        return True
    if largest or not all(isinstance(side, int) for side in sides):
        return False
    reading.resize = Resize("shorter" if len(sides) == 1 else "both", kind, sides[0], sides[-1])
    return True


def _resize_keep_ratio(reading: Reading, attributes: dict[str, Any]) -> bool:
    longest, (height, width) = attributes.get("longest"), attributes["size"]
    kind = _FILTERS.get(attributes.get("interpolation"))
    is_random = attributes.get("random_scale_prob") or attributes.get("random_aspect_prob")
    if reading.resize or reading.crop or kind is None or is_random or longest not in (0, 1):
        return False
    side: Side = "longer" if longest else "shorter"
    reading.resize = Resize(side, kind, height, width, "half-even")
    return True


def _crop(reading: Reading, attributes: dict[str, Any]) -> bool:
    if reading.crop or attributes.get("padding_mode", "constant") != "constant":
        return False
    fill = attributes.get("fill") or 0
    colour = tuple(fill) if isinstance(fill, list) else (fill,) * 3
    reading.crop = Crop(colour if any(colour) else None)
    return True


def _to_dtype(reading: Reading, attributes: dict[str, Any]) -> bool:
    # A transform of pixels that are floats already scales nothing.
    is_scaled = attributes.get("scale", True) and reading.scale == 1
    dtype = str(attributes.get("dtype"))
    if is_scaled and dtype.startswith("torch.float"):
        reading.multiply(1 / 255)
    return dtype.startswith("torch.")


def _normalise(reading: Reading, attributes: dict[str, Any]) -> bool:
    reading.normalise(attributes["mean"], attributes["std"])
    return True


def _grey(reading: Reading, attributes: dict[str, Any]) -> bool:
    reading.is_grey = attributes.get("num_output_channels", 1) == 1
    return reading.is_grey


def _preset(reading: Reading, attributes: dict[str, Any]) -> bool:
    """Read torchvision's ``ImageClassification``, which ``weights.transforms()`` returns."""
    given = {"size": attributes["resize_size"], "interpolation": attributes["interpolation"]}
    is_read = _resize(reading, given) and _crop(reading, {})
    reading.multiply(1 / 255)
    return is_read and _normalise(reading, attributes)


def _scale(reading: Reading, _: dict[str, Any]) -> bool:
    reading.multiply(1 / 255)
    return True


def _nothing(_reading: Reading, _attributes: dict[str, Any]) -> bool:
    return True


_READERS: dict[str, Callable[[Reading, dict[str, Any]], bool]] = {
    "Resize": _resize,
    "ResizeKeepRatio": _resize_keep_ratio,
    "CenterCrop": _crop,
    "CenterCropOrPad": _crop,
    "ToTensor": _scale,
    "MaybeToTensor": _scale,
    "ConvertImageDtype": _to_dtype,
    "ToDtype": _to_dtype,
    "Normalize": _normalise,
    "Grayscale": _grey,
    "ImageClassification": _preset,
    **dict.fromkeys(
        ("PILToTensor", "MaybePILToTensor", "ToImage", "ToPureTensor", "RGB", "Identity"), _nothing
    ),
}


def _read_processor(reading: Reading, given: dict[str, Any]) -> None:
    """Read an image processor of transformers."""
    kind = str(given["image_processor_type"])
    reading.crop = Crop(rounding="floor")
    if given.get("do_resize") and not _read_size(reading, given, kind):
        reading.unread.append(f"{kind}'s size {given.get('size')}")
    if given.get("do_pad"):
        reading.unread.append(f"{kind}'s do_pad")
    if given.get("do_rescale"):
        reading.multiply(float(given["rescale_factor"]))
        if given.get("rescale_offset"):
            reading.normalise(1.0, 1.0)
    if given.get("do_normalize"):
        reading.normalise(given["image_mean"], given["image_std"])
    if kind.startswith("EfficientNet") and given.get("include_top"):
        reading.normalise(0.0, given["image_std"])  # a second time, as its first authors did
    if given.get("do_flip_channel_order"):
        reading.channels = "BGR"


def _read_size(reading: Reading, given: dict[str, Any], kind: str) -> bool:
    size, filter_ = given.get("size") or {}, _FILTERS.get(given.get("resample"))
    size = {name: side for name, side in size.items() if side is not None}
    if filter_ is None or set(size) not in ({"shortest_edge"}, {"height", "width"}):
        return False
    short = size.get("shortest_edge")
    if kind.startswith("PoolFormer") and given.get("crop_pct"):
        # Of a square its shorter side, too, as if it were one number.
        height, width = size.get("height", short), size.get("width", short)
        side: Side = "shorter" if height == width else "both"
        height, width = int(height / given["crop_pct"]), int(width / given["crop_pct"])
        reading.resize = Resize(side, filter_, height, width)
        return True
    if short is None:
        reading.resize = Resize("both", filter_, size["height"], size["width"])
    elif kind.startswith("ConvNext") and short >= _CONVNEXT_STRETCHES:
        reading.resize = Resize("both", filter_, short, short)
    else:
        if kind.startswith("ConvNext"):
            short = int(short / given["crop_pct"])
        elif kind.startswith("Levit"):
            short = int(256 / 224 * short)
        reading.resize = Resize("shorter", filter_, short, short)
    return True
