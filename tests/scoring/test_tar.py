"""The reader of tars: the files that ``tarfile`` wrote, and what it refuses."""

import io
import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scoring.rows import ScoreError
from scoring.sources import list_sources
from scoring.tables import Columns
from scoring.tar import tar_files
from tests.scoring.containers import as_csv, as_npz, as_parquet, as_tar, as_zip
from tests.scoring.hostile import member, pax, png
from tests.tiny import random_images

NAMES = ["a.png", "b/" * 60 + "deep.png", "c" * 300 + ".png", "grün.png", "gr\udcfcn.png", "empty"]


def written(format_: int, mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(  # type: ignore[call-overload]
        fileobj=file, mode=mode, format=format_, errors="surrogateescape", encoding="utf-8"
    ) as tar:
        for i, name in enumerate(NAMES):
            if format_ == tarfile.USTAR_FORMAT and len(name) > 255:
                continue
            info = tarfile.TarInfo(name)
            info.size = 700 * i if name != "empty" else 0
            tar.addfile(info, io.BytesIO(bytes([i]) * info.size))
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
                info = tarfile.TarInfo(f"other{kind.decode()}")
                info.type, info.linkname = kind, "/etc/passwd"
                tar.addfile(info)
            info = tarfile.TarInfo("folder.png")
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_it_reads_what_tarfile_reads(format_: int, mode: str) -> None:
    content = written(format_, mode)
    with tarfile.open(fileobj=io.BytesIO(content), errors="surrogateescape") as tar:
        expected = [
            (info.name, tar.extractfile(info).read())  # type: ignore[union-attr]
            for info in tar
            if info.isreg()
        ]
    assert len(expected) >= 5
    assert [(file.name, file.read()) for file in tar_files(io.BytesIO(content))] == expected
    # Unread files are passed over.
    names = [file.name for file in tar_files(io.BytesIO(content))]
    assert names == [name for name, _ in expected]


def test_a_sparse_file_is_a_row_with_an_error(tmp_path: Path) -> None:
    old = member("old.png", bytes(512), tarfile.GNUTYPE_SPARSE)
    new = pax(GNU_sparse_major="1", GNU_sparse_name="new.png") + member("x", bytes(512))
    (tmp_path / "a.tar").write_bytes(old + new + member("b.png", png()) + bytes(1024))
    assert images(tmp_path / "a.tar") == [
        ("old.png", "file: expected a whole file, got a sparse one; tar it without --sparse"),
        ("new.png", "file: expected a whole file, got a sparse one; tar it without --sparse"),
        ("b.png", png()),
    ]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (
            pax(path="a" * 5000) + member("x", b""),
            "expected a name of at most 4096 bytes, got 5000",
        ),
        (pax(size="9" * 30) + member("x", b""), "a size that is no number"),
        (pax(size="-1") + member("x", b""), "a size that is no number"),
        (member("x", b"99 path=a\n", tarfile.XHDTYPE), "a record of no length"),
        (member("x", b"0 path=a\n", tarfile.XHDTYPE), "a record of no length"),
        (member("x", b"4 path=a\n", tarfile.XHDTYPE), "a record of no length"),
    ],
)
def test_a_header_that_lies_is_refused(content: bytes, match: str) -> None:
    with pytest.raises(tarfile.ReadError, match=match):
        list(tar_files(io.BytesIO(content + bytes(1024))))


def images(path: Path) -> list[tuple[str, Any]]:
    return [
        (id_.rpartition("/")[2], str(image) if isinstance(image, ScoreError) else image)
        for source in list_sources([str(path)], Columns())
        for chunk in source.chunks()
        for id_, image in zip(chunk.ids, chunk.images, strict=True)
    ]


@pytest.mark.parametrize(
    "name", ["a.tar", "a.tgz", "a.txz", "a.zip", "a.npy", "a.npz", "a.csv", "a.parquet"]
)
def test_a_changed_byte_is_one_line_or_rows_with_an_error(
    name: str, files: list[Path], tmp_path: Path
) -> None:
    """No reader raises anything else, whatever the byte; a thousand places of each container."""
    few = files[:3]
    (tmp_path / "images").symlink_to(few[0].parent)
    path = tmp_path / name
    match name:
        case "a.tar" | "a.tgz" | "a.txz":
            as_tar(path, few, {"a.tar": "w", "a.tgz": "w:gz", "a.txz": "w:xz"}[name])
        case "a.zip":
            as_zip(path, few)
        case "a.npy":
            np.save(path, random_images(4))
        case "a.npz":
            as_npz(path, random_images(4), [0, 1, 2, 3])
        case "a.csv":
            as_csv(path, [tmp_path / "images" / file.name for file in few])
        case "a.parquet":
            as_parquet(path, few)
    whole = path.read_bytes()
    chooser = random.Random(0)
    for place in sorted(chooser.sample(range(len(whole)), min(1000, len(whole)))):
        changed = bytearray(whole)
        changed[place] ^= chooser.randrange(1, 256)
        path.write_bytes(changed)
        try:
            rows = images(path)
        except ScoreError as error:
            assert "\n" not in str(error)
            continue
        assert len(rows) < 100, place
