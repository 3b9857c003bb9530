"""The engine on Ray gives the bytes that this machine gives, on a local Ray of its own cores."""

import os
import signal
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest

from models.repository import ModelRepository
from scoring.engine import LocalEngine, Position
from scoring.job import Options, score
from scoring.local import LocalModel
from scoring.rows import ScoreError, Source
from scoring.stages import OutputOptions, Scored
from scoring.tables import Columns
from service.errors import InferenceError
from tests.scoring.containers import as_npz, as_parquet, as_tar
from tests.scoring.test_job import without_batches
from tests.scoring.test_resume import stopped_after
from tests.tiny import publish_tiny, random_images

pytest.importorskip("ray", reason="the ray extra")
cluster = pytest.importorskip("scoring.cluster")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def workers() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if any("MapWorker" in word for word in process.cmdline())
    ]


def test_ray_gives_the_same_bytes_though_a_worker_is_killed_and_the_job_stops(
    files: list[Path], model: LocalModel, tiny_repository: Path, tmp_path: Path
) -> None:
    """All kinds of sources; a killed worker; then a job that stops and goes on."""
    numbers = [i % 4 for i in range(len(files))]
    words = [
        str(source)
        for source in (
            as_npz(tmp_path / "a.npz", random_images(5000)),
            as_parquet(tmp_path / "b.parquet", files, n=numbers),
            as_tar(tmp_path / "c.tar", files),
            files[0].parent,
        )
    ]
    output = OutputOptions(2, probabilities=True)
    options = Options(Columns(label="n", keep=("n",)), output)
    # A label column belongs to the table alone: the others keep their own truths, or none.
    here = score(words, model, tmp_path / "here.parquet", options)
    engine = cluster.RayEngine(ModelRepository(tiny_repository), model, output)
    killed: list[int] = []

    def with_a_kill(
        sources: Sequence[Source], position: Position
    ) -> Generator[tuple[int, Scored], None, None]:
        for scored in engine(sources, position):
            if not killed:
                worker = workers()[0]
                worker.send_signal(signal.SIGKILL)
                killed.append(worker.pid)
            yield scored

    there = score(words, model, tmp_path / "there.parquet", options, engine=with_a_kill)
    assert killed
    assert (there.rows, there.errors, there.accuracy) == (here.rows, here.errors, here.accuracy)
    assert there.errors == 6
    assert (tmp_path / "there.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()

    out = tmp_path / "again.parquet"
    stopping = stopped_after(LocalEngine(model, output), 9)
    with pytest.raises(KeyboardInterrupt):
        score(words, model, out, Options(options.columns, output, part_rows=1), engine=stopping)
    resume = Options(options.columns, output, resume=True)
    again = score(words, model, out, resume, engine=engine)
    assert again.resumed_rows == 9 * 256
    assert out.read_bytes() == (tmp_path / "here.parquet").read_bytes()


def test_a_failure_in_a_worker_is_reported_on_one_line(tmp_path: Path) -> None:
    publish_tiny(tmp_path / "models", model=without_batches())
    repository = ModelRepository(tmp_path / "models")
    model = LocalModel.load(repository)
    np.save(tmp_path / "a.npy", random_images(300))
    engine = cluster.RayEngine(repository, model, OutputOptions())
    with pytest.raises(InferenceError, match=r"^run of batch \(256, 8, 8, 1\) failed: "):
        score([str(tmp_path / "a.npy")], model, tmp_path / "out.csv", engine=engine)
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "models"]  # noqa: PTH208


def test_a_cluster_that_is_not_there_is_reported(
    model: LocalModel, tiny_repository: Path, files: list[Path], tmp_path: Path
) -> None:
    repository = ModelRepository(tiny_repository)
    engine = cluster.RayEngine(repository, model, OutputOptions(), "auto")
    with pytest.raises(ScoreError, match=r"^ray: expected a cluster that works, got: "):
        score([str(files[0])], model, tmp_path / "out.csv", engine=engine)


def test_tasks_cut_every_source_where_the_rows_are_known(files: list[Path], tmp_path: Path) -> None:
    from scoring.sources import list_sources

    np.save(tmp_path / "a.npy", random_images(2500))
    words = [str(tmp_path / "a.npy"), str(as_tar(tmp_path / "b.tar", files)), *map(str, files)]
    sources = list_sources(words, Columns())
    cut = [(number, start, stop) for number, _, start, stop in cluster._tasks(sources, (0, 256))]
    assert cut == [
        (0, 256, 1280),
        (0, 1280, 2304),
        (0, 2304, 2500),
        (1, 0, None),
        (2, 0, len(files)),
    ]
    assert list(cluster._tasks(sources, (3, 0))) == []
