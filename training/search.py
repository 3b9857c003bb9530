"""What a sweep tries: ``lr=1e-4..1e-2 log, mixup=0,0.2`` becomes a range or a choice an option."""

import re
from dataclasses import dataclass
from typing import Any

from training.config import OPTIONS
from training.errors import ConfigError
from training.options import OptionField

# What would make the trials' validation accuracies no comparison, or choose a lucky number.
_FIXED_GROUPS = ("Data", "Devices", "Split and seed")
_RANGE = re.compile(r"(?P<low>[^\s.]\S*?)\.\.(?P<high>[^\s.]\S*)(?P<log>\s+log)?")
_TRUTH = {"yes": True, "true": True, "no": False, "false": False}


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers between two ends, both included.

    Attributes:
        low: Smallest number.
        high: Largest number, more than ``low``.
        is_log: Whether their logarithms are drawn evenly.
    """

    low: float
    high: float
    is_log: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """Some values, of which each trial takes one."""

    values: tuple[Any, ...]


Space = dict[str, Range | Choice]


def parse_space(text: str) -> Space:
    """Read what a sweep tries.

    Args:
        text: ``OPTION=LOW..HIGH``, ``OPTION=LOW..HIGH log`` or ``OPTION=VALUE,VALUE``, separated by
            commas; an option as on the command line, without ``--``.

    Returns:
        Field of ``TrainConfig`` to what is tried of it.

    Raises:
        ConfigError: An option does not exist or is fixed in a sweep, or a value is not allowed.
    """
    words: dict[str, list[str]] = {}
    name = ""
    for part in text.split(","):
        before, equals, after = part.partition("=")
        if equals:
            name = before.strip().removeprefix("--").replace("-", "_")
            if name in words:
                raise ConfigError(f"sweep: expected each option once, got {name!r} twice")
            words[name] = []
        if not name or not (after if equals else part).strip():
            raise ConfigError(
                f"sweep: expected OPTION=LOW..HIGH or OPTION=VALUE,VALUE, got {part.strip()!r}"
            )
        words[name].append((after if equals else part).strip())
    return {name: _read(name, values) for name, values in words.items()}


def _read(name: str, words: list[str]) -> Range | Choice:
    field = OPTIONS.get(name)
    if field is None or field.option.group in _FIXED_GROUPS:
        allowed = [f.flag for f in OPTIONS.values() if f.option.group not in _FIXED_GROUPS]
        raise ConfigError(f"sweep: expected one of {', '.join(allowed)}, got {name!r}")
    if field.type not in (bool, int, float, str) and not field.choices:
        raise ConfigError(
            f"sweep: expected an option with a number, a name, or yes and no, got {name!r}"
        )
    match = _RANGE.fullmatch(words[0]) if len(words) == 1 else None
    if match is None:
        values = tuple(_value(field, word) for word in words)
        return Choice(values)
    low, high = (_value(field, match[end]) for end in ("low", "high"))
    is_log = match["log"] is not None
    if field.type not in (int, float) or not low < high or (is_log and low <= 0):
        above = " above 0" if is_log else ""
        raise ConfigError(
            f"sweep: expected {name} as numbers LOW..HIGH{above}, the lower one first, "
            f"got {words[0]!r}"
        )
    return Range(low, high, is_log)


def _value(field: OptionField, word: str) -> Any:
    try:
        value = _TRUTH[word.lower()] if field.type is bool else field.word_type(word)
    except (KeyError, ValueError):
        kind = "yes or no" if field.type is bool else field.word_type.__name__
        raise ConfigError(f"sweep: expected {field.name} as {kind}, got {word!r}") from None
    if wrong := field.check(value):
        raise ConfigError(f"sweep: {wrong}")
    return value
