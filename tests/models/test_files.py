"""Only regular files are read, and reading anything else ends at once."""

import contextlib
import os
import shutil
import socket
from pathlib import Path

import pytest

from models import files
from models.files import check_writable, read_file, replacing


def test_regular_file_and_a_link_to_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "file") == b"content"
    assert read_file(tmp_path / "link") == b"content"


def make(kind: str, path: Path) -> None:
    """Make something that is no file where a file should be."""
    path.unlink(missing_ok=True)
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "socket":
        with (
            contextlib.chdir(path.parent),  # the path of a socket is short
            socket.socket(socket.AF_UNIX) as listener,
        ):
            listener.bind(path.name)


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("a FIFO", "a FIFO"),
        ("a folder", "a folder"),
        ("a device", "a device"),
        ("loop", "Too many levels of symbolic links"),
        ("socket", "No such device or address|a socket"),
        ("nothing", "No such file or directory"),
    ],
)
@pytest.mark.timeout(10)
def test_no_file(tmp_path: Path, kind: str, match: str) -> None:
    make(kind, tmp_path / "file")
    with pytest.raises(OSError, match=match):
        read_file(tmp_path / "file")


def test_too_large(tmp_path: Path) -> None:
    """A sparse file costs nothing on the disk, and its size in memory."""
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="more than 2147483648 bytes"):
        read_file(tmp_path / "file")


def test_a_file_that_cannot_be_replaced_is_named(tmp_path: Path) -> None:
    """Not the hidden one that would have replaced it."""
    path = tmp_path / "none" / "repository.json"
    with pytest.raises(FileNotFoundError) as caught, replacing(path):
        pass
    assert (caught.value.filename, caught.value.strerror) == (
        str(path),
        "No such file or directory",
    )


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_writable(Path("runs/x"), "--run")
    check_writable(tmp_path, "--run")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="expected a folder to write, got a file; set --out"):
        check_writable(Path("file/x"), "--out")
    if Path("/proc/self").exists():  # what root cannot write either
        with pytest.raises(OSError, match="got one that cannot be written; set --run"):
            check_writable(Path("/proc/self/none/x"), "--run")
    monkeypatch.setattr(files, "_LEAST_FREE_BYTES", shutil.disk_usage(tmp_path).total + 1)
    with pytest.raises(OSError, match="got a full disk; set --run"):
        check_writable(tmp_path, "--run")
