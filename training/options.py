"""How an option of ``foveal train`` is declared, and what follows from its declaration.

``TrainConfig`` annotates each of its fields with an ``Option``. The command line, the range checks,
``run.json`` and the table in ``docs/`` are all derived from these annotations. Imports only the
standard library, because ``foveal train --help`` must not wait for torch.
"""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from training.errors import ConfigError

_Value = TypeVar("_Value")

REQUIRED: Any = object()


@dataclass(frozen=True, slots=True)
class Option:
    """The declaration of one option.

    Attributes:
        group: Heading in the table of options.
        help: A noun phrase or an imperative, without unit, names, range and default.
        default: Value if neither the command line nor a recipe sets one; ``REQUIRED`` for none.
        unit: Unit of the number.
        zero: Describes what 0 does, as ``for no limit``.
        low: Smallest allowed number.
        above: Limit that the number must exceed.
        below: Limit that the number must stay under.
        names: Names that exist. Only documentation: the registry of that name checks them.
        aliases: Further words on the command line, which ``recipes.resolve`` replaces.
        default_text: Describes a default that is not a plain value.
        before: Value in runs that were recorded before the option existed; ``REQUIRED`` if the
            record must have it.
    """

    group: str
    help: str
    default: Any = None
    _: KW_ONLY
    unit: str = ""
    zero: str = ""
    low: float | None = None
    above: float | None = None
    below: float | None = None
    names: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    default_text: str = ""
    before: Any = REQUIRED


@dataclass(frozen=True, slots=True)
class OptionField:
    """A field of the configuration with its declaration.

    Attributes:
        name: Name of the field; the option is the same with dashes.
        type: Type of the value.
        option: The declaration.
    """

    name: str
    type: Any
    option: Option

    @property
    def flag(self) -> str:
        """The option on the command line, without ``--``."""
        return self.name.replace("_", "-")

    @property
    def is_required(self) -> bool:
        """Whether the command line must give the option."""
        return self.option.default is REQUIRED and not self.option.default_text

    @property
    def word_type(self) -> type:
        """Type of the value on the command line; widths are one word there, as ``512,512``."""
        plain = next(
            (t for t in (bool, int, float, Path) if t in (self.type, *get_args(self.type))), str
        )
        return str if get_origin(self.type) is tuple else plain

    @property
    def choices(self) -> tuple[str, ...]:
        """The only words that the field accepts; empty if it accepts others."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def words(self) -> tuple[str, ...]:
        """Words and names to document."""
        return (*self.option.aliases, *self.choices, *self.option.names)

    @property
    def range(self) -> str:
        """The allowed numbers in the notation of click, as ``0<=x<1``; empty for all."""
        option = self.option
        below = "" if option.below is None else f"<{_plain(option.below)}"
        for limit, sign in ((option.low, "="), (option.above, "")):
            if limit is not None:
                return f"{limit:g}<{sign}x{below}" if below else f"x>{sign}{limit:g}"
        return ""

    @property
    def default(self) -> str:
        """The default as the command line writes it; empty for a required option."""
        if self.option.default is REQUIRED:
            return self.option.default_text
        return self.option.default_text or write_value(self.option.default)

    @property
    def help(self) -> str:
        """The help text: what, the names, the default and the range."""
        limits = [f"default: {self.default}" if self.default else "", self.range]
        brackets = "; ".join(filter(None, limits))
        return f"{self.description}.  [{brackets}]" if brackets else f"{self.description}."

    @property
    def description(self) -> str:
        """The help text without default and range."""
        unit = f", in {self.option.unit}" if self.option.unit else ""
        zero = f"; 0 {self.option.zero}" if self.option.zero else ""
        words = f": {', '.join(self.words)}" if self.words else ""
        return f"{self.option.help}{unit}{zero}{words}"

    def check(self, value: Any) -> str:
        """Return the error message for a value that is not allowed, else an empty text."""
        if self.choices:
            expected = f"one of {', '.join(self.choices)}"
            return (
                "" if value in self.choices else f"{self.name}: expected {expected}, got {value!r}"
            )
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            return f"{self.name}: expected a finite number, got {value}"
        if not self.range or all(self._allows(number) for number in numbers):
            return ""
        return f"{self.name}: expected {self._limits()}, got {value}"

    def arguments(self, value: Any) -> list[str]:
        """Return the words of a command line that set the value; none for None and no widths."""
        if isinstance(value, bool):
            return [f"--{self.flag}" if value else f"--no-{self.flag}"]
        return [] if value in (None, ()) else [f"--{self.flag}", _write_exactly(value)]

    def from_json(self, value: Any) -> Any:
        """Rebuild a value that JSON holds as a text or a list."""
        if get_origin(self.type) is tuple:
            return tuple(value)
        return (
            Path(value)
            if value is not None and Path in (self.type, *get_args(self.type))
            else value
        )

    def _allows(self, number: float) -> bool:
        option = self.option
        return (
            (option.low is None or number >= option.low)
            and (option.above is None or number > option.above)
            and (option.below is None or number < option.below)
        )

    def _limits(self) -> str:
        option = self.option
        texts = (("at least", option.low), ("more than", option.above), ("below", option.below))
        return " and ".join(f"{text} {_plain(limit)}" for text, limit in texts if limit is not None)


def option_fields(config: type, first: tuple[str, ...] = ()) -> dict[str, OptionField]:
    """Return the options that a class declares, by the names of its fields.

    Args:
        config: The class.
        first: Fields that come before the others, which keep their order.
    """
    hints = get_type_hints(config, include_extras=True)
    return {
        name: OptionField(name, hints[name].__origin__, hints[name].__metadata__[0])
        for name in (*first, *(name for name in hints if name not in first))
    }


def declared_values(
    options: Mapping[str, OptionField], which: Literal["before", "default"]
) -> dict[str, Any]:
    """Return that attribute of the declarations that have it, by the names of their fields."""
    values = {name: getattr(field.option, which) for name, field in options.items()}
    return {name: value for name, value in values.items() if value is not REQUIRED}


def write_value(value: Any) -> str:
    """Return a default as a reader wants it: ``0.002``, ``512,512``, ``no``."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else _write_exactly(value)


def _plain(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def _write_exactly(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def check_name(kind: str, name: str, existing: Mapping[str, _Value]) -> _Value:
    """Return what a registry has under a name.

    Raises:
        ConfigError: The name does not exist; the message lists those that do.
    """
    if name not in existing:
        raise ConfigError(f"{kind}: expected one of {', '.join(sorted(existing))}, got {name!r}")
    return existing[name]
