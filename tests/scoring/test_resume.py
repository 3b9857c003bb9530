"""A job that is killed and goes on ends as one that was never stopped."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime
import PIL
import pytest

from models.repository import ModelRepository
from scoring.engine import LocalEngine, Position
from scoring.job import Options, Summary, score
from scoring.local import LocalModel
from scoring.rows import ScoreError, Source
from scoring.sinks import Layout
from scoring.stages import OutputOptions, Scored
from scoring.tables import Columns
from tests.scoring.containers import (
    as_csv,
    as_npz,
    as_parquet,
    as_tar,
    as_zip,
    run,
)
from tests.server import ROOT
from tests.tiny import publish_tiny, random_images

# What a killed process runs: parts of a few rows, so that there is something to lose.
JOB = """
import json, sys, time
from pathlib import Path
from models.repository import ModelRepository
from scoring.local import LocalModel
from scoring.engine import LocalEngine
from scoring.job import Options, score
from scoring.stages import OutputOptions
from scoring.tables import Columns

def slowly(sources, position):
    for scored in LocalEngine(model, options.output)(sources, position):
        time.sleep(0.02)
        yield scored

models, out, *words = sys.argv[1:]
options = Options(Columns(keep=("n",)), OutputOptions(top=2), resume=True, part_rows=32)
model = LocalModel.load(ModelRepository(Path(models)), "tiny", threads=1)
print("loaded", flush=True)
summary = score(words, model, Path(out), options, engine=slowly)
print(summary.rows, summary.errors, json.dumps(summary.accuracy))
"""


@pytest.fixture
def sources(files: list[Path], tmp_path: Path) -> list[str]:
    """All kinds of sources, about 1,100 rows."""
    (tmp_path / "images").symlink_to(files[0].parent)
    linked = [tmp_path / "images" / file.name for file in files]
    numbers = list(range(len(files)))
    return [
        str(source)
        for source in (
            as_parquet(tmp_path / "a.parquet", files, n=numbers),
            as_tar(tmp_path / "b.tgz", files, "w:gz"),
            files[0].parent,
            as_csv(tmp_path / "c.csv", linked, n=numbers),
            as_zip(tmp_path / "d.zip", files),
            as_npz(tmp_path / "e.npz", random_images(140)),
            as_parquet(tmp_path / "f.parquet", files, n=numbers, group_rows=33),
        )
    ]


def start(models: Path, out: Path, sources: list[str]) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", JOB, models, out, *sources],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loaded\n"
    return process


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_twenty_kills_change_no_byte(
    sources: list[str], tiny_repository: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.parquet"
    process = start(tiny_repository, whole, sources)
    began = time.monotonic()
    said, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    job_s = time.monotonic() - began

    out = tmp_path / "scores.parquet"
    parts = tmp_path / f".{out.name}.parts"
    chance = random.Random(0)
    hits = 0
    for _ in range(20):
        process = start(tiny_repository, out, sources)
        time.sleep(chance.uniform(0, job_s))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if out.exists() and out.read_bytes() == whole.read_bytes():
            out.unlink()  # it was faster than the kill: the next one begins again
        elif list(parts.glob("*.json")):
            hits += 1
        assert not out.exists(), "a table that is not whole was seen"
    assert hits > 5, "hardly a kill hit a job that had something to lose"
    process = start(tiny_repository, out, sources)
    again, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert again == said
    assert out.read_bytes() == whole.read_bytes()
    assert not parts.exists()


def stopped_after(engine: LocalEngine, chunks: int) -> Any:
    """An engine that fails after some chunks, as a machine does."""

    def compute(
        sources: Sequence[Source], position: Position
    ) -> Generator[tuple[int, Scored], None, None]:
        for number, scored in enumerate(engine(sources, position)):
            if number == chunks:
                raise KeyboardInterrupt
            yield scored

    return compute


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_a_job_goes_on_after_any_chunk(
    sources: list[str], model: LocalModel, tmp_path: Path, ending: str
) -> None:
    options = Options(Columns(keep=("n",)), OutputOptions(2, probabilities=True), part_rows=1)
    whole = tmp_path / f"whole{ending}"
    done = score(sources, model, whole, options)
    out = tmp_path / f"out{ending}"
    engine = LocalEngine(model, options.output)
    resume = Options(options.columns, options.output, resume=True, part_rows=1)
    seen = []
    while not out.exists():
        try:
            seen.append(score(sources, model, out, resume, engine=stopped_after(engine, 2)))
        except KeyboardInterrupt:
            assert len(list((tmp_path / f".{out.name}.parts").glob("*.json"))) > 1
    assert out.read_bytes() == whole.read_bytes()
    (last,) = seen
    assert (last.rows, last.errors) == (done.rows, done.errors)
    assert 0 < last.resumed_rows < last.rows


def begin(source: list[str], model: LocalModel, out: Path, options: Options) -> None:
    """Leave a job unfinished."""
    engine = stopped_after(LocalEngine(model, options.output), 2)
    with pytest.raises(KeyboardInterrupt):
        score(source, model, out, options, engine=engine)


def go_on(source: list[str], model: LocalModel, out: Path, **changed: Any) -> Summary:
    return score(source, model, out, Options(**{"resume": True, **changed}))


def test_another_job_is_not_taken_for_the_same(
    files: list[Path], model: LocalModel, tiny_repository: Path, tmp_path: Path
) -> None:
    tar = as_tar(tmp_path / "a.tar", files)
    table = as_parquet(tmp_path / "b.parquet", files, n=list(range(len(files))))
    words, out = [str(tar), str(table)], tmp_path / "out.csv"
    begin(words, model, out, Options(part_rows=1))
    with pytest.raises(ScoreError, match=r"^.*out.csv: --resume: expected the same model as .*"):
        go_on(words, LocalModel.load(ModelRepository(tiny_repository), "tiny:2"), out)
    with pytest.raises(ScoreError, match="expected the same columns as"):
        go_on(words, model, out, output=OutputOptions(top=2))
    with pytest.raises(ScoreError, match="expected the same columns as"):
        go_on(words, model, out, columns=Columns(keep=("n",)))
    with pytest.raises(ScoreError, match="expected the same table columns as"):
        go_on(words, model, out, columns=Columns(label="n"))
    with pytest.raises(ScoreError, match="expected the same sources as"):
        go_on(words[:1], model, out)
    status = tar.stat()
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(ScoreError, match=r"expected the same sources as .*a\.tar.*; restore it"):
        go_on(words, model, out)
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert go_on(words, model, out, max_errors=100).resumed_rows > 0


def test_a_job_of_other_decoders_is_not_resumed(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    """Also one that began before its decoders were noted."""
    words, out = [str(as_tar(tmp_path / "a.tar", files))], tmp_path / "out.csv"
    begin(words, model, out, Options(part_rows=1))
    path = tmp_path / f".{out.name}.parts" / "job.json"
    job = json.loads(path.read_bytes())
    assert job["versions"] == {
        "onnxruntime": onnxruntime.__version__,
        "Pillow": PIL.__version__,
        **{name: version(name) for name in ("simplejpeg", "pillow-heif")},
    }
    del job["versions"]["simplejpeg"]
    path.write_text(json.dumps(job))
    with pytest.raises(ScoreError, match=r"expected the same versions as .*simplejpeg.*; restore"):
        go_on(words, model, out)


def test_a_model_of_the_same_name_with_other_weights_is_noticed(
    files: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    for gain in (1.0, 2.0):
        publish_tiny(tmp_path / str(gain), gain=gain)
    begin(
        [str(files[0].parent)],
        LocalModel.load(ModelRepository(tmp_path / "1.0")),
        out,
        Options(part_rows=1),
    )
    with pytest.raises(ScoreError, match="expected the same model as"):
        go_on([str(files[0].parent)], LocalModel.load(ModelRepository(tmp_path / "2.0")), out)


def test_rows_of_a_job_that_was_begun_are_not_thrown_away(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    """The same command again loses nothing; a job that has no row yet begins anew."""
    out = tmp_path / "out.csv"
    begin([str(files[0].parent)], model, out, Options(part_rows=1))
    with pytest.raises(ScoreError, match="got one that a job has begun; go on with --resume, or"):
        run(files[:3], model, out, overwrite=False)
    parts = tmp_path / ".out.csv.parts"
    assert len(list(parts.glob("0*.json"))) == 2
    summary = run(files[:3], model, out, overwrite=True)
    assert (summary.rows, summary.resumed_rows) == (3, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    out.unlink()
    parts.mkdir(mode=0o700)
    (parts / "job.json").write_text("{}")
    summary = run(files[:3], model, out, overwrite=False)
    assert (summary.rows, summary.resumed_rows) == (3, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_resume_without_an_earlier_run_is_a_run(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    summary = run(files, model, tmp_path / "out.csv", resume=True)
    assert (summary.rows, summary.resumed_rows) == (len(files), 0)


def test_a_part_without_its_count_was_never_written(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    words = [str(files[0].parent)]
    begin(words, model, out, Options(part_rows=1))
    folder = tmp_path / ".out.csv.parts"
    assert sorted(path.name for path in folder.iterdir()) == [
        "000000",
        "000000.json",
        "000001",
        "000001.json",
        "job.json",
    ]
    (folder / "000001.json").unlink()
    (folder / "000001").write_bytes(b"half a par")
    (folder / "table").write_bytes(b"half a table")
    assert go_on(words, model, out).resumed_rows == 64
    run(files, model, tmp_path / "whole.csv")
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_part_after_a_gap_is_never_taken_for_the_next(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    """Parts end where time said so: a later part of another run would not fit."""
    out = tmp_path / "out.csv"
    words = [str(files[0].parent)]
    folder = tmp_path / ".out.csv.parts"
    run(files, model, tmp_path / "whole.csv")
    for lost in ("000000.json", "000000"):
        begin(words, model, out, Options(part_rows=1, overwrite=True))
        (folder / lost).unlink()
        with pytest.raises(KeyboardInterrupt):  # one part of two chunks takes the place of one
            resume = Options(resume=True, part_rows=128)
            score(
                words,
                model,
                out,
                resume,
                engine=stopped_after(LocalEngine(model, OutputOptions()), 2),
            )
        assert go_on(words, model, out).resumed_rows == 128
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "whole.csv"]
        assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_two_jobs_do_not_write_one_file(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    folder = tmp_path / ".out.csv.parts"
    folder.mkdir()
    other = os.open(folder, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    try:
        with pytest.raises(ScoreError, match="expected to be the only job that writes it"):
            run(files, model, tmp_path / "out.csv")
    finally:
        os.close(other)
    run(files, model, tmp_path / "out.csv")


def test_a_job_with_too_many_errors_is_given_up_and_can_go_on(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    bad = [path for path in files if "-" in path.name]
    words = [*files[20:90], *bad]
    with pytest.raises(ScoreError, match=r"^errors: expected at most 0 rows with one, got more; "):
        run(words, model, out, max_errors=0)
    assert not out.exists()
    summary = run(words, model, out, max_errors=len(bad), resume=True)
    assert (summary.errors, summary.resumed_rows > 0) == (len(bad), True)


def test_the_pin_is_readable(files: list[Path], model: LocalModel, tmp_path: Path) -> None:
    begin([str(files[0].parent)], model, tmp_path / "out.csv", Options(part_rows=1))
    pin = json.loads((tmp_path / ".out.csv.parts" / "job.json").read_bytes())
    assert pin["model"].startswith("tiny:1 fp32 ")
    assert [source["files"] for source in pin["sources"]] == [len(files)]
    layout = Layout(model.artifact.labels, "tiny", 1, OutputOptions(), {})
    assert pin["columns"] == layout.types
