"""The progress of one load: which step it is at, how long each took, and what measuring may cost.

Opening a model, replaying its golden images and measuring it take milliseconds for a small network
and minutes for a large one. Steps are told as they begin; measuring stays within a budget that all
models of a start share. Knows no session and no model.
"""

import math
import time
from collections.abc import Callable

# What one model may measure, and all models of a start together, seconds. Batches that would not
# fit are measured at fewer rows.
MODEL_S = 0.25
ALL_MODELS_S = 4.0
# Steps shorter than this are not named in the log.
_SHOWN_S = 0.1


class Budget:
    """Seconds that may be spent on measuring.

    Args:
        seconds: All of them; ``inf``: without a limit.
        whole: Budget that this one is a part of; what is spent here is spent there.
    """

    def __init__(self, seconds: float = math.inf, whole: "Budget | None" = None) -> None:
        self._left_s = seconds
        self._whole = whole

    @property
    def left_s(self) -> float:
        """Return the seconds that are left, at least 0."""
        whole_s = math.inf if self._whole is None else self._whole.left_s
        return max(0.0, min(self._left_s, whole_s))

    def spend(self, seconds: float) -> None:
        """Take seconds off."""
        self._left_s -= seconds
        if self._whole is not None:
            self._whole.spend(seconds)


class Progress:
    """The steps of one load, and its budget.

    Args:
        budget: What measuring may cost; None: without a limit, as a command line measures.
        tell: Called with each step as it begins.
    """

    def __init__(
        self, budget: Budget | None = None, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self.budget = budget or Budget()
        self.is_bounded = budget is not None
        self._tell = tell
        self._step = ""
        self._began_at = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def begin(self, step: str) -> None:
        """End the step before and begin another, or the same one again."""
        now = time.perf_counter()
        if self._step:
            self._seconds[self._step] = self._seconds.get(self._step, 0.0) + now - self._began_at
        self._step, self._began_at = step, now
        if step:
            self._tell(step)

    @property
    def summary(self) -> str:
        """End the last step; return the longer ones as ``opening 5.1 s, self-test 2.0 s``."""
        self.begin("")
        return ", ".join(
            f"{step} {seconds:.1f} s"
            for step, seconds in self._seconds.items()
            if seconds >= _SHOWN_S
        )
