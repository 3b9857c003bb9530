"""The process that measures a session alone: ``python -m loadtest.tune.sweeper``.

One line of JSON on standard input names the model and the points; each measured point is a line on
standard output. A process of its own can be pinned to cores and stopped at any moment, and what it
loads is gone afterwards.
"""

import dataclasses
import json
import sys
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loadtest.bench.timing import random_images, repeat
from loadtest.tune.points import SessionFigure, SessionPoint
from models.artifact import ArtifactError, ModelArtifact, Precision
from models.repository import ModelRepository
from service.errors import InferenceError
from service.session.devices import select_device
from service.session.planning import DeviceOptions, self_test
from service.session.plans import Plan
from service.session.session import Session

_LEAST_RUNS = 3


def main() -> None:
    """Measure every point; a file that cannot be trusted here is a line with a ``refused``."""
    asked = json.loads(sys.stdin.readline())
    repository = ModelRepository(Path(asked["models"]))
    artifact = repository.load(asked["name"], asked["version"])
    points = [SessionPoint(*point) for point in asked["points"]]
    seconds, longest_ms = asked["seconds"], asked["longest_ms"]
    found = select_device(asked["device"])
    refused: set[Precision] = set()
    for (precision, threads, instances), group in groupby(points, lambda point: point.trio):
        if precision in refused:
            continue
        shape = list(group)
        # On a GPU each of the batch sizes is a bucket of its own, so that none is padded.
        buckets = () if found.device == "cpu" else tuple(sorted({p.rows for p in shape}))
        options = DeviceOptions(found, buckets=buckets)
        most = max(point.rows for point in shape)
        try:
            plan = options.plan(options.variant(precision), threads, most, artifact.image.shape_HWC)
            sessions = _open(repository, artifact, plan, instances)
        except (ArtifactError, InferenceError) as error:
            refused.add(precision)
            _send({"refused": precision, "why": str(error)})
            continue
        for point in shape:
            figure = measure(
                sessions, instances, random_images(point.rows, artifact.image.shape_HWC), seconds
            )
            _send({"point": dataclasses.astuple(point), "figure": dataclasses.asdict(figure)})
            if figure.p50_ms > longest_ms:  # larger batches take longer still
                break


def measure(
    sessions: list[Session], instances: int, images_NHWC: NDArray[np.uint8], seconds: float
) -> SessionFigure:
    """Let some threads run one batch again and again, together.

    Args:
        sessions: One for all threads, or one a thread.
        instances: How many threads.
        images_NHWC: The batch; uint8 [N, H, W, C].
        seconds: How long, or three runs each if that takes longer.
    """
    works = [partial(sessions[i % len(sessions)].run, images_NHWC) for i in range(instances)]
    times = repeat(works, seconds, _LEAST_RUNS)
    rate = sum(len(mine) / sum(mine) for mine in times) * len(images_NHWC)
    every = np.concatenate(times) * 1e3
    p50_ms, p99_ms = np.percentile(every, [50, 99]).tolist()
    return SessionFigure(rate, p50_ms, p99_ms, len(every))


def _open(
    repository: ModelRepository, artifact: ModelArtifact, plan: Plan, instances: int
) -> list[Session]:
    """Open as many sessions as the service does: one, or one a run where runs have threads."""
    file = artifact.file(plan.precision)
    assert file is not None, "only files of the version are asked for; this is a bug"
    path = repository.check_model(artifact, file.path)
    sessions = [Session(path, plan) for _ in range(instances if plan.threads > 1 else 1)]
    self_test(repository, artifact, sessions[0])
    return sessions


def _send(document: dict[str, object]) -> None:
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
