"""Images behind URLs: many at once, each within a time; a service that is gone ends the job."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from scoring import urls
from scoring.files import MAX_FILE_BYTES, FileRow
from scoring.job import Options, score
from scoring.local import LocalModel
from scoring.rows import LostError, ScoreError
from tests.scoring.containers import Row, read
from tests.scoring.web import Web, serving
from tests.server import ROOT

COUNT = 400


@pytest.fixture
def web(files: list[Path]) -> Iterator[Web]:
    good = [file.read_bytes() for file in files if "-" not in file.name]
    with serving(good) as web:
        yield web


@pytest.fixture
def table(web: Web, tmp_path: Path) -> Path:
    path = tmp_path / "urls.csv"
    path.write_text("url\n" + "".join(f"{web.url}/{i}.png\n" for i in range(COUNT)))
    return path


def rows(out: Path) -> list[Row]:
    return [{k: v for k, v in row.items() if k != "id"} for row in read(out)]


def run(table: Path, model: LocalModel, out: Path, **options: bool) -> list[Row]:
    score([str(table)], model, out, Options(**options))  # type: ignore[arg-type]
    return rows(out)


def test_tens_of_images_are_fetched_at_once_and_in_order(
    web: Web, table: Path, files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    """One after the other, 400 answers of 50 ms take 20 s."""
    web.delay_s = 0.05
    began = time.monotonic()
    found = run(table, model, tmp_path / "out.jsonl")
    assert time.monotonic() - began < 10
    assert 20 <= web.most_at_once <= 32
    assert web.requests == COUNT, "one request an image"
    good = [str(file) for file in files if "-" not in file.name]
    score(good, model, tmp_path / "files.jsonl")
    expected = rows(tmp_path / "files.jsonl")
    assert found == [expected[i % len(expected)] for i in range(COUNT)]


def test_urls_on_the_command_line_are_asked_for_once(
    web: Web, model: LocalModel, tmp_path: Path
) -> None:
    """No listing, no size, no date: some servers answer GET alone."""
    sources = [f"{web.url}/{i}.png?sign=*" for i in range(3)]
    score(sources, model, tmp_path / "out.jsonl")
    assert web.requests == 3
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == sources


def test_what_a_service_refuses_is_its_rows_error(
    web: Web, model: LocalModel, tmp_path: Path
) -> None:
    summary = score([f"{web.url}/0.png", f"{web.url}/none.png"], model, tmp_path / "out.jsonl")
    assert (summary.rows, summary.errors) == (2, 1)
    assert "expected a readable file, got: no such file" in read(tmp_path / "out.jsonl")[1]["error"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_service_that_is_busy_is_asked_again(
    status: int, web: Web, model: LocalModel, tmp_path: Path
) -> None:
    web.fails = status
    summary = score([f"{web.url}/{i}.png" for i in range(40)], model, tmp_path / "out.jsonl")
    assert (summary.rows, summary.errors) == (40, 0)
    assert web.requests == 80


def test_an_image_that_trickles_is_an_error_after_the_limit(
    web: Web, model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "LIMIT_S", 1.0)
    sources = [f"{web.url}/{name}.png" for name in ("0", "trickle", "1")]
    summary = score(sources, model, tmp_path / "out.jsonl")
    assert (summary.rows, summary.errors) == (3, 1)
    assert "got: nothing whole within 1 s" in read(tmp_path / "out.jsonl")[1]["error"]


def test_an_image_without_an_end_is_not_held(web: Web) -> None:
    with pytest.raises(ScoreError, match=f"expected at most {MAX_FILE_BYTES} bytes, got "):
        FileRow(f"{web.url}/endless").read()


@pytest.mark.thorough
def test_a_service_that_dies_ends_the_job_which_goes_on_later(
    web: Web, table: Path, model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(table, model, tmp_path / "whole.jsonl")
    monkeypatch.setattr(urls, "LIMIT_S", 1.5)
    web.requests, web.dies_after = 0, 250
    out = tmp_path / "out.jsonl"
    began = time.monotonic()
    with pytest.raises(LostError, match=r"expected answers, got none to 16 requests; .*--resume$"):
        run(table, model, out)
    assert time.monotonic() - began < 20
    assert not out.exists()
    web.dies_after = None
    before = web.requests
    run(table, model, out, resume=True)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert web.requests - before < COUNT, "finished rows were fetched again"


def test_a_service_that_was_never_there_ends_the_job(
    table: Path, model: LocalModel, tmp_path: Path
) -> None:
    table.write_text("url\n" + "".join(f"http://127.0.0.1:9/{i}.png\n" for i in range(40)))
    with pytest.raises(LostError, match=r"^http://127.0.0.1:9: expected answers, got none"):
        run(table, model, tmp_path / "out.jsonl")


def test_dead_addresses_among_others_are_rows_with_an_error(
    web: Web, table: Path, model: LocalModel, tmp_path: Path
) -> None:
    """As in lists of images of the web."""
    lines = [
        f"http://127.0.0.1:{i % 9 + 1}/a.png" if i % 4 == 0 else f"{web.url}/{i}.png"
        for i in range(100)
    ]
    table.write_text("url\n" + "\n".join(lines))
    found = run(table, model, tmp_path / "out.jsonl")
    assert [i for i, row in enumerate(found) if row["error"]] == list(range(0, 100, 4))


@pytest.mark.parametrize("name", ["a.tar", "a.parquet", "a.csv", "a.npy"])
def test_a_container_that_does_not_answer_is_one_line(
    name: str, web: Web, model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "LIMIT_S", 0.5)
    web.dies_after = 0
    with pytest.raises(ScoreError, match=r"expected an answer within 0.5 s, got none; .*--resume"):
        score([f"{web.url}/{name}"], model, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == []


def test_control_c_ends_it_at_once(web: Web, table: Path, tiny_repository: Path) -> None:
    web.dies_after = 100
    words: list[str | Path] = [sys.executable, ROOT / "foveal.py", "score", table]
    words += ["--models", tiny_repository, "--model", "tiny"]
    process = subprocess.Popen(
        [*words, "--out", table.with_name("out.csv")],
        stderr=subprocess.PIPE,
        text=True,
    )
    while web.requests < 120:
        assert process.poll() is None
        time.sleep(0.02)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - began < 8
    assert process.returncode == 130
    assert said == "foveal score: stopped; finished rows are kept: add --resume to go on\n"


def test_files_of_other_services_are_fetched_too(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    """One that fsspec calls without asyncio; it is held up by nothing of ours."""
    memory = fsspec.filesystem("memory")
    try:
        good = [file for file in files if "-" not in file.name]
        for file in good:
            memory.pipe_file(f"/photos/{file.name}", file.read_bytes())
        before = threading.active_count()
        score(["memory://photos"], model, tmp_path / "out.jsonl")
        assert threading.active_count() <= before + 2
        score([str(file) for file in good], model, tmp_path / "files.jsonl")
        assert rows(tmp_path / "out.jsonl") == rows(tmp_path / "files.jsonl")
    finally:
        memory.store.clear()
