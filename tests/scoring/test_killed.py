"""A job whose process is killed at a row: the next run passes over the row if it is the reason."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from PIL import Image

from tests.server import ROOT


def large_image(path: Path) -> Path:
    """A picture whose decoding takes long enough to be seen from outside."""
    Image.new("RGB", (5700, 5700)).save(path, compress_level=1)
    return path


def start_command(models: Path, out: Path, source: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *(sys.executable, "foveal.py", "score", source, "--model", "tiny", "--out", out),
            *("--models", models, "--resume"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_while_it_decodes(process: "subprocess.Popen[str]", out: Path, row: int) -> None:
    marks = out.with_name(f".{out.name}.parts") / "decoding"
    mark = (1).to_bytes(8, "little") + row.to_bytes(8, "little")
    while not marks.exists() or mark not in marks.read_bytes():
        assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()


def kill_child(process: "subprocess.Popen[str]") -> None:
    """Kill the process in which one row is decoded."""
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        for child in parent.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "spawn_main" in " ".join(child.cmdline()):
                    child.kill()
                    return
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("is_deadly", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_a_row_that_kills_the_process_is_passed_over(
    files: list[Path], tiny_repository: Path, tmp_path: Path, *, is_deadly: bool
) -> None:
    """What was decoded at a kill is decoded alone: it has an error only if that is killed, too."""
    source, out = tmp_path / "images", tmp_path / "out.jsonl"
    source.mkdir()
    for number in (0, 1, 3):
        (source / f"{number}.png").write_bytes(files[number].read_bytes())
    large_image(source / "2.png")
    kill_while_it_decodes(start_command(tiny_repository, out, source), out, row=2)
    again = start_command(tiny_repository, out, source)
    if is_deadly:
        kill_child(again)
    said, error = again.communicate(timeout=60)
    assert again.returncode == (3 if is_deadly else 0), said + error
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    errors = [row.get("error") or "" for row in rows]
    assert [bool(error) for error in errors] == [False, False, is_deadly, False]
    assert is_deadly == ("whose decoding ends the process" in errors[2])
