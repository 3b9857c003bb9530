"""How a load changes with time: steady, steps, spike, soak; of users or of arrivals a second."""

from typing import Literal

Shape = Literal["steady", "steps", "spike", "soak"]
SHAPES: tuple[Shape, ...] = ("steady", "steps", "spike", "soak")
# (from that second on, users or arrivals/s), in order, the first from 0.
Steps = tuple[tuple[float, float], ...]

_STEPS = 5
# Share of the level before and after a spike, and of the time when it begins and ends.
_BEFORE_SPIKE, _SPIKE = 0.2, (0.4, 0.6)


def steps_of(shape: Shape, level: float, duration_s: float) -> Steps:
    """Return the steps of a shape.

    Args:
        shape: ``steady`` and ``soak`` (the same for long) stay at the level; ``steps`` climbs to it
            in five equal ones; ``spike`` is at a fifth of it, but for the middle fifth of the time.
        level: The highest: users, or arrivals/s.
        duration_s: Of the whole.
    """
    if shape == "steps":
        return tuple((i * duration_s / _STEPS, (i + 1) * level / _STEPS) for i in range(_STEPS))
    if shape == "spike":
        begin, end = (share * duration_s for share in _SPIKE)
        return (0.0, _BEFORE_SPIKE * level), (begin, level), (end, _BEFORE_SPIKE * level)
    return ((0.0, level),)


def level_at(steps: Steps, at_s: float) -> float:
    """Return the level at a second; that of the first step before it."""
    return [level for begin, level in steps if begin <= max(at_s, 0.0)][-1]
