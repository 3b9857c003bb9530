"""The session alone at many points: starts ``sweeper``, passes on its words, stops it in time."""

import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from loadtest.tune.cores import Cores
from loadtest.tune.errors import TuneError
from loadtest.tune.points import SessionFigure, SessionPoint
from models.artifact import ModelArtifact
from models.repository import ModelRepository

_HOME = Path(__file__).resolve().parents[2]
# Of one point; less than the shortest says nothing, more than the longest no more.
_SHORTEST_S, _LONGEST_S = 0.03, 0.4
# A run's share of a point is not all: sessions are opened, self-tested, warmed.
_MEASURING = 0.7


def sweep(  # noqa: PLR0913 - wiring, called in one place
    repository: ModelRepository,
    artifact: ModelArtifact,
    points: Sequence[SessionPoint],
    cores: Cores,
    *,
    p99_ms: float,
    budget_s: float,
    device: str,
    log: Path,
    on_refusal: Callable[[str], None] = lambda _why: None,
) -> Iterator[tuple[SessionPoint, SessionFigure]]:
    """Measure points in their order until the budget is spent.

    Args:
        repository: Where the version lies.
        artifact: The version.
        points: What to measure.
        cores: Where the process runs.
        p99_ms: The promise: of batches whose run alone is longer, no larger ones are tried.
        budget_s: Seconds for all of it.
        device: Where sessions run; as FOVEAL_DEVICE.
        log: For what the process says besides.
        on_refusal: Told of a file that does not run here, and why.

    Yields:
        Each point that was measured, when it was.

    Raises:
        TuneError: The process broke before it measured anything.
    """
    if not points or budget_s <= 0:
        return
    seconds = min(_LONGEST_S, max(_SHORTEST_S, _MEASURING * budget_s / len(points)))
    asked = {
        "models": str(repository.root.resolve()),
        "name": artifact.name,
        "version": artifact.version,
        "points": [dataclasses.astuple(point) for point in points],
        "seconds": seconds,
        "longest_ms": p99_ms,
        "device": device,
    }
    deadline = time.monotonic() + budget_s
    count = 0
    with log.open("w") as said, cores.pinned():
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.tune.sweeper"],
            cwd=_HOME,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
        )
    assert process.stdin is not None and process.stdout is not None, "both are pipes"
    stop = threading.Timer(max(0.0, deadline - time.monotonic()), process.kill)
    stop.start()
    try:
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.close()
        for line in process.stdout:
            if not line.endswith("\n"):  # cut off by the end of the budget
                break
            document = json.loads(line)
            if "refused" in document:
                on_refusal(f"{document['refused']}: {document['why']}")
                continue
            count += 1
            yield SessionPoint(*document["point"]), SessionFigure(**document["figure"])
        if process.wait() > 0 and not count:
            last = log.read_text().strip().splitlines()[-1:] or ["no word"]
            raise TuneError(f"sweep of {artifact.reference}: expected figures, got: {last[0]}")
    finally:
        stop.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
