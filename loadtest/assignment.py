"""What one sending process sends, and when open arrivals come."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loadtest.shapes import Steps


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one process sends.

    Attributes:
        url: ``http://host:port``; a path before the routes is kept.
        calls: File of ``write_calls``; sent in random order.
        out: File for the samples.
        duration_s: Arrivals are due until then.
        steps: (from that second on, level); of one process.
        is_open: Whether levels are arrivals/s, independent of the answers; else users, each of
            which waits for its answer before it sends the next request.
        connections: Most connections of open arrivals.
        timeout_s: Seconds from the intended start after which the client gives up on an answer.
        seed: Seed of the arrivals.
        grpc_address: ``host:port`` of V2 over gRPC, for calls of that kind.
        moments: (second, number of the call) of each open arrival, in order, in the place of the
            steps and of random calls; (): none.
    """

    url: str
    calls: str
    out: str
    duration_s: float
    steps: Steps
    is_open: bool
    connections: int
    timeout_s: float
    seed: int
    grpc_address: str = ""
    moments: tuple[tuple[float, int], ...] = ()

    def write(self, path: Path) -> None:
        """Write it to a file that ``read`` takes."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Assignment":
        """Read a file of ``write``."""
        document = json.loads(path.read_text(encoding="utf-8"))
        document["steps"] = tuple((begin, rate) for begin, rate in document["steps"])
        document["moments"] = tuple((at_s, call) for at_s, call in document["moments"])
        return cls(**document)


def arrival_times(steps: Steps, duration_s: float, seed: int) -> NDArray[np.float64]:
    """Return when requests of independent clients come: a Poisson process, seconds, in order.

    Args:
        steps: (from that second on, arrivals/s), in order, the first from 0.
        duration_s: End of the arrivals.
        seed: The same seed gives the same arrivals.
    """
    random = np.random.default_rng(seed)
    ends = [begin for begin, _ in steps[1:]] + [duration_s]
    parts = []
    for (begin, rate), end in zip(steps, ends, strict=True):
        count = random.poisson(rate * (end - begin))
        parts.append(np.sort(random.uniform(begin, end, count)))
    return np.concatenate(parts)
