import os
import socket
import subprocess
from pathlib import Path

import pytest

from scoring.files import MAX_FILE_BYTES, FileRow
from scoring.rows import ScoreError
from scoring.sources import list_sources
from scoring.tables import Columns


def ids(*sources: Path | str) -> list[str]:
    found = list_sources([str(source) for source in sources], Columns())
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


def found(*sources: Path) -> list[tuple[str, str]]:
    """Names and errors, "" for what is read."""
    return [
        (id_.rpartition("/")[2], str(image) if isinstance(image, ScoreError) else "")
        for source in list_sources([str(source) for source in sources], Columns())
        for chunk in source.chunks()
        for id_, image in zip(chunk.ids, chunk.images, strict=True)
    ]


def test_links_within_a_folder_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write(tmp_path, "all/a/1.png", "all/.store/2.png")
    (tmp_path / "all/a/up").symlink_to(tmp_path / "all")
    (tmp_path / "all/b").symlink_to(".store")
    (tmp_path / "all/c.png").symlink_to("a/1.png")
    (tmp_path / "all/self").symlink_to("self")
    (tmp_path / "link").symlink_to("all")
    expected = ["a/1.png", "b/2.png", "c.png", "self"]
    assert ids(tmp_path / "all") == [f"{tmp_path}/all/{name}" for name in expected]
    assert ids(tmp_path / "link") == [f"{tmp_path}/link/{name}" for name in expected]


def test_a_link_that_leads_out_of_a_folder_is_a_row_with_an_error(tmp_path: Path) -> None:
    write(tmp_path, "all/1.png", "else/2.png", "all-too/3.png")
    (tmp_path / "all/a").symlink_to(tmp_path / "else")
    (tmp_path / "all/b.png").symlink_to("../else/2.png")
    (tmp_path / "all/c.png").symlink_to("../all-too/3.png")
    (tmp_path / "all/d.zip").symlink_to("/dev/zero")
    out = "expected one within the folder, got a link that leads out of it; name the"
    assert found(tmp_path / "all") == [
        ("1.png", ""),
        ("a", f"folder: {out} folder as a source to score it"),
        ("b.png", f"file: {out} file as a source to score it"),
        ("c.png", f"file: {out} file as a source to score it"),
        ("d.zip", f"file: {out} file as a source to score it"),
    ]
    assert found(tmp_path / "all/a", tmp_path / "all/b.png") == [("2.png", ""), ("b.png", "")]


def test_links_below_links_do_not_multiply(tmp_path: Path) -> None:
    """Forty folders, two links from each to the next: 2**40 paths."""
    write(tmp_path, *(f"all/{i:02}/1.png" for i in range(40)))
    for i in range(39):
        for name in ("x", "y"):
            (tmp_path / f"all/{i:02}/{name}").symlink_to(f"../{i + 1:02}")
    rows = found(tmp_path / "all")
    assert len(rows) == 40 + 39 * 2 + 38 * 4
    errors = {error for _, error in rows}
    assert errors == {"", "file: expected a file or a folder, got a link within a linked folder"}


def test_a_folder_of_everything_is_rows(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    write(folder, "a.png", "b.jpg/1.png", "c\nd.png", f"{'e' * 251}.png", "z.png")
    for name in ("f.csv", "g.npy", "g.npz", "g.parquet", "g.tar", "g.zip"):
        os.mkfifo(folder / name)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
        (tmp_path / "s").rename(folder / "h.png")
    (folder / "i.npz").write_bytes(b"no array")
    rows = dict(found(folder))
    names = ["a.png", "1.png", "c\nd.png", f"{'e' * 251}.png", "f.csv", "g.npy", "g.npz"]
    assert list(rows) == [*names, "g.parquet", "g.tar", "g.zip", "h.png", "i.npz", "z.png"]
    for name in ("g.npy", "g.npz", "g.parquet", "g.tar", "g.zip"):
        assert "expected a regular file, got a folder, pipe or device" in rows[name]
    assert "expected an array of numpy" in rows["i.npz"]
    for name in ("f.csv", "h.png"):
        with pytest.raises(ScoreError):
            FileRow(str(folder / name)).read()


def test_a_folder_that_is_too_deep_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "all/z.png")
    monkeypatch.chdir(tmp_path / "all")
    try:
        for _ in range(2500):  # more than a path may have, and than Python's stack
            Path("d").mkdir()
            os.chdir("d")
        rows = found(tmp_path / "all")
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "all/d"], check=True)
    assert rows[1:] == [("z.png", "")]
    assert rows[0][0] == "d", "reading it is the error: its name is too long"


def test_a_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    for ending in ("npy", "npz", "parquet", "csv"):
        os.mkfifo(tmp_path / f"a.{ending}")
        with pytest.raises(ScoreError, match="expected a regular file, got a folder, pipe"):
            ids(tmp_path / f"a.{ending}")
    for ending in ("tar", "zip"):
        os.mkfifo(tmp_path / f"a.{ending}")
        [(_, error)] = found(tmp_path / f"a.{ending}")
        assert "expected a regular file, got a folder, pipe" in error


def test_a_file_that_grows_or_shrinks_has_an_error() -> None:
    """What /proc says of its files' sizes is never true: they are as one that grows."""
    with pytest.raises(ScoreError, match="expected the same size while it is read, got another"):
        FileRow("/proc/self/status").read()


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
        ("long", f"expected at most {MAX_FILE_BYTES} bytes, got {MAX_FILE_BYTES + 1}; save it"),
        (".", "expected a regular file"),
    ):
        with pytest.raises(ScoreError, match=match):
            FileRow(str(tmp_path / name)).read()
