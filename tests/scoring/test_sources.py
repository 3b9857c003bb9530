import os
from pathlib import Path

import pytest

from scoring.files import MAX_FILE_BYTES, FileRow
from scoring.rows import ScoreError
from scoring.sources import list_sources
from scoring.tables import Columns


def ids(*sources: Path | str, skip: Path | None = None) -> list[str]:
    found = list_sources([str(source) for source in sources], Columns(), skip=skip)
    return [id_ for source in found for chunk in source.chunks() for id_ in chunk.ids]


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_folder_is_walked_sorted_by_path_without_hidden_files(tmp_path: Path) -> None:
    write(tmp_path, "b.png", "a/2.png", "a/10.png", "a.txt", ".hidden", ".git/config", "c/d/e.jpg")
    expected = ["a/10.png", "a/2.png", "a.txt", "b.png", "c/d/e.jpg"]
    assert ids(tmp_path) == [f"{tmp_path}/{name}" for name in expected]
    assert expected == [
        path.relative_to(tmp_path).as_posix()
        for path in sorted(tmp_path.rglob("*"))
        if path.is_file() and "/." not in str(path.relative_to(tmp_path.parent))
    ]


def test_sources_keep_their_order_and_patterns_are_sorted(tmp_path: Path) -> None:
    write(tmp_path, "z.png", "x/2.png", "x/1.png", "x/1.txt", "y/1.png")
    expected = ["z.png", "x/1.png", "x/2.png", "y/1.png"]
    assert ids(tmp_path / "z.png", tmp_path / "?" / "*.png") == [
        f"{tmp_path}/{name}" for name in expected
    ]
    assert ids(tmp_path / "**" / "1.*") == [
        f"{tmp_path}/{name}" for name in ("x/1.png", "x/1.txt", "y/1.png")
    ]


def test_pattern_that_matches_folders_takes_each_file_once(tmp_path: Path) -> None:
    write(tmp_path, "a/b/1.png", "a/2.png")
    once = [f"{tmp_path}/a/2.png", f"{tmp_path}/a/b/1.png"]
    assert sorted(ids(tmp_path / "**")) == sorted(ids(tmp_path / "*")) == once


def test_a_name_with_brackets_is_that_file(tmp_path: Path) -> None:
    write(tmp_path, "[1].png", "1.png")
    assert ids(tmp_path / "[1].png") == [f"{tmp_path}/[1].png"]


def test_the_output_of_an_earlier_run_is_no_input(tmp_path: Path) -> None:
    write(tmp_path, "1.png", "scores.csv")
    assert ids(tmp_path, skip=tmp_path / "scores.csv") == [f"{tmp_path}/1.png"]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write(tmp_path, "all/a/1.png", "elsewhere/2.png")
    (tmp_path / "all/a/up").symlink_to(tmp_path / "all")
    (tmp_path / "all/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "all/self").symlink_to("self")
    found = [f"{tmp_path}/all/{name}" for name in ("a/1.png", "b/2.png", "self")]
    assert ids(tmp_path / "all") == found


@pytest.mark.parametrize("name", ["nothing", "no*thing", "no/such/[ab].png"])
def test_a_source_without_files_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(ScoreError, match=r'^source ".*": expected a file, a folder or a pattern'):
        ids(tmp_path / name)


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match="expected at least one file"):
        ids(tmp_path)


def test_a_name_that_is_no_utf8_becomes_text(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/gr\xfcn.png"
    Path(os.fsdecode(path)).write_bytes(b"1")
    row = FileRow(os.fsdecode(path))
    assert ids(tmp_path) == [row.id] == [f"{tmp_path}/gr\\xfcn.png"]
    assert row.read() == b"1"


def test_an_unreadable_file_has_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to("nowhere")
    with (tmp_path / "long").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    for name, match in (
        ("pipe", "expected a regular file, got a folder, pipe or device"),
        ("broken", "expected a readable file, got: No such file"),
        ("long", f"expected at most {MAX_FILE_BYTES} bytes, got {MAX_FILE_BYTES + 1}"),
        (".", "expected a regular file"),
    ):
        with pytest.raises(ScoreError, match=match):
            FileRow(str(tmp_path / name)).read()
