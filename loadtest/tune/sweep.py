"""The session alone at many points: starts ``sweeper``, reads its results, stops it in time."""

import contextlib
import dataclasses
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.tune.cores import Cores
from loadtest.tune.errors import TuneError
from loadtest.tune.points import SessionFigure, SessionPoint
from models.artifact import ModelArtifact
from models.repository import ModelRepository

_HOME = Path(__file__).resolve().parents[2]
# Seconds per point: below the shortest only noise, above the longest no further precision.
_SHORTEST_S, _LONGEST_S = 0.03, 0.4
# Share of the budget spent in runs; the rest opens, self-tests and warms sessions.
_MEASURING = 0.7


@dataclass(frozen=True, slots=True)
class Sweep:
    """Measures the session alone.

    Attributes:
        repository: Repository of the version.
        artifact: The version.
        cores: Cores of the process.
        p99_ms: The promise; after a batch whose run alone is longer, no larger one is tried.
        device: Device of the sessions, as in FOVEAL_DEVICE.
        log: File for the process's standard error.
        on_refusal: Called with the reason when a file does not run on this machine.
    """

    repository: ModelRepository
    artifact: ModelArtifact
    cores: Cores
    p99_ms: float
    device: str
    log: Path
    on_refusal: Callable[[str], None] = lambda _why: None

    def measure(
        self, points: Sequence[SessionPoint], budget_s: float
    ) -> Iterator[tuple[SessionPoint, SessionFigure]]:
        """Measure points in their order until the budget is spent.

        Args:
            points: Points to measure.
            budget_s: Seconds for all of them.

        Yields:
            Each point with its measurement, as it is made.

        Raises:
            TuneError: The process failed before it measured anything.
        """
        if not points or budget_s <= 0:
            return
        with self._process() as process:
            stop = threading.Timer(budget_s, process.kill)
            stop.start()
            try:
                yield from self._figures(process, self._asked(points, budget_s))
            finally:
                stop.cancel()

    def _asked(self, points: Sequence[SessionPoint], budget_s: float) -> dict[str, object]:
        return {
            "models": str(self.repository.root.resolve()),
            "name": self.artifact.name,
            "version": self.artifact.version,
            "points": [dataclasses.astuple(point) for point in points],
            "seconds": min(_LONGEST_S, max(_SHORTEST_S, _MEASURING * budget_s / len(points))),
            "longest_ms": self.p99_ms,
            "device": self.device,
        }

    @contextlib.contextmanager
    def _process(self) -> "Iterator[subprocess.Popen[str]]":
        with self.log.open("w") as log, self.cores.pinned():
            process = subprocess.Popen(
                [sys.executable, "-m", "loadtest.tune.sweeper"],
                cwd=_HOME,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None, "both are pipes; this is a bug"
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _figures(
        self, process: "subprocess.Popen[str]", asked: dict[str, object]
    ) -> Iterator[tuple[SessionPoint, SessionFigure]]:
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.close()
        count = 0
        for line in process.stdout:
            if not line.endswith("\n"):  # cut off by the end of the budget
                break
            document = json.loads(line)
            if "refused" in document:
                self.on_refusal(f"{document['refused']}: {document['why']}")
                continue
            count += 1
            yield SessionPoint(*document["point"]), SessionFigure(**document["figure"])
        if process.wait() > 0 and not count:
            last = self.log.read_text().strip().splitlines()[-1:] or ["no output"]
            raise TuneError(f"sweep of {self.artifact.reference}: expected figures, got: {last[0]}")
