"""One load test: the load, its results, and the service's own metrics.

service /metrics -> client's own limit -> load -> /metrics -> figures
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from loadtest.arrivals import Found, Offer, Offered, find_max, judge_client, offer
from loadtest.calls import DO_NOTHING, Call
from loadtest.engines import Traffic, send
from loadtest.samples import EXPIRED, FAILED, OUTCOMES, REFUSED, RIGHT, TIMEOUT, WRONG, Samples
from loadtest.scrape import ServerFigures, difference, look

# What --expect may name, in the order that the figures are printed in.
FIGURES = (
    "requests",
    "rps",
    "goodput_rps",
    "rows_per_s",
    "offered_rps",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "max_ms",
    "errors",
    "wrong",
    "refused",
    "expired",
    "failed",
    "mean_batch_rows",
)
# The client's own limit is measured for half the load's length, within these bounds.
_LIMIT_USERS, _LEAST_S, _LIMIT_S = 64.0, 0.5, 2.0


@dataclass(frozen=True, slots=True)
class Search:
    """How ``--find-max`` searches.

    Attributes:
        first_rate: Where it begins, requests/s.
        each_s: Length of one measurement.
        budget_s: After which none is begun.
    """

    first_rate: float
    each_s: float
    budget_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """All of one load test.

    Attributes:
        url: The service.
        model: What was asked, for people.
        traffic: What was sent.
        p99_ms: The promise; answers that take longer are no goodput.
        samples: Every request that was meant to be sent in the duration.
        figures: Values by the names of ``FIGURES``; NaN if unknown.
        client_limit_per_s: What the same client takes from a route that does nothing; NaN where the
            service has none.
        is_client_saturated: Whether the client, not the service, made the figures.
        server: The service's own metrics; None if it is not Foveal.
        found: What the search for the highest rate found, if there was one.
    """

    url: str
    model: str
    traffic: Traffic
    p99_ms: float
    samples: Samples
    figures: Mapping[str, float]
    client_limit_per_s: float
    is_client_saturated: bool
    server: ServerFigures | None
    found: Found | None = None


def run_trial(  # noqa: PLR0913 - one test's words
    url: str,
    model: str,
    calls: Sequence[Call],
    traffic: Traffic,
    *,
    p99_ms: float,
    search: Search | None = None,
    say: Callable[[str, float, float], None] = lambda *_: None,
) -> Outcome:
    """Load a service and measure it.

    Args:
        url: ``http://host:port``.
        model: What is asked, for people.
        calls: Requests, sent in random order.
        traffic: When. With a search only its engine, duration and bounds count: the load is then
            open arrivals at the rate that was found.
        p99_ms: The promise.
        search: Whether and how the highest rate that keeps the promise is searched for first.
        say: Called with what is done now, the seconds since its start, and how long it will take.

    Raises:
        LoadTestError: Sending broke.
    """
    limit = _client_limit(url, traffic, say)
    found = None
    if search is not None:
        found = _search(url, calls, traffic, p99_ms, search, say)
        rate = found.rate_per_s or search.first_rate
        traffic = replace(traffic, is_open=True, steps=((0.0, rate),))
    before = look(url)
    samples = send(
        url, calls, traffic, lambda s: say("load", min(s, traffic.duration_s), traffic.duration_s)
    ).between(0.0, traffic.duration_s)
    server = difference(before, look(url))
    figures = figures_of(samples, traffic.duration_s, p99_ms)
    figures["mean_batch_rows"] = server.mean_batch_rows if server is not None else math.nan
    return Outcome(
        url,
        model,
        traffic,
        p99_ms,
        samples,
        figures,
        limit,
        judge_client(samples, p99_ms),
        server,
        found,
    )


def figures_of(samples: Samples, duration_s: float, p99_ms: float) -> dict[str, float]:
    """Return the figures of all requests of a load, by the names of ``FIGURES``."""
    right = samples.where(samples.outcome_N == RIGHT)
    count = {name: samples.count(index) for index, name in enumerate(OUTCOMES)}
    latency_ms = samples.latency_s_N[np.isin(samples.outcome_N, (RIGHT, WRONG))] * 1e3
    return {
        "requests": len(samples),
        "rps": len(right) / duration_s,
        "goodput_rps": int((right.latency_s_N <= p99_ms / 1e3).sum()) / duration_s,
        "rows_per_s": float(right.rows_N.sum()) / duration_s,
        "offered_rps": len(samples) / duration_s,
        "p50_ms": samples.latency_ms(0.5),
        "p95_ms": samples.latency_ms(0.95),
        "p99_ms": samples.latency_ms(0.99),
        "max_ms": float(latency_ms.max()) if len(latency_ms) else math.nan,
        "errors": len(samples) - len(right),
        "wrong": count[OUTCOMES[WRONG]],
        "refused": count[OUTCOMES[REFUSED]],
        "expired": count[OUTCOMES[EXPIRED]],
        "failed": count[OUTCOMES[FAILED]] + count[OUTCOMES[TIMEOUT]],
        "mean_batch_rows": math.nan,
    }


def _client_limit(url: str, traffic: Traffic, say: Callable[[str, float, float], None]) -> float:
    limit_s = min(_LIMIT_S, max(_LEAST_S, traffic.duration_s / 2))
    idle = replace(
        traffic,
        steps=((0.0, _LIMIT_USERS),),
        is_open=False,
        duration_s=limit_s,
        user="",
        moments=(),
        processes=traffic.process_count,
    )
    samples = send(url, [DO_NOTHING], idle, lambda s: say("client's limit", s, limit_s))
    samples = samples.between(0.0, limit_s)
    return len(samples) / limit_s if samples.count(RIGHT) == len(samples) else math.nan


def _search(
    url: str,
    calls: Sequence[Call],
    traffic: Traffic,
    p99_ms: float,
    search: Search,
    say: Callable[[str, float, float], None],
) -> Found:
    begun = time.monotonic()

    def measure(rate: float) -> Offered:
        say(f"{rate:,.0f} requests/s", time.monotonic() - begun, search.budget_s)
        load = Offer(
            rate,
            search.each_s,
            p99_ms,
            timeout_ms=traffic.timeout_s * 1e3,
            cpus=traffic.cpus,
            processes=traffic.processes,
            connections=traffic.connections,
            engine=traffic.engine,
            seed=int(rate),
            grpc_address=traffic.grpc_address,
        )
        return offer(url, calls, load)

    return find_max(measure, first_rate=search.first_rate, budget_s=search.budget_s)
