"""How pixels can be prepared, and what usually differs between two pipelines.

Lists one change at a time; ``diagnose`` tries them. Knows no graph.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from onnx import TensorProto

from export.options import Channels, Options
from models.artifact import Filter, ImageSpec, OpenCVResize, Resize

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
_SHARES = (1.0, 0.875, 0.95, 0.9, 0.96, 0.965, 0.985, 0.97, 0.94, 0.9375, 0.91, 0.8)
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
    for image in _geometries(spec):
        yield replace(setup, spec=image)


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


def _geometries(spec: ImageSpec) -> Iterator[ImageSpec]:
    resize = spec.resize
    if resize is None or isinstance(resize, OpenCVResize):
        resize = Resize()
    for filter_ in get_args(Filter):
        yield replace(spec, resize=replace(resize, filter=filter_))
    plain = Resize(filter=resize.filter)
    yield replace(spec, resize=plain)
    sizes: dict[tuple[int, int], None] = {}
    for share in _SHARES:
        for whole in (int, round):
            sizes[whole(spec.height / share + 1e-9), whole(spec.width / share + 1e-9)] = None
    if max(spec.height, spec.width) < _COMMON_SIZE:
        sizes[_COMMON_SIZE, _COMMON_SIZE] = None
    for height, width in sizes:
        own = (height, width) == (spec.height, spec.width)
        size = (None, None) if own else (height, width)
        yield replace(spec, resize=replace(plain, side="shorter", height=size[0], width=size[1]))
    yield replace(spec, resize=replace(plain, side="longer"))
    yield replace(spec, exif=not spec.exif)
    yield replace(spec, background=None if spec.background else (255, 255, 255))
    yield replace(spec, exif=not spec.exif, background=None if spec.background else (255, 255, 255))


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
    for name, flag in _geometry_change(before.spec, after.spec):
        names.append(name)
        flags.append(flag)
    return ", ".join(names), " ".join(flags)


def _geometry_change(before: ImageSpec, after: ImageSpec) -> Iterator[tuple[str, str]]:
    was, now = before.resize, after.resize
    if isinstance(now, Resize) and was != now:
        if not isinstance(was, Resize) or (was.side, before.resized) != (now.side, after.resized):
            yield _rule(after, now, before)
        if not isinstance(was, Resize) or was.filter != now.filter:
            yield "filter", f"--filter {now.filter}"
    if before.exif != after.exif:
        yield "EXIF", f"--exif {'apply' if after.exif else 'ignore'}"
    if before.background != after.background:
        yield "transparency", f"--transparency {'white' if after.background else 'drop'}"


def _rule(spec: ImageSpec, resize: Resize, before: ImageSpec) -> tuple[str, str]:
    if resize.side == "both":
        return "resize", "--resize stretch"
    if resize.side == "longer":
        return "resize", "--resize pad"
    was = before.resize
    name = "crop" if isinstance(was, Resize) and was.side == "shorter" else "resize and crop"
    height, width = spec.resized
    if (height, width) == (spec.height, spec.width):
        return name, "--resize crop"
    return name, f"--resize {height}" if height == width else f"--resize {height}x{width}"


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join("1/255" if value == 1 / 255 else f"{value:g}" for value in values)
