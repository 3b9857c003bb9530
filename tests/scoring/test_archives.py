"""Archives: which files are rows, and a damaged archive, of which every whole row is scored."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from models.image import encode_png
from scoring.archives import ArchiveSource
from scoring.local import LocalModel
from scoring.rows import ScoreError
from tests.scoring.containers import (
    COUNT,
    Row,
    as_tar,
    read,
    rows_of,
    run,
    wds_tar,
)
from tests.tiny import random_images, tiny_probabilities


def test_a_damaged_archive_is_one_row_with_an_error_at_its_end(
    files: list[Path], expected: list[Row], model: LocalModel, tmp_path: Path
) -> None:
    whole = as_tar(tmp_path / "a.tar", files).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: 100 * 1024 + 700])
    (tmp_path / "b.zip").write_bytes(b"PK no zip at all")
    (tmp_path / "c.tgz").write_bytes(as_tar(tmp_path / "c", files, "w:gz").read_bytes()[:5000])
    for name, least in (("a.tar", 40), ("b.zip", 0), ("c.tgz", 5)):
        rows = rows_of([tmp_path / name, files[0]], model, tmp_path)
        assert rows[-1] == expected[0], "the next source was not reached"
        assert rows[-2]["error"].startswith("archive: expected a whole archive, got damage after ")
        assert rows[:-2] == expected[: len(rows) - 2]
        assert len(rows) - 2 >= least


def test_a_file_of_a_zip_that_cannot_be_read_fails_alone(
    files: list[Path], expected: list[Row], model: LocalModel, tmp_path: Path
) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in files[:3]:
            archive.write(file, file.name)
        offset = archive.infolist()[1].header_offset
    content = bytearray(path.read_bytes())
    content[offset + 60] ^= 0xFF
    path.write_bytes(content)
    rows = rows_of([path], model, tmp_path)
    assert [rows[0], rows[2]] == [expected[0], expected[2]]
    assert rows[1]["error"].startswith(
        "file: expected a readable file in the archive, got: Bad CRC"
    )


def test_hidden_files_and_links_of_an_archive_are_no_rows(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("./a.png", "__MACOSX/a.png", ".git/a.png", "b/._a.png", "b/a.png"):
            tar.add(files[0], name)
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    run([tmp_path / "a.tar"], model, tmp_path / "out.csv")
    ids = [row["id"] for row in read(tmp_path / "out.csv")]
    assert ids == [f"{tmp_path}/a.tar/a.png", f"{tmp_path}/a.tar/b/a.png"]


@pytest.mark.parametrize(
    "ending", ["gif", "tif", "TIFF", "ppm", "pgm", "pnm", "heic", "heif", "avif", "jfif", "webp"]
)
def test_a_sample_may_hold_an_image_of_any_format(tmp_path: Path, ending: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (("1.cls", b"7"), (f"1.{ending}", b"image"), ("1.json", b"{}")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (chunk,) = ArchiveSource(str(tmp_path / "a.tar")).chunks()
    assert chunk.ids == [f"{tmp_path}/a.tar/1.{ending}"]
    assert chunk.truths == [7]


def test_a_sample_of_a_tar_is_one_row(model: LocalModel, tmp_path: Path) -> None:
    path = wds_tar(tmp_path / "a.tar", random_images(COUNT), [0] * COUNT)
    run([path], model, tmp_path / "out.csv")
    rows = read(tmp_path / "out.csv")
    assert [row["id"] for row in rows] == [f"{path}/{i:05}.png" for i in range(COUNT)]
    assert [row["index"] for row in rows] == tiny_probabilities(random_images(COUNT)).argmax(
        axis=1
    ).tolist()


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def truths(path: Path, start: int = 0) -> list[tuple[str, object]]:
    return [
        (id_.removeprefix(f"{path}/"), str(image) if isinstance(image, ScoreError) else truth)
        for chunk in ArchiveSource(str(path)).chunks(start)
        for id_, truth, image in zip(chunk.ids, chunk.truths, chunk.images, strict=True)
    ]


@pytest.mark.parametrize("build", [tar_of, zip_of])
def test_a_label_is_that_of_its_own_image(build: Any, tmp_path: Path) -> None:
    """Names are split at the first dot, as WebDataset does: no label is another image's."""
    path = build(
        tmp_path / f"a.{build.__name__[:3]}",
        {
            "a/1.jpg": b"1",
            "a/1.cls": b"3",
            "b/1.jpg": b"2",  # another folder is another sample
            "b/1.cls": b"2",
            "c/2.seg.png": b"3",  # two images of one sample
            "c/2.jpg": b"4",
            "c/2.CLS": b"1",
            "c/1.5m.jpg": b"5",  # one key, two names
            "c/1.5m.cls": b"0",
            "c/1.7m.jpg": b"6",
            "c/1.7m.cls": b"2",
            "c/9.5m.jpg": b"7",
            "c/9.7m.jpg": b"8",
            "c/9.5m.cls": b"1",
            "c/9.7m.cls": b"0",
        },
    )
    expected = [
        ("a/1.jpg", 3),
        ("b/1.jpg", 2),
        ("c/2.seg.png", 1),
        ("c/2.jpg", 1),
        ("c/1.5m.jpg", 0),
        ("c/1.7m.jpg", 2),
        ("c/9.5m.jpg", 1),
        ("c/9.7m.jpg", 0),
    ]
    assert truths(path) == expected


