"""The folder of unfinished rows, in a folder that other users may write to."""

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from scoring.parts import Parts
from scoring.rows import ScoreError
from scoring.tally import Tally

PIN = {"model": "tiny"}


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of files that nobody may touch."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "thesis").write_text("all of it")
    return folder


def folder_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.parts")


def write(file: BinaryIO) -> None:
    file.write(b"row")


def test_it_is_the_users_alone(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        with Parts(tmp_path / "out.csv", PIN, resume=False) as parts:
            parts.add(write, Tally(), (0, 1))
            assert folder_of(tmp_path / "out.csv").stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(previous)


def test_a_link_is_not_followed(tmp_path: Path, precious: Path) -> None:
    folder_of(tmp_path / "out.csv").symlink_to(precious)
    with (
        pytest.raises(ScoreError, match=r"expected a folder that only you .* got what is no fo"),
        Parts(tmp_path / "out.csv", PIN, resume=False),
    ):
        pass
    assert (precious / "thesis").read_text() == "all of it"


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, precious: Path) -> None:
    folder = folder_of(tmp_path / "out.csv")
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "000000").symlink_to(precious / "thesis")
    with (
        pytest.raises(ScoreError, match="got one that others may write to"),
        Parts(tmp_path / "out.csv", PIN, resume=False),
    ):
        pass
    assert (precious / "thesis").read_text() == "all of it"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "out.csv")
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    with (
        pytest.raises(ScoreError, match="got one of user 65534"),
        Parts(tmp_path / "out.csv", PIN, resume=False),
    ):
        pass


def test_an_exchanged_folder_ends_the_job(tmp_path: Path, precious: Path) -> None:
    folder = folder_of(tmp_path / "out.csv")
    with (
        pytest.raises(ScoreError, match="got another one in its place"),
        Parts(tmp_path / "out.csv", PIN, resume=False) as parts,
    ):
        parts.add(write, Tally(), (0, 1))
        folder.rename(tmp_path / "aside")
        folder.symlink_to(precious)
        parts.add(write, Tally(), (0, 2))
    assert [path.name for path in precious.iterdir()] == ["thesis"]
    assert (precious / "thesis").read_text() == "all of it"
