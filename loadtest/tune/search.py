"""The order of measurements within the budget, and the choice at the end.

The session alone shows which shapes to serve; the service decides between them. Knows how to spend
time, not how to measure: ``sweep`` and ``serve`` are passed in.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from loadtest.errors import LoadTestError
from loadtest.tune.journal import Journal
from loadtest.tune.points import (
    DEFAULTS,
    Configuration,
    Served,
    SessionFigure,
    SessionPoint,
    grid,
    guess_rate,
    survivors,
)
from models.artifact import Precision

# Of the budget; the service's own answers need most of it.
_SESSION_SHARE = 0.25
# A choice must be so much better than the defaults: what one search leaves open, and some noise.
MARGIN = 1.05
# A service starts and tries three rates at least; it starts and comes to an end with luck.
_LEAST_S, _ENOUGH_S = 8.0, 12.0
# What one search costs, to tell how many there is time for.
_SEARCH_S = 25.0
# Rounds of the favourite and of the defaults: the first chooses it, so only later ones judge it.
_ROUNDS = 2

Sweep = Callable[[Sequence[SessionPoint], float], Iterator[tuple[SessionPoint, SessionFigure]]]


class Serve(Protocol):
    """Measures the service; see ``serve.Service.measure``."""

    def __call__(
        self, configuration: Configuration, first_rate: float, budget_s: float, *, is_rough: bool
    ) -> Served:
        """Return the measurement."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What to find, and the limits.

    Attributes:
        p99_ms: The promised p99 latency, milliseconds.
        cores: Cores of one worker.
        precisions: Precisions to try.
        budget_s: Seconds for everything.
        is_gpu: Whether sessions run on a GPU.
    """

    p99_ms: float
    cores: int
    precisions: tuple[Precision, ...]
    budget_s: float
    is_gpu: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a search.

    Attributes:
        choice: Configuration to run; None: nothing was shown to be better than the defaults.
        best: Its last round; the defaults' last round without a choice.
        default: Last round of the defaults.
        verdict: One sentence for a reader.
        is_kept: Whether anything keeps the promise at all.
        is_whole: Whether the budget was enough for all measurements.
    """

    choice: Configuration | None
    best: Served
    default: Served
    verdict: str
    is_kept: bool
    is_whole: bool


