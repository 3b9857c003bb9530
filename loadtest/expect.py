"""``--expect 'p99_ms<20,errors==0,rps>500'``: clauses on the figures, and their violations."""

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_COMPARISONS = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_CLAUSE = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(<=|>=|==|!=|<|>)\s*([0-9]+(?:\.[0-9]*)?)\s*")


class ExpectError(ValueError):
    """The text is not a list of clauses, or names an unknown figure."""


@dataclass(frozen=True, slots=True)
class Clause:
    """A condition on one figure.

    Attributes:
        name: Name of the figure.
        comparison: ``<``, ``<=``, ``>``, ``>=``, ``==`` or ``!=``.
        value: Value that it is compared with.
    """

    name: str
    comparison: str
    value: float

    def __str__(self) -> str:
        return f"{self.name}{self.comparison}{self.value:g}"

    def holds(self, figure: float) -> bool:
        """Return whether a figure meets the condition; a missing one (NaN) never does."""
        return not math.isnan(figure) and bool(_COMPARISONS[self.comparison](figure, self.value))


def parse(text: str, names: Sequence[str]) -> list[Clause]:
    """Read clauses that are separated by commas.

    Args:
        text: ``name comparison number``, as ``p99_ms<20,errors==0``.
        names: Names of the figures.

    Raises:
        ExpectError: A clause is malformed, or names an unknown figure.
    """
    clauses = []
    for part in text.split(","):
        match = _CLAUSE.fullmatch(part)
        if match is None:
            raise ExpectError(f"expected clauses such as p99_ms<20,errors==0, got {part.strip()!r}")
        if match[1] not in names:
            raise ExpectError(f"expected one of {', '.join(names)}, got {match[1]!r}")
        clauses.append(Clause(match[1], match[2], float(match[3])))
    return clauses


def violations(clauses: Sequence[Clause], figures: Mapping[str, float]) -> list[str]:
    """Return one line for each clause that does not hold."""
    return [
        f"expected {clause}, got {figures[clause.name]:g}"
        for clause in clauses
        if not clause.holds(figures[clause.name])
    ]
