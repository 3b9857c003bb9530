"""How pixels can be prepared, and what usually differs between two pipelines.

Lists one change at a time; ``diagnose`` tries them. Knows no graph.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from onnx import TensorProto

from export.geometry import image_spec
from export.options import Channels, CropRounding, Options, Rule
from models.artifact import Filter, ImageSpec

_NEUTRAL = ((0.0,), (1.0,))
# Mean and std of pixels that were scaled by 1/255: timm's and torchvision's constants.
_KNOWN: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet
    ((0.5,), (0.5,)),  # Inception: -1 to 1
    ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),  # CLIP
    ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),  # CIFAR-10
    ((0.1307,), (0.3081,)),  # MNIST
)
# Of whole pixels: Keras' "caffe" mode, blue first, and ImageNet's times 255.
_WHOLE: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((103.939, 116.779, 123.68), (1.0,)),
    ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ((127.5,), (127.5,)),
)
# Shares of the resized picture that evaluations keep: timm's crop_pct and torchvision's sizes.
_SHARES = (0.875, 0.95, 0.9, 0.96, 0.965, 0.985, 0.97, 0.94, 0.9375, 0.91, 0.8)
_COMMON_SIZE = 256


@dataclass(frozen=True)
class Setup:
    """How files become the graph's input: the values of its pixels, and their geometry."""

    options: Options
    spec: ImageSpec


def alternatives(setup: Setup, elem_type: int) -> Iterator[Setup]:
    """Yield setups that differ from one in one way, the most usual first.

    Args:
        setup: The setup.
        elem_type: Datatype of the graph's input: uint8 pixels have no scale, mean or std.
    """
    options, spec = setup.options, setup.spec
    if spec.mode == "RGB":
        other: Channels = "BGR" if options.channels == "RGB" else "RGB"
        yield replace(setup, options=replace(options, channels=other))
    if elem_type != TensorProto.UINT8:
        for changed in _values(options, spec.channels):
            yield replace(setup, options=changed)
    for changed in _geometries(options, spec.height, spec.width):
        yield Setup(changed, image_spec(changed, spec.mode, spec.height, spec.width))


def _values(options: Options, channels: int) -> Iterator[Options]:
    for scale in (1 / 255, 1.0):
        yield replace(options, scale=scale)
    for mean, std in (*_KNOWN, _NEUTRAL):
        if max(len(mean), len(std)) in (1, channels):
            yield replace(options, mean=mean)
            yield replace(options, std=std)
            yield replace(options, mean=mean, std=std)
            yield replace(options, scale=1 / 255, mean=mean, std=std)
    for mean, std in _WHOLE:
        if max(len(mean), len(std)) in (1, channels):
            yield replace(options, scale=1.0, mean=mean, std=std)
            if channels > 1:
                yield replace(options, scale=1.0, mean=mean, std=std, channels="BGR")


def _geometries(options: Options, height: int, width: int) -> Iterator[Options]:
    for filter_ in get_args(Filter):
        yield replace(options, filter=filter_)
    plain = replace(options, resize="stretch", crop_share=None)
    yield plain
    yield replace(plain, resize="crop")
    for side in _sizes(height, width) if height == width else ():
        yield replace(plain, resize=side)
    for share in _SHARES if height != width else ():
        yield replace(plain, resize=None, crop_share=share)
    yield replace(plain, resize="pad")
    yield replace(plain, crop_share=0.875)
    yield replace(options, loader="pillow" if options.loader == "viewer" else "viewer")
    other: CropRounding = "floor" if options.crop_rounding == "half-even" else "half-even"
    yield replace(options, crop_rounding=other)


def _sizes(height: int, width: int) -> list[int]:
    """Return what shorter sides are usually resized to before a crop of this size."""
    side = min(height, width)
    sizes = dict.fromkeys(whole(side / share + 1e-9) for share in _SHARES for whole in (int, round))
    if side < _COMMON_SIZE:
        sizes[_COMMON_SIZE] = None
    return list(sizes)


def describe_change(before: Setup, after: Setup) -> tuple[str, str]:
    """Return what differs, and the options that say so: ``BGR`` and ``--channels BGR``."""
    names: list[str] = []
    flags: list[str] = []
    was, now = before.options, after.options
    if was.channels != now.channels:
        names.append(now.channels)
        flags.append(f"--channels {now.channels}")
    for name in ("scale", "mean", "std"):
        if getattr(was, name) != getattr(now, name):
            value = getattr(now, name)
            names.append(name)
            flags.append(f"--{name} {_numbers(value if isinstance(value, tuple) else (value,))}")
    if (_rule(was), was.resize, was.crop_share) != (_rule(now), now.resize, now.crop_share):
        cut = {_rule(was), _rule(now)} == {"crop"}
        names.append("crop" if cut else "resize and crop" if _rule(now) == "crop" else "resize")
        flags += [f"--resize {now.resize}"] if now.resize is not None else []
        flags += [f"--crop-share {now.crop_share:g}"] if now.crop_share is not None else []
    for name in ("filter", "loader", "crop_rounding"):
        if getattr(was, name) != getattr(now, name):
            names.append(name.replace("_", " "))
            flags.append(f"--{name.replace('_', '-')} {getattr(now, name)}")
    return ", ".join(names), " ".join(flags)


def _rule(options: Options) -> Rule:
    if options.resize is None:
        return "stretch" if options.crop_share is None else "crop"
    return "crop" if isinstance(options.resize, int) else options.resize


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join("1/255" if value == 1 / 255 else f"{value:g}" for value in values)
