import math

import pytest

from loadtest.expect import ExpectError, parse, violations

NAMES = ("p99_ms", "errors", "rps")


def test_clauses_are_read_with_or_without_spaces() -> None:
    clauses = parse("p99_ms<20, errors == 0 ,rps>=500.5", NAMES)
    assert [str(clause) for clause in clauses] == ["p99_ms<20", "errors==0", "rps>=500.5"]


@pytest.mark.parametrize(
    ("text", "figure", "does_hold"),
    [
        ("rps<2", 1.9, True),
        ("rps<2", 2.0, False),
        ("rps<=2", 2.0, True),
        ("rps<=2", 2.1, False),
        ("rps>2", 2.1, True),
        ("rps>2", 2.0, False),
        ("rps>=2", 2.0, True),
        ("rps>=2", 1.9, False),
        ("rps==2", 2.0, True),
        ("rps==2", 2.1, False),
        ("rps!=2", 2.1, True),
        ("rps!=2", 2.0, False),
        ("rps<2", math.nan, False),
        ("rps!=2", math.nan, False),
    ],
)
def test_every_comparison(text: str, figure: float, does_hold: bool) -> None:
    assert (violations(parse(text, NAMES), {"rps": figure}) == []) is does_hold


def test_every_clause_that_is_violated_is_one_line() -> None:
    figures = {"p99_ms": 31.5, "errors": 0.0, "rps": 400.0}
    said = violations(parse("p99_ms<20,errors==0,rps>500", NAMES), figures)
    assert said == ["expected p99_ms<20, got 31.5", "expected rps>500, got 400"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "expected clauses such as"),
        ("p99_ms", "got 'p99_ms'"),
        ("p99_ms<", "got 'p99_ms<'"),
        ("p99_ms<20,", "got ''"),
        ("p99_ms=20", "got 'p99_ms=20'"),
        ("p99_ms<-1", "p99_ms<-1"),
        ("p99_ms<20ms", "got 'p99_ms<20ms'"),
        ("20>p99_ms", "20>p99_ms"),
        ("latency<20", "expected one of p99_ms, errors, rps, got 'latency'"),
        ("__import__('os')", "expected clauses"),
    ],
)
def test_what_is_no_clause_is_one_line(text: str, match: str) -> None:
    with pytest.raises(ExpectError) as caught:
        parse(text, NAMES)
    assert match in str(caught.value) and "\n" not in str(caught.value)
