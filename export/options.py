"""Read how an adopted graph wants its pixels: flags, over a TOML file, over defaults.

Knows nothing about the graph itself.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

from export.errors import AdoptError
from models.artifact import MAX_SIDE, Filter, Task

Layout = Literal["NCHW", "NHWC"]
Channels = Literal["RGB", "BGR"]
Gives = Literal["logits", "probabilities"]
Rule = Literal["stretch", "crop", "pad"]
Loader = Literal["viewer", "pillow"]
CropRounding = Literal["half-even", "floor"]


@dataclass(frozen=True, slots=True)
class Options:
    """Properties of a graph that its file does not state.

    The graph gets ``(pixel * scale - mean) / std``, pixels 0-255, channels in its own order.

    Attributes:
        layout: Order of the input's axes; None: read from the graph's shape.
        scale: Factor for each pixel.
        mean: Subtracted; one number, or one for each channel.
        std: Divisor, not 0; one number, or one for each channel.
        channels: Order of the colours in the graph's input.
        resize: ``stretch`` both sides, ``crop`` the centre or ``pad``; or the shorter side in
            pixels before the crop of the centre. None: ``stretch``, or ``crop`` with a crop share.
        crop_share: Share of the resized picture that the graph's size is, above 0, at most 1;
            None: all of it, or as ``resize`` says.
        crop_rounding: Where the centre is when an odd number of pixels is cut off.
        filter: Pillow's filter of the resize.
        pad_colour: Colour of the padding, 0-255; one number, or one for each channel.
        loader: How files are opened: as a ``viewer`` shows them, or as Pillow's ``convert``.
        size: (height, width), if the graph leaves them open.
        output: Name of the output to use; None: the only one.
        gives: What that output is; None: ``probabilities`` if a Softmax or Sigmoid makes it, else
            ``logits``.
        task: What the numbers of a row are; None: read from the output's maker and shape.
        threshold: Of a multi-label model: a number, or a file of one for each label; None: 0.5.
        input_channels: 1 or 3, if the graph leaves them open.
        is_scaled: Whether scale, mean or std was given; else it is asked of float inputs.
    """

    layout: Layout | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: Channels = "RGB"
    resize: Rule | int | None = None
    crop_share: float | None = None
    crop_rounding: CropRounding = "half-even"
    filter: Filter = "bilinear"
    pad_colour: tuple[int, ...] | None = None
    loader: Loader = "viewer"
    size: tuple[int, int] | None = None
    output: str | None = None
    gives: Gives | None = None
    task: Task | None = None
    threshold: str | None = None
    input_channels: int | None = None
    is_scaled: bool = True


_SIZE = re.compile("([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", re.IGNORECASE)
_CHOICES: dict[str, tuple[str, ...]] = {
    "layout": get_args(Layout),
    "channels": get_args(Channels),
    "gives": get_args(Gives),
    "crop_rounding": get_args(CropRounding),
    "filter": get_args(Filter),
    "loader": get_args(Loader),
    "task": get_args(Task),
}


def read_options(toml: Path | None, flags: Mapping[str, object]) -> Options:
    """Read options from flags, a TOML file and the defaults, in this order of precedence.

    Args:
        toml: A file with the names of the flags as keys, or None.
        flags: Name to value; None for a flag that was not given.

    Raises:
        AdoptError: An unknown key, or an invalid value.
    """
    given: dict[str, object] = {}
    if toml is not None:
        try:
            given = tomllib.loads(toml.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise AdoptError(f"{toml}: expected TOML, got {error}") from None
    known = [field.name for field in fields(Options) if field.name != "is_scaled"]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise AdoptError(f"{toml}: expected {', '.join(known)}, got {unknown[0]!r}")
    given |= {name: value for name, value in flags.items() if value is not None}
    is_scaled = bool({"scale", "mean", "std"} & set(given))
    return Options(
        **{name: _read(name, value) for name, value in given.items()}, is_scaled=is_scaled
    )


def read_thresholds(value: str | None, task: Task, labels: tuple[str, ...]) -> tuple[float, ...]:
    """Read the thresholds of a multi-label model: one number for all, or a file with one a line.

    Args:
        value: The number, or the file's path; None: 0.5.
        task: Of another task there are none.
        labels: Its labels.

    Raises:
        AdoptError: A threshold although the task has none, one outside 0 to 1, or another number
            of them than of labels.
    """
    if task != "multi-label":
        if value is not None:
            raise AdoptError(f"threshold: expected none of a {task} model, got {value}")
        return ()
    try:
        numbers = [float(value if value is not None else 0.5)] * len(labels)
    except ValueError:
        try:
            lines = Path(str(value)).read_text(encoding="utf-8-sig").split()
            numbers = [float(line) for line in lines]
        except (OSError, ValueError):
            raise AdoptError(
                f"threshold: expected a number or a file with one a line, got {value!r}"
            ) from None
    if len(numbers) != len(labels) or not all(0 <= number <= 1 for number in numbers):
        raise AdoptError(
            f"threshold: expected {len(labels)} numbers from 0 to 1, one for each label, "
            f"got {len(numbers)}: {value}"
        )
    return tuple(numbers)


def _read(name: str, value: object) -> Any:
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise AdoptError(f"{name}: expected {' or '.join(_CHOICES[name])}, got {value!r}")
        return value
    return _READERS[name](name, value)


def _moments(name: str, value: object) -> tuple[float, ...]:
    numbers = _numbers(name, value)
    if len(numbers) not in (1, 3) or (name == "std" and 0 in numbers):
        raise AdoptError(f"{name}: expected one number or three, std not 0, got {value!r}")
    return numbers


def _scale(name: str, value: object) -> float:
    numbers = _numbers(name, value)
    if len(numbers) != 1:
        raise AdoptError(f"{name}: expected one number, got {value!r}")
    return numbers[0]


def _share(name: str, value: object) -> float:
    share = _scale(name, value)
    if not 0 < share <= 1:
        raise AdoptError(f"{name}: expected above 0, at most 1, got {value!r}")
    return share


def _colour(name: str, value: object) -> tuple[int, ...]:
    numbers = _numbers(name, value)
    if len(numbers) not in (1, 3) or not all(number in range(256) for number in numbers):
        raise AdoptError(f"{name}: expected one number or three, 0 to 255, got {value!r}")
    return tuple(map(int, numbers))


def _channels(name: str, value: object) -> int:
    if str(value) not in ("1", "3"):
        raise AdoptError(f"{name}: expected 1 or 3, got {value!r}")
    return int(str(value))


def _threshold(_name: str, value: object) -> str:
    return str(value)  # ``read_thresholds`` reads it, once the labels are known


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise AdoptError(f"{name}: expected a name, got {value!r}")
    return value


def _resize(name: str, value: object) -> Rule | int:
    """Read a rule, or the pixels of the shorter side."""
    rules = get_args(Rule)
    if value in rules:
        return cast(Rule, value)
    pixels = int(value) if isinstance(value, int | str) and str(value).isdecimal() else 0
    if not 1 <= pixels <= MAX_SIDE:
        raise AdoptError(
            f"{name}: expected {', '.join(rules)} or the shorter side, 1 to {MAX_SIDE} pixels, "
            f"got {value!r}"
        )
    return pixels


def _size(name: str, value: object) -> tuple[int, int]:
    found = _SIZE.fullmatch("x".join(map(str, value)) if isinstance(value, list) else str(value))
    if found is None:
        raise AdoptError(f"{name}: expected 224 or 224x256, height first, got {value!r}")
    return int(found[1]), int(found[2] or found[1])


def _numbers(name: str, value: object) -> tuple[float, ...]:
    """Read ``0.5``, ``1/255``, ``0.485,0.456,0.406`` or a TOML list of these."""
    parts = value if isinstance(value, list) else str(value).split(",")
    try:
        pairs = [str(part).split("/") for part in parts]
        numbers = tuple(float(top) / float(bottom[0] if bottom else 1) for top, *bottom in pairs)
        if not all(abs(number) < float("inf") for number in numbers):
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise AdoptError(f"{name}: expected numbers as 0.5 or 1/255, got {value!r}") from None
    return numbers


_READERS: dict[str, Callable[[str, object], Any]] = {
    "crop_share": _share,
    "input_channels": _channels,
    "mean": _moments,
    "output": _text,
    "pad_colour": _colour,
    "resize": _resize,
    "scale": _scale,
    "size": _size,
    "std": _moments,
    "threshold": _threshold,
}
