"""Open arrivals at a service: offer a rate and measure it; find the highest rate that it keeps.

    from loadtest.arrivals import find_max, offer
    found = find_max(lambda rate: offer(url, calls, Offer(rate, 3.0, p99_ms=20)), first_rate=500)
    found.rate_per_s, found.best.goodput_per_s, found.bound     # bound: "service" or "client"

``calls`` come from ``payloads.make_calls(repository, artifact)``. The service must be running.
Child processes send the load; this module patches nothing in the caller's process.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from loadtest.calls import DO_NOTHING, Call
from loadtest.engines import Engine, Traffic, send
from loadtest.samples import (
    EXPIRED,
    FAILED,
    REFUSED,
    RIGHT,
    TIMEOUT,
    WRONG,
    Samples,
    percentile,
)

# A client process that used more of its core, or came to more than 5 % of its requests this late,
# measured itself. Lateness is judged against the promise: 2 ms of 20 are its tenth.
_CPU_SHARE = 0.9
_LATE_SHARE = 0.1
_LATE_MS = 2.0


@dataclass(frozen=True, slots=True)
class Offer:
    """A load of independent clients.

    Attributes:
        rate_per_s: Requests per second, a Poisson process.
        duration_s: Length of the measurement.
        p99_ms: The promise: later answers do not count.
        warm_up_s: The same load before the measurement, not counted.
        timeout_ms: The client gives up on an answer after this; also the longest wait at the end.
        deadline_ms: Sent as ``X-Request-Timeout-Ms`` with each request; None: none.
        processes: Sender processes; 0: chosen by the rate.
        connections: Most connections, all processes together.
        cpus: CPUs of the processes, as ``taskset -c`` takes them; empty: not pinned.
        seed: Seed of the arrivals.
        engine: Load generator; the sender supports HTTP only.
        grpc_address: ``host:port`` for calls over gRPC.
    """

    rate_per_s: float
    duration_s: float
    p99_ms: float
    warm_up_s: float = 0.5
    timeout_ms: float = 5000.0
    deadline_ms: float | None = None
    processes: int = 0
    connections: int = 4096
    cpus: str = ""
    seed: int = 0
    engine: Engine = "sender"
    grpc_address: str = ""


@dataclass(frozen=True, slots=True)
class Offered:
    """The result of an offer; rates are per second, times count from the intended start.

    Attributes:
        rate_per_s: The rate of the offer.
        offered_per_s: Requests that arrived; random, so not exactly that rate.
        answered_per_s: Answers with 200 and the recorded labels.
        goodput_per_s: Answers of those within the promise.
        kept_share: Goodput as a share of what was offered.
        p50_ms: Of answers with 200.
        p95_ms: Of answers with 200.
        p99_ms: Of answers with 200; NaN where there were none.
        refused: Answers with 429.
        refused_p99_ms: 99th percentile of their latency.
        expired: Answers with 504.
        failed: Other statuses, broken connections and answers given up.
        wrong: Answers with 200 and other labels.
        retry_after_s: Counts of ``Retry-After`` by value.
        causes: Counts of errors by cause.
        late_p95_ms: 95th percentile of the client's own delay in sending.
        cpu_share: Largest share of one core that a process of the client used.
        is_client_saturated: Whether the client, not the service, made these figures.
    """

    rate_per_s: float
    offered_per_s: float
    answered_per_s: float
    goodput_per_s: float
    kept_share: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: int
    refused_p99_ms: float
    expired: int
    failed: int
    wrong: int
    retry_after_s: Mapping[int, int]
    causes: Mapping[str, int]
    late_p95_ms: float
    cpu_share: float
    is_client_saturated: bool

    @property
    def keeps(self) -> bool:
        """Whether 99 % of the requests got the right answer in time, and none a wrong one."""
        return self.kept_share >= 0.99 and not self.wrong


@dataclass(frozen=True, slots=True)
class Found:
    """The highest rate that kept its promise.

    Attributes:
        rate_per_s: 0 if even the lowest that was tried did not.
        best: What came of it; None likewise.
        bound: What ended the search: the service, the client that could send no more, the highest
            rate that was to be tried, or the budget: then a higher rate may do.
        trail: Every measurement in the order it was made.
    """

    rate_per_s: float
    best: Offered | None
    bound: str
    trail: tuple[Offered, ...]


def offer(url: str, calls: Sequence[Call], load: Offer) -> Offered:
    """Offer a load to a service and count what comes back.

    Takes warm-up and duration, under a second to start, and at most the time-out to end.

    Args:
        url: ``http://host:port`` of a running service.
        calls: Requests, sent in random order; HTTP ones.
        load: How many, how long.

    Raises:
        LoadTestError: The sending processes broke; the message has the last line they said.
    """
    if load.deadline_ms is not None:
        header = "X-Request-Timeout-Ms", f"{load.deadline_ms:g}"
        calls = [call.with_headers(header) for call in calls]
    end_s = load.warm_up_s + load.duration_s
    traffic = replace(_traffic(load), steps=((0.0, load.rate_per_s),), duration_s=end_s)
    return summarise(send(url, calls, traffic).between(load.warm_up_s, end_s), load)


def client_limit(url: str, load: Offer, duration_s: float = 2.0) -> float:
    """Return how many answers/s the same client takes from a route that does nothing.

    A closed loop of 64 connections on ``/v2/health/live``. Client and service share the machine, so
    it is a lower bound of what the client can do. NaN where the service has no such route.
    """
    traffic = replace(_traffic(load), is_open=False, steps=((0.0, 64.0),), duration_s=duration_s)
    samples = send(url, [DO_NOTHING], traffic).between(0.0, duration_s)
    if samples.count(RIGHT) < len(samples):
        return math.nan
    return len(samples) / duration_s


def _traffic(load: Offer) -> Traffic:
    return Traffic(
        steps=(),
        is_open=True,
        duration_s=0.0,
        engine=load.engine,
        processes=load.processes,
        connections=load.connections,
        timeout_s=load.timeout_ms / 1e3,
        cpus=load.cpus,
        seed=load.seed,
        grpc_address=load.grpc_address,
    )


def find_max(  # noqa: PLR0913 - one search's words
    measure: Callable[[float], Offered],
    *,
    first_rate: float,
    tolerance: float = 0.05,
    highest: float = math.inf,
    tries: int = 2,
    budget_s: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """Find the highest rate that keeps its promise: doubling or halving, then bisection.

    Args:
        measure: Offers a rate; ``Offered.keeps`` decides.
        first_rate: Where to begin, requests/s; a guess within a factor of 4 saves most time.
        tolerance: The end is this close: kept and broken rates are at most this share apart.
        highest: No higher rate is tried.
        tries: A rate is broken if it breaks so often in turn; more than one forgives a machine
            that stumbles.
        budget_s: After this no new rate is begun.
        clock: Monotonic seconds.

    Returns:
        The best; its trail says how it was found.
    """
    begun = clock()
    trail: list[Offered] = []
    kept: Offered | None = None
    broken: Offered | None = None
    rate = min(first_rate, highest)
    while clock() - begun < budget_s:
        outcome = _attempt(measure, rate, tries, trail)
        if outcome.keeps:
            kept = outcome
        else:
            broken = outcome
        if kept is not None and broken is not None:
            if broken.rate_per_s - kept.rate_per_s <= tolerance * kept.rate_per_s:
                break
            rate = math.sqrt(kept.rate_per_s * broken.rate_per_s)
        elif kept is not None:
            if rate >= highest:
                break
            rate = min(2 * rate, highest)
        elif rate < 1.0:
            break
        else:
            rate /= 2
    else:
        return _found(kept, "budget", trail)
    if broken is None:
        return _found(kept, "highest rate", trail)
    return _found(kept, "client" if broken.is_client_saturated else "service", trail)


def _found(kept: Offered | None, bound: str, trail: list[Offered]) -> Found:
    return Found(kept.rate_per_s if kept else 0.0, kept, bound, tuple(trail))


def _attempt(
    measure: Callable[[float], Offered], rate: float, tries: int, trail: list[Offered]
) -> Offered:
    for _ in range(tries):
        trail.append(measure(rate))
        if trail[-1].keeps:
            break
    return trail[-1]


def summarise(samples: Samples, load: Offer) -> Offered:
    """Return the figures of the requests of one steady load."""
    count = len(samples)
    good = (samples.outcome_N == RIGHT) & (samples.latency_s_N <= load.p99_ms / 1e3)
    late_ms = percentile(samples.late_s_N, 0.95) * 1e3 if count else 0.0
    cpu_share = max(samples.cpu_shares, default=0.0)
    return Offered(
        rate_per_s=load.rate_per_s,
        offered_per_s=count / load.duration_s,
        answered_per_s=samples.count(RIGHT) / load.duration_s,
        goodput_per_s=int(good.sum()) / load.duration_s,
        kept_share=int(good.sum()) / count if count else 0.0,
        p50_ms=samples.latency_ms(0.5),
        p95_ms=samples.latency_ms(0.95),
        p99_ms=samples.latency_ms(0.99),
        refused=samples.count(REFUSED),
        refused_p99_ms=samples.latency_ms(0.99, (REFUSED,)),
        expired=samples.count(EXPIRED),
        failed=samples.count(FAILED) + samples.count(TIMEOUT),
        wrong=samples.count(WRONG),
        retry_after_s=samples.retry_after_s,
        causes=samples.causes,
        late_p95_ms=late_ms,
        cpu_share=cpu_share,
        is_client_saturated=judge_client(samples, load.p99_ms),
    )


def judge_client(samples: Samples, p99_ms: float) -> bool:
    """Return whether the client was too busy or too late for these figures to be the service's."""
    late_ms = percentile(samples.late_s_N, 0.95) * 1e3 if len(samples) else 0.0
    is_busy = max(samples.cpu_shares, default=0.0) > _CPU_SHARE
    return is_busy or late_ms > max(_LATE_MS, _LATE_SHARE * p99_ms)
