"""The real service under one configuration: the highest rate that keeps the promise."""

import contextlib
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.arrivals import Found, Offer, find_max, offer
from loadtest.calls import Call
from loadtest.serving import running_service
from loadtest.tune.cores import Cores
from loadtest.tune.points import Configuration, Served

_HOME = Path(__file__).resolve().parents[2]
# Requests that a p99 needs; an offer lasts as long as they take, within bounds.
_REQUESTS = 600
_SHORTEST_S, _LONGEST_S = 1.5, 5.0
# Requests/s below which no rate is tried.
_LOWEST = 2.0
# Relative precision of a search; the rough one only picks the favourite.
_TOLERANCE, _ROUGH = 0.06, 0.15


@dataclass(frozen=True, slots=True)
class Service:
    """The service to measure and the load for it.

    Attributes:
        models: Repository with nothing but the version, and no plan.
        calls: Requests, with the labels that are expected back.
        p99_ms: The promise.
        cores: Cores of service and load generator.
        workers: Worker processes of the service.
        device: Device of the sessions.
        out: Folder for logs.
    """

    models: Path
    calls: Sequence[Call]
    p99_ms: float
    cores: Cores
    workers: int
    device: str
    out: Path

    def measure(
        self, configuration: Configuration, first_rate: float, budget_s: float, *, is_rough: bool
    ) -> Served:
        """Start the service, find its highest rate, stop it.

        Args:
            configuration: How it runs.
            first_rate: First rate to try, requests/s.
            budget_s: After this no new rate is tried.
            is_rough: Search with a wider tolerance, and try a rate only once.

        Raises:
            LoadTestError: The service does not start, or the load fails.
        """
        with contextlib.ExitStack() as stack:
            with self.cores.pinned():
                url = stack.enter_context(
                    running_service(self._command(configuration), self.out / "serve.log")
                )
            found = find_max(
                lambda rate: offer(url, self.calls, self._offer(rate)),
                first_rate=first_rate,
                tolerance=_ROUGH if is_rough else _TOLERANCE,
                tries=1 if is_rough else 2,
                budget_s=budget_s,
            )
        best = found.best
        return Served(
            goodput_per_s=best.goodput_per_s if best else 0.0,
            rate_per_s=found.rate_per_s,
            p50_ms=best.p50_ms if best else float("nan"),
            p99_ms=best.p99_ms if best else float("nan"),
            bound=found.bound if _is_done(found) else "time",
            trail=tuple((o.rate_per_s, o.kept_share, o.p99_ms) for o in found.trail),
        )

    def _offer(self, rate: float) -> Offer:
        duration_s = min(_LONGEST_S, max(_SHORTEST_S, _REQUESTS / rate))
        return Offer(
            rate,
            duration_s,
            self.p99_ms,
            timeout_ms=max(1000.0, 10 * self.p99_ms),
            cpus=",".join(map(str, self.cores.client)),
        )

    def _command(self, configuration: Configuration) -> list[str]:
        """Return what starts it with these settings and no others of the environment's."""
        inherited = [name for name in os.environ if name.startswith("FOVEAL_")]
        variables = {
            **configuration.variables,
            "FOVEAL_WORKERS": str(self.workers),
            "FOVEAL_DEVICE": self.device,
            "FOVEAL_GRPC_PORT": "0",
            "FOVEAL_RELOAD_S": "0",
        }
        return [
            "env",
            *(word for name in inherited for word in ("-u", name)),
            *(f"{name}={value}" for name, value in variables.items()),
            sys.executable,
            str(_HOME / "foveal.py"),
            "serve",
            "--models",
            str(self.models),
        ]


def _is_done(found: Found) -> bool:
    """Return whether a search came close enough, not only to the end of its time."""
    higher = (o.rate_per_s for o in found.trail if o.rate_per_s > found.rate_per_s)
    broken = min(higher, default=math.inf)
    if found.best is None:
        return broken < _LOWEST
    return broken <= (1 + _ROUGH) * found.rate_per_s * 1.001
