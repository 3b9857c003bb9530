"""The session alone: batch size to milliseconds and rows/s, the ceiling of the server.

Physics first: a run costs a fixed part (the call, the threads' hand-shake) and a part a row. Small
networks are all fixed part at batch 1, so batching is where their throughput is; large ones are all
row part, and batching buys little. The table shows which one a model is.
"""

import statistics
import time
from dataclasses import dataclass

import numpy as np

from models.artifact import ModelArtifact
from models.repository import ModelRepository
from service.session.plans import Plan
from service.session.session import Session

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_RUNS = 15  # at least; short runs are repeated until _SECONDS have gone
_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class SessionFigure:
    """One line of the table: median milliseconds of a run of ``rows`` rows, and what that makes."""

    model: str
    threads: int
    rows: int
    run_ms: float
    rows_per_s: float


def measure(
    repository: ModelRepository, artifact: ModelArtifact, threads: int
) -> list[SessionFigure]:
    """Measure one model at every batch size.

    Args:
        repository: Where the model lies.
        artifact: Its version.
        threads: onnxruntime's intra-op threads.
    """
    content = repository.read_model(artifact, artifact.fp32.path)
    session = Session(content, Plan(threads=threads))
    figures = []
    for rows in BATCH_SIZES:
        images_NHWC = np.random.default_rng(0).integers(
            0, 256, (rows, *artifact.image.shape_HWC), dtype=np.uint8
        )
        run_s = _median_s(session, images_NHWC)
        figures.append(SessionFigure(artifact.reference, threads, rows, run_s * 1e3, rows / run_s))
    return figures


def table(figures: list[SessionFigure]) -> list[tuple[str, ...]]:
    """Return the figures as lines of cells, a heading first."""
    return [
        ("model", "threads", "rows", "ms a run", "rows/s"),
        *(
            (f.model, str(f.threads), str(f.rows), f"{f.run_ms:.3f}", f"{f.rows_per_s:,.0f}")
            for f in figures
        ),
    ]


def _median_s(
    session: Session, images_NHWC: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"
) -> float:
    session.run(images_NHWC)
    times: list[float] = []
    while len(times) < _RUNS or sum(times) < _SECONDS:
        started = time.perf_counter()
        session.run(images_NHWC)
        times.append(time.perf_counter() - started)
    return statistics.median(times)
