"""The order of a tuning and its verdict, with measurements that are functions of what is tried."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from loadtest.errors import LoadTestError
from loadtest.tune.journal import Journal
from loadtest.tune.points import DEFAULTS, Configuration, Served, SessionFigure, SessionPoint
from loadtest.tune.search import Outcome, Search, Wish


class Machine:
    """A machine of one's own making: time passes only where something is measured.

    Args:
        goodput: Requests/s of a configuration, by the number of the round.
        row_ms: What a row takes, alone on a thread.
        serve_s: What it takes to serve one configuration.
    """

    def __init__(
        self,
        goodput: Callable[[Configuration, int], float],
        row_ms: float = 0.1,
        serve_s: float = 20.0,
        bound: str = "service",
    ) -> None:
        self.now = 0.0
        self.swept: list[SessionPoint] = []
        self.served: list[Configuration] = []
        self._goodput = goodput
        self._row_ms = row_ms
        self._serve_s = serve_s
        self._bound = bound

    def clock(self) -> float:
        return self.now

    def sweep(
        self, points: Sequence[SessionPoint], budget_s: float
    ) -> Iterator[tuple[SessionPoint, SessionFigure]]:
        end = self.now + budget_s
        for point in points:
            self.now += 0.5
            if self.now > end:
                return
            self.swept.append(point)
            speed = point.threads * (2 if point.precision == "int8" else 1)
            run_ms = point.rows * self._row_ms / speed
            rate = point.instances * point.rows / run_ms * 1e3
            yield point, SessionFigure(rate, run_ms, run_ms, 10)

    def serve(
        self, configuration: Configuration, first_rate: float, budget_s: float, *, is_rough: bool
    ) -> Served:
        assert first_rate > 0
        assert budget_s > 0
        assert is_rough == (configuration not in self.served)
        self.now += min(self._serve_s, budget_s)
        self.served.append(configuration)
        rate = self._goodput(configuration, self.served.count(configuration))
        p99_ms = 10.0 if rate else math.nan
        bound = "time" if budget_s < self._serve_s else self._bound
        return Served(rate, rate, p99_ms, p99_ms, bound, ((rate, 1.0, p99_ms),))


def search(machine: Machine, folder: Path, budget_s: float = 300, p99_ms: float = 20) -> Outcome:
    wish = Wish(p99_ms, 2, ("fp32", "int8"), budget_s)
    journal = Journal(folder, {"model": "tiny:1", "p99_ms": p99_ms})
    return Search(wish, journal, machine.sweep, machine.serve, clock=machine.clock).run()


def best_is(wanted: Configuration, gain: float = 2.0) -> Callable[[Configuration, int], float]:
    return lambda configuration, _round: 1000 * (gain if configuration.trio == wanted.trio else 1)


WINNER = Configuration("int8", 2, 1, 64)


def test_what_serves_most_is_chosen(tmp_path: Path) -> None:
    machine = Machine(best_is(WINNER))
    outcome = search(machine, tmp_path)
    assert outcome.choice is not None
    assert outcome.choice.trio == WINNER.trio
    assert (outcome.best.goodput_per_s, outcome.default.goodput_per_s) == (2000, 1000)
    assert "+100% to the defaults" in outcome.verdict
    assert outcome.is_kept
    assert machine.served[0] == DEFAULTS
    assert machine.served.count(DEFAULTS) == machine.served.count(outcome.choice) == 2
    assert machine.now <= 300


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.04])
def test_defaults_that_nothing_beats_are_said_to_be_best(tmp_path: Path, gain: float) -> None:
    outcome = search(Machine(best_is(WINNER, gain)), tmp_path)
    assert outcome.choice is None
    assert outcome.verdict == "the defaults are best: 1,000 requests/s with p99 within 20 ms"
    assert outcome.best == outcome.default
    assert outcome.is_kept


def test_luck_in_the_round_that_chooses_is_not_believed(tmp_path: Path) -> None:
    """The best of many noisy rounds is too good; only a round of its own counts."""
    lucky = Machine(lambda c, number: 2000 if c.trio == WINNER.trio and number == 1 else 1000)
    assert search(lucky, tmp_path).choice is None


def test_a_configuration_that_does_not_start_is_left_out(tmp_path: Path) -> None:
    def goodput(configuration: Configuration, _round: int) -> float:
        if configuration.instances > 1:
            raise LoadTestError("service: expected it to start, got exit code -9")
        return best_is(WINNER)(configuration, 1)

    outcome = search(Machine(goodput), tmp_path)
    assert outcome.choice is not None
    assert outcome.choice.trio == WINNER.trio

    def fail(_configuration: Configuration, _round: int) -> float:
        raise LoadTestError("service: expected it to start, got exit code 1")

    with pytest.raises(LoadTestError):
        search(Machine(fail), tmp_path / "none")


def test_a_client_that_sends_no_more_is_said(tmp_path: Path) -> None:
    outcome = search(Machine(lambda _c, _n: 1000, bound="client"), tmp_path)
    assert outcome.choice is None
    assert "as far as this client can tell" in outcome.verdict


def test_a_promise_that_nothing_keeps_is_said(tmp_path: Path) -> None:
    outcome = search(Machine(lambda _c, _n: 0, row_ms=100), tmp_path)
    assert not outcome.is_kept
    assert outcome.choice is None
    assert "nothing keeps p99 within 20 ms" in outcome.verdict


def test_defaults_that_break_the_promise_are_beaten_by_whatever_keeps_it(tmp_path: Path) -> None:
    outcome = search(Machine(lambda c, _n: 0 if c == DEFAULTS else 10), tmp_path)
    assert outcome.choice is not None
    assert "the defaults do not keep it" in outcome.verdict


@pytest.mark.parametrize("budget_s", [10, 30, 60])
def test_a_short_budget_is_kept_and_ends_with_a_verdict(tmp_path: Path, budget_s: float) -> None:
    machine = Machine(best_is(WINNER))
    outcome = search(machine, tmp_path, budget_s)
    assert not outcome.is_whole
    assert DEFAULTS in machine.served
    assert machine.now <= budget_s + 4, "what was begun may end, nothing else"


def test_defaults_that_were_not_measured_to_the_end_are_not_beaten(tmp_path: Path) -> None:
    """Who stopped at a rate that it kept may keep twice that."""
    outcome = search(Machine(best_is(WINNER), serve_s=100), tmp_path)
    assert outcome.choice is None
    assert outcome.verdict.startswith("too little time to tell: the defaults serve 1,000")
    assert not outcome.is_whole


def test_a_repeated_command_measures_nothing_twice(tmp_path: Path) -> None:
    first, second = Machine(best_is(WINNER)), Machine(best_is(WINNER))
    outcome = search(first, tmp_path)
    assert search(second, tmp_path) == outcome
    assert not second.swept
    assert not second.served


def test_a_tuning_that_was_stopped_goes_on(tmp_path: Path) -> None:
    whole, first, second = (Machine(best_is(WINNER)) for _ in range(3))
    expected = search(whole, tmp_path / "whole")
    assert not search(first, tmp_path / "parts", budget_s=60).is_whole
    assert search(second, tmp_path / "parts") == expected
    assert not set(first.swept) & set(second.swept)
    assert sorted([*first.swept, *second.swept]) == sorted(whole.swept)


# The journal


def test_a_line_that_a_kill_cut_off_is_measured_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"model": "tiny:1"})
    point, figure = SessionPoint("fp32", 1, 1, 4), SessionFigure(1000, 4, 5, 10)
    served = Served(10, 11, 1, math.inf, "service", ((11.0, 1.0, 2.0),))
    journal.add_session(point, figure)
    journal.add_served(WINNER, served)
    path = tmp_path / "measurements.jsonl"
    path.write_text(path.read_text() + '{"point": {"prec')
    again = Journal(tmp_path, {"model": "tiny:1"})
    assert again.sessions == {point: figure}
    assert again.served == {WINNER: [served]}
    again.add_session(point, figure)
    assert Journal(tmp_path, {"model": "tiny:1"}).sessions == {point: figure}


def test_measurements_of_something_else_are_put_aside_and_the_difference_is_said(
    tmp_path: Path,
) -> None:
    Journal(tmp_path, {"model": "tiny:1", "cores": 2}).add_session(
        SessionPoint("fp32", 1, 1, 4), SessionFigure(1000, 4, 5, 10)
    )
    other = Journal(tmp_path, {"model": "tiny:1", "cores": 1})
    assert other.difference == "cores was 2, is 1"
    assert other.is_empty
    assert (tmp_path / "measurements.old.jsonl").exists()
    assert not Journal(tmp_path, {"model": "tiny:1", "cores": 1}).difference
    assert Journal(tmp_path, {"model": "tiny:1", "cores": 1}, is_fresh=True).is_empty