class Search:
    """One tuning.

    Args:
        wish: What to find.
        journal: Known measurements; new ones are added.
        sweep: Measures the session alone: points and seconds in, figures out as they come.
        serve: Measures the service, the first round of a configuration roughly.
        progress: Called with the current step.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        wish: Wish,
        journal: Journal,
        sweep: Sweep,
        serve: Serve,
        *,
        progress: Callable[[str], None] = lambda _what: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wish = wish
        self._journal = journal
        self._sweep = sweep
        self._serve = serve
        self._progress = progress
        self._clock = clock
        self._end = clock() + wish.budget_s
        self._is_whole = True
        # Rounds that their time cut short are made again.
        self._rounds = {
            configuration: done
            for configuration, rounds in journal.served.items()
            if (done := [served for served in rounds if served.bound != "time"])
        }

    def run(self) -> Outcome:
        """Measure, within the budget, and choose."""
        self._sweep_sessions()
        wish = self._wish
        # Three searches are not for these: the defaults' and the two of the last round.
        most = min(4, max(1, int(self._left_s / _SEARCH_S) - 3))
        candidates = [DEFAULTS, *survivors(self._journal.sessions, wish.p99_ms, most)]
        self._measure_each(candidates, 1, reserve=2)
        favourite = self._favourite()
        if favourite is not None:
            for number in range(2, _ROUNDS + 1):
                self._measure_each([favourite, DEFAULTS], number, least_s=_ENOUGH_S)
        if DEFAULTS not in self._rounds:  # whatever the budget: what else is it compared with?
            self._measure(DEFAULTS, _LEAST_S)
        return self._judge(favourite)

    @property
    def _left_s(self) -> float:
        return self._end - self._clock()

    def _sweep_sessions(self) -> None:
        wish, known = self._wish, self._journal.sessions
        points = [
            p for p in grid(wish.precisions, wish.cores, is_gpu=wish.is_gpu) if p not in known
        ]
        # A batch is not tried again that was left out as its smaller ones ran too long.
        long = {(p.trio, p.rows) for p, f in known.items() if f.p50_ms > wish.p99_ms}
        points = [p for p in points if not any(t == p.trio and p.rows > rows for t, rows in long)]
        budget_s = min(_SESSION_SHARE * wish.budget_s, self._left_s)
        for count, (point, figure) in enumerate(self._sweep(points, budget_s)):
            self._journal.add_session(point, figure)
            self._progress(
                f"session {count + 1}/{len(points)}: {point.precision}, {point.instances} x "
                f"{point.threads} threads, {point.rows} rows: {figure.rows_per_s:,.0f}/s"
            )

    def _measure_each(
        self,
        configurations: Sequence[Configuration],
        rounds: int,
        reserve: int = 0,
        least_s: float = _LEAST_S,
    ) -> None:
        """Serve what has fewer rounds than that; share what time is left, less what is reserved."""
        missing = [c for c in configurations if len(self._rounds.get(c, ())) < rounds]
        for count, configuration in enumerate(missing):
            share_s = self._left_s / (len(missing) - count + reserve)
            if share_s < _ENOUGH_S:  # better one search that ends than two that do not
                share_s = self._left_s / (len(missing) - count)
            if share_s < least_s and (rounds > 1 or configuration != DEFAULTS):
                self._is_whole = False
                continue
            self._measure(configuration, share_s)

    def _measure(self, configuration: Configuration, share_s: float) -> None:
        self._progress(f"serving: {configuration.title}")
        known = self._rounds
        first = self._first_rate(configuration)
        # A service takes seconds to start and to stop, and the rate that is out is let end.
        try:
            served = self._serve(
                configuration,
                first,
                max(1.0, share_s - _LEAST_S / 2),
                is_rough=configuration not in known,
            )
        except LoadTestError as error:
            if configuration == DEFAULTS:
                raise
            self._progress(f"{configuration.title} is left out: {error}")
            served = Served(0.0, 0.0, math.nan, math.nan, "service", ())
        known.setdefault(configuration, []).append(served)
        self._journal.add_served(configuration, served)
        self._progress(f"{configuration.title}: {served.goodput_per_s:,.0f} requests/s")

    def _first_rate(self, configuration: Configuration) -> float:
        """Return where to begin: where it ended before, else a guess by what the defaults did."""
        known, figures = self._rounds, self._journal.sessions
        guess = guess_rate(configuration, figures)
        if known.get(configuration) and known[configuration][-1].rate_per_s:
            return known[configuration][-1].rate_per_s
        if known.get(DEFAULTS) and known[DEFAULTS][-1].rate_per_s:
            return known[DEFAULTS][-1].rate_per_s * guess / guess_rate(DEFAULTS, figures)
        return guess

    def _favourite(self) -> Configuration | None:
        """Return what did best in its first round, the defaults aside; None if nothing did."""
        first = {c: s[0] for c, s in self._rounds.items() if c != DEFAULTS}
        best = max(first, key=lambda c: first[c].goodput_per_s, default=None)
        return best if best is not None and first[best].goodput_per_s else None

    def _judge(self, favourite: Configuration | None) -> Outcome:
        known, p99_ms = self._rounds, self._wish.p99_ms
        # Judged by the round after the one that made it the favourite, which flatters it; by the
        # first where the time was too short for another.
        pair = [known[c] for c in (favourite or DEFAULTS, DEFAULTS)]
        is_judged = all(len(rounds) >= _ROUNDS and rounds[-1].bound != "time" for rounds in pair)
        best, default = (rounds[-1 if is_judged else 0] for rounds in pair)
        self._is_whole &= is_judged or favourite is None
        self._is_whole &= "time" not in (best.bound, default.bound)
        is_better = best.goodput_per_s > MARGIN * default.goodput_per_s
        choice, is_kept = None, True
        if not best.goodput_per_s and not default.goodput_per_s:
            is_kept, verdict = False, _nothing_keeps(p99_ms, is_whole=self._is_whole)
        elif is_better and default.bound == "time" and best.goodput_per_s < default.at_most_per_s:
            verdict = (
                f"too little time to tell: the defaults serve {default.goodput_per_s:,.0f} "
                f"requests/s with p99 within {p99_ms:g} ms, or more"
            )
        elif favourite is not None and is_better:
            choice, verdict = favourite, _favourite_is_best(favourite, best, default, p99_ms)
        else:
            verdict = _defaults_are_best(best, default, p99_ms)
        shown = default if choice is None else best
        return Outcome(choice, shown, default, verdict, is_kept, self._is_whole)


def _nothing_keeps(p99_ms: float, *, is_whole: bool) -> str:
    if is_whole:
        return f"nothing keeps p99 within {p99_ms:g} ms here; promise more milliseconds"
    return f"too little time: no rate that was tried keeps p99 within {p99_ms:g} ms"


def _favourite_is_best(
    favourite: Configuration, best: Served, default: Served, p99_ms: float
) -> str:
    gain = (
        f", {best.goodput_per_s / default.goodput_per_s - 1:+.0%} to the defaults"
        if default.goodput_per_s
        else "; the defaults do not keep it"
    )
    return (
        f"{favourite.title}: {best.goodput_per_s:,.0f} requests/s with p99 within "
        f"{p99_ms:g} ms{gain}"
    )


def _defaults_are_best(best: Served, default: Served, p99_ms: float) -> str:
    bound = (
        " as far as this client can tell: it sends no more; give it cores with --cores"
        if "client" in (best.bound, default.bound)
        else ""
    )
    return (
        f"the defaults are best{bound}: {default.goodput_per_s:,.0f} requests/s with p99 "
        f"within {p99_ms:g} ms"
    )
