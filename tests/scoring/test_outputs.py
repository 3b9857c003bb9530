"""Where the table goes: no source and no other file is written over; URLs, pipes, gzip."""

import gzip
import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest

from models.image import encode_png
from scoring.job import Options, score
from scoring.local import LocalModel
from scoring.outputs import Output
from scoring.rows import ScoreError
from tests.scoring.containers import as_csv, as_parquet, read
from tests.scoring.web import serving
from tests.server import ROOT
from tests.shell import Shell
from tests.tiny import random_images

IS_SOURCE = r"^.*: expected a file to write, got one of the sources; name another$"
EXISTS = r"^.*: expected no file of that name, got one; .*--overwrite$"


@pytest.fixture
def photos(files: list[Path], tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in files[:3]:
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def write(out: Path | str, model: LocalModel, *sources: Path | str, **options: bool) -> int:
    return score([str(source) for source in sources], model, out, Options(**options)).rows  # type: ignore[arg-type]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_source_is_never_written_over(
    ending: str, overwrite: bool, photos: Path, model: LocalModel, tmp_path: Path
) -> None:
    files = sorted(photos.iterdir())
    table = as_csv(tmp_path / "m.csv", files)
    if ending == ".parquet":
        table = as_parquet(tmp_path / "m.parquet", files)
    before = table.read_bytes()
    link, hard = tmp_path / f"link{ending}", tmp_path / f"hard{ending}"
    link.symlink_to(table)
    hard.hardlink_to(table)
    for sources, out in (
        ((table, photos), table),
        ((table,), link),
        ((link,), table),
        ((table,), hard),
        ((f"file://{table}",), table),
        ((tmp_path / f"m*{ending}",), table),
        ((table,), f"file://{table}"),
    ):
        with pytest.raises(ScoreError, match=IS_SOURCE):
            write(out, model, *sources, overwrite=overwrite)
        assert table.read_bytes() == before
    assert link.is_symlink()


def test_a_table_in_a_scored_folder_is_a_source_unless_a_job_wrote_it(
    photos: Path, model: LocalModel
) -> None:
    table = as_parquet(photos / "m.parquet", sorted(photos.iterdir()))
    before = table.read_bytes()
    with pytest.raises(ScoreError, match=IS_SOURCE):
        write(table, model, photos, overwrite=True)
    assert table.read_bytes() == before
    table.unlink()
    for ending in (".parquet", ".csv", ".jsonl", ".csv.gz"):
        out = photos / f"scores{ending}"
        for overwrite in (False, True):
            assert write(out, model, photos, overwrite=overwrite) == 3
        out.unlink()


def test_a_file_that_is_there_is_kept(photos: Path, model: LocalModel, tmp_path: Path) -> None:
    out = tmp_path / "mine.csv"
    out.write_text("mine")
    link = tmp_path / "link.csv"
    link.symlink_to(out)
    for name in (out, link):
        with pytest.raises(ScoreError, match=EXISTS):
            write(name, model, photos)
    with pytest.raises(ScoreError, match=EXISTS):
        write(out, model, photos, resume=True)
    assert out.read_text() == "mine"
    write(link, model, photos, overwrite=True)
    assert link.is_symlink(), "the link was replaced"
    assert len(read(out)) == 3
    out.unlink()
    write(link, model, photos)  # a link to nothing yet
    assert len(read(out)) == 3


