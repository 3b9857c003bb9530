"""A damaged archive: what is whole is scored, and what is lost is said."""

import tarfile
from pathlib import Path

import pytest

from scoring.archives import ArchiveSource
from scoring.rows import ScoreError
from tests.scoring.containers import as_tar


@pytest.mark.parametrize(("ending", "mode"), [("tar", "w"), ("tgz", "w:gz"), ("txz", "w:xz")])
def test_an_archive_that_is_cut_anywhere_says_so(
    ending: str, mode: str, files: list[Path], tmp_path: Path
) -> None:
    """In a header, in a file, between two: rows are never lost without an error."""
    whole = as_tar(tmp_path / "whole", files[:20], mode).read_bytes()
    path = tmp_path / f"cut.{ending}"
    padding = 10_240 if ending == "tar" else 1  # the end's mark, and zeros up to a tape's record
    for end in range(1, len(whole) - padding, max(64, len(whole) // 200)):
        path.write_bytes(whole[:end])
        rows = [image for chunk in ArchiveSource(str(path)).chunks() for image in chunk.images]
        good = [image for image in rows if isinstance(image, bytes)]
        assert good == [file.read_bytes() for file in files[: len(good)]]
        # Compressed, the end's mark is the last bytes: without them, all images may be there.
        assert isinstance(rows[-1], ScoreError) or (len(good) == 20 and ending != "tar"), end
    path.write_bytes(whole)
    rows = [image for chunk in ArchiveSource(str(path)).chunks() for image in chunk.images]
    assert rows == [file.read_bytes() for file in files[:20]]


def test_a_damaged_header_is_not_the_end(files: list[Path], tmp_path: Path) -> None:
    """The standard library stops there as if nothing came after it."""
    path = as_tar(tmp_path / "a.tar", files[:20], "w")
    with tarfile.open(path) as tar:
        places = [info.offset for info in tar.getmembers()]
    content = bytearray(path.read_bytes())
    content[places[10] : places[10] + 8] = b"\xff" * 8
    path.write_bytes(content)
    *good, last = [image for chunk in ArchiveSource(str(path)).chunks() for image in chunk.images]
    assert good == [file.read_bytes() for file in files[:10]]
    assert isinstance(last, ScoreError)
    assert f"damage after images/{files[9].name}: a damaged header" in str(last)
