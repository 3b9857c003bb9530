"""The session alone: milliseconds and rows/s by batch size, the ceiling of the server.

A run costs a fixed part (the call, the synchronisation of threads) and a part per row. For small
networks the fixed part dominates at batch 1, so batching gives most of their throughput; for large
ones the rows dominate, and batching gains little. The table shows which kind a model is.
"""

from dataclasses import dataclass
from functools import partial

from loadtest.bench.timing import median_s, random_images
from models.artifact import ModelArtifact
from models.repository import ModelRepository
from service.session.plans import Plan
from service.session.session import Session

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_RUNS = 15  # at least; short runs are repeated until _SECONDS have gone
_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class SessionFigure:
    """One line of the table: the median run of ``rows`` rows, milliseconds, and its rows/s."""

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
        repository: Repository of the model.
        artifact: Version to measure.
        threads: onnxruntime's intra-op threads.
    """
    session = Session(repository.check_model(artifact, artifact.fp32.path), Plan(threads=threads))
    figures = []
    for rows in BATCH_SIZES:
        images_NHWC = random_images(rows, artifact.image.shape_HWC)
        run_s = median_s(partial(session.run, images_NHWC), _SECONDS, _RUNS)
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