def test_a_job_that_was_begun_with_overwrite_resumes_without(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    out.write_text("of an earlier job")
    bad = [path for path in files if "-" in path.name]
    words = [str(path) for path in (*files[20:90], *bad)]
    with pytest.raises(ScoreError, match=r"^errors: expected at most 0"):
        score(words, model, out, Options(overwrite=True, max_errors=0))
    summary = score(words, model, out, Options(resume=True))
    assert summary.resumed_rows > 0
    assert len(read(out)) == len(words)


def test_the_command_says_it_in_one_line(shell: Shell, photos: Path, tmp_path: Path) -> None:
    table = as_csv(tmp_path / "m.csv", sorted(photos.iterdir()))
    said = shell("score", table, photos, "--model", "tiny", "--out", table)
    assert (said.code, said.out) == (1, "")
    assert said.error == (
        f"{table}: expected a file to write, got one of the sources; name another\n"
    )
    out = tmp_path / "scores.csv"
    words = ("score", photos, "--model", "tiny", "--out", out)
    assert [shell(*words).code, shell(*words).code, shell(*words, "--overwrite").code] == [0, 1, 0]


def test_a_compressed_table_holds_the_same_rows(
    photos: Path, model: LocalModel, tmp_path: Path
) -> None:
    for ending in (".csv", ".jsonl"):
        for name in (f"a{ending}", f"a{ending}.gz", f"b{ending}.gz"):
            write(tmp_path / name, model, photos)
        packed = (tmp_path / f"a{ending}.gz").read_bytes()
        assert gzip.decompress(packed) == (tmp_path / f"a{ending}").read_bytes()
        assert packed == (tmp_path / f"b{ending}.gz").read_bytes()
    with pytest.raises(ScoreError, match="expected CSV or JSON Lines to compress, got Parquet"):
        Output.parse(tmp_path / "a.parquet.gz")


def test_a_table_goes_to_a_url(photos: Path, model: LocalModel, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    try:
        for name in ("a.parquet", "a.csv.gz"):
            url = f"memory://scores/{name}"
            assert write(url, model, photos) == 3
            (tmp_path / name).write_bytes(memory.cat_file(f"/scores/{name}"))
            write(tmp_path / f"local-{name}", model, photos)
            assert (tmp_path / name).read_bytes() == (tmp_path / f"local-{name}").read_bytes()
            with pytest.raises(ScoreError, match=EXISTS):
                write(url, model, photos)
            with pytest.raises(ScoreError, match=IS_SOURCE):
                write(url, model, url, overwrite=True)
            write(url, model, photos, overwrite=True)
    finally:
        memory.store.clear()
    with pytest.raises(ScoreError, match=r"^abacus://x/a.csv: expected a URL that fsspec opens"):
        write("abacus://x/a.csv", model, photos)
    if importlib.util.find_spec("s3fs") is None:
        with pytest.raises(ScoreError, match=r"Install s3fs to access S3; .+ install s3fs$"):
            write("s3://x/a.csv", model, photos)


def test_a_job_that_writes_to_a_url_resumes(
    files: list[Path], model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts wait in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    bad = [path for path in files if "-" in path.name]
    words = [str(path) for path in (*files[20:90], *bad)]
    try:
        with pytest.raises(ScoreError, match=r"^errors: expected at most 0"):
            score(words, model, "memory://scores/a.csv", Options(max_errors=0))
        summary = score(words, model, "memory://scores/a.csv", Options(resume=True))
        assert (summary.rows, summary.resumed_rows) == (len(words), 64)
        assert memory.cat_file("/scores/a.csv").count(b"\n") == len(words) + 1
    finally:
        memory.store.clear()
    assert list((tmp_path / "cache/foveal/score").iterdir()) == []


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_goes_to_standard_output(
    kind: str, photos: Path, model: LocalModel, tmp_path: Path, capfdbinary: Any
) -> None:
    out = tmp_path / f"out.{kind}"
    score([str(photos)], model, Output.parse("-", "" if kind == "csv" else kind))
    out.write_bytes(capfdbinary.readouterr().out)
    assert len(read(out)) == 3
    with pytest.raises(ScoreError, match=r"^--resume: expected --out to be a file"):
        write("-", model, photos, resume=True)


@pytest.mark.thorough
def test_the_summary_of_a_table_on_standard_output_is_on_standard_error(
    photos: Path, tiny_repository: Path
) -> None:
    words: list[str | Path] = [sys.executable, ROOT / "foveal.py", "score", photos, "--out", "-"]
    words += ["--models", tiny_repository, "--model", "tiny", "--format", "jsonl", "--json"]
    ended = subprocess.run(words, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [json.loads(line)["model"] for line in ended.stdout.splitlines()] == ["tiny"] * 3
    assert json.loads(ended.stderr)["rows"] == 3


@pytest.mark.parametrize(
    ("kind", "begin"),
    [
        ("csv", "id,l"),
        pytest.param("jsonl", '{"id', marks=pytest.mark.thorough),
        pytest.param("parquet", "PAR1", marks=pytest.mark.thorough),
    ],
)
def test_a_reader_that_leaves_ends_the_job_quietly(
    kind: str, begin: str, tmp_path: Path, tiny_repository: Path
) -> None:
    """With the code of a program that SIGPIPE ends."""
    (tmp_path / "a.png").write_bytes(encode_png(random_images(1)[0]))
    table = tmp_path / "many.csv"  # more rows than a pipe holds
    table.write_text("path\n" + "a.png\n" * 20_000)
    score = f"{sys.executable} {ROOT / 'foveal.py'} score {table} --models {tiny_repository}"
    score += f" --model tiny --keep path --out - --format {kind}"
    ended = subprocess.run(
        ["bash", "-c", f"{score} | head -c 4; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if kind == "parquet" and ended.returncode == 0:  # all of it fits into a pipe
        return
    assert (ended.stdout, ended.stderr, ended.returncode) == (begin, "", 141)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_rows_reach_standard_output_as_they_are_finished(
    kind: str, files: list[Path], tiny_repository: Path, tmp_path: Path
) -> None:
    """The web server never answers for the rows after them."""
    words: list[str | Path] = [sys.executable, ROOT / "foveal.py", "score", tmp_path / "urls.csv"]
    words += ["--models", tiny_repository, "--model", "tiny", "--out", "-", "--format", kind]
    with serving([file.read_bytes() for file in files if "-" not in file.name]) as web:
        web.dies_after = 100
        urls = [f"{web.url}/{i}.png" for i in range(200)]
        (tmp_path / "urls.csv").write_text("\n".join(["url", *urls]))
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
            assert job.stdout is not None
            assert job.stderr is not None
            if kind == "csv":
                assert job.stdout.readline().startswith(b"id,label,")
            lines = [job.stdout.readline() for _ in range(64)]
            job.send_signal(signal.SIGINT)
            error = job.stderr.read().decode()
    assert [line for line, url in zip(lines, urls, strict=False) if url.encode() not in line] == []
    assert (job.returncode, error) == (130, "foveal score: stopped\n")


def test_standard_output_holds_the_rows_of_a_file(
    files: list[Path], model: LocalModel, tmp_path: Path, capfdbinary: Any
) -> None:
    words = [str(files[0].parent), str(files[0].parent)]
    for kind in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"out.{kind}"
        score(words, model, out)
        capfdbinary.readouterr()
        score(words, model, Output.parse("-", kind))
        assert capfdbinary.readouterr().out == out.read_bytes()
    with pytest.raises(ScoreError, match=r"^errors: expected at most 1"):
        score(words, model, Output.parse("-"), Options(max_errors=1))