def unsorted(count: int) -> dict[str, bytes]:
    """All images, then all labels."""
    images = {f"x/{i:04}.png": encode_png(image) for i, image in enumerate(random_images(count))}
    return images | {f"x/{i:04}.cls": b"%d\n" % (i % 4) for i in range(count)}


@pytest.mark.parametrize("build", [tar_of, zip_of])
def test_labels_after_all_images_are_found(build: Any, tmp_path: Path) -> None:
    path = build(tmp_path / f"a.{build.__name__[:3]}", unsorted(300))
    expected = [(f"x/{i:04}.png", i % 4) for i in range(300)]
    assert truths(path) == expected
    assert truths(path, 70) == expected[70:]


def test_labels_that_are_not_found_are_one_line(tmp_path: Path) -> None:
    """A compressed archive would have to be read twice."""
    plain = tar_of(tmp_path / "a.tar", unsorted(20)).read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(plain))
    mixed = {"z.png": b"1", **unsorted(3), "y.png": b"2"} | {f"{i:05}.png": b"" for i in range(300)}
    for path, images in (
        (tmp_path / "b.tar.gz", 20),
        (tar_of(tmp_path / "c.tar", mixed), 305),
    ):
        *rows, said = [row for row in truths(path) if "cls" in row[0]]
        assert rows == []
        assert "got a label far from its image; unpack" in str(said[1])
        assert "tar --sort=name -cf sorted.tar" in str(said[1])
        assert len(truths(path)) == images + 1
    lone = tar_of(tmp_path / "d.tar", {"1.png": b"1", "1.cls": b"1", "2.cls": b"2"})
    assert [name for name, _ in truths(lone)] == ["1.png", "2.cls"], "an image is missing"


@pytest.mark.parametrize("name", ["a.tar.zst", "a.tzst"])
def test_zstd_is_read(
    name: str, files: list[Path], expected: list[Row], model: LocalModel, tmp_path: Path
) -> None:
    plain = as_tar(tmp_path / "a.tar", files).read_bytes()
    middle = len(plain) // 2
    codec = pyarrow.Codec("zstd")
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"pzst"
    frames = [codec.compress(part, asbytes=True) for part in (plain[:middle], plain[middle:])]
    for content in (b"".join(frames), skipped.join([b"", *frames])):
        (tmp_path / name).write_bytes(content)
        assert rows_of([tmp_path / name], model, tmp_path) == expected
    (tmp_path / name).write_bytes(content[:-100])
    *good, last = rows_of([tmp_path / name], model, tmp_path)
    assert good == expected[: len(good)]
    assert "got damage after" in last["error"]


def test_a_resumed_sample_has_as_many_rows_whatever_its_names(
    files: list[Path], tmp_path: Path
) -> None:
    """What the bytes say counts, also of files that are passed over on the way."""
    image = files[0].read_bytes()
    content = {f"{i:03}.{kind}": image for i in range(100) for kind in ("bin", "json")}
    for name in content:
        if name.endswith("json"):
            content[name] = b"{}"
    path = tar_of(tmp_path / "a.tar", content)
    whole = truths(path)
    assert len(whole) == 100
    for start in (1, 64, 99):
        assert truths(path, start) == whole[start:]


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
