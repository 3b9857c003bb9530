"""Every kind of source gives the same rows for the same images."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from scoring.arrays import ArraySource
from scoring.local import LocalModel
from scoring.rows import ScoreError
from scoring.tables import Columns
from tests.scoring.containers import (
    COUNT,
    Row,
    as_csv,
    as_npz,
    as_parquet,
    as_paths_parquet,
    as_plain_parquet,
    as_tar,
    as_zip,
    read,
    rows_of,
    run,
    wds_tar,
)
from tests.tiny import LABELS, random_images, tiny_probabilities


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("a.tar", as_tar),
        ("a.tar.gz", lambda path, files: as_tar(path, files, "w:gz")),
        ("a.tgz", lambda path, files: as_tar(path, files, "w:gz")),
        ("a.tar.bz2", lambda path, files: as_tar(path, files, "w:bz2")),
        ("a.TAR.XZ", lambda path, files: as_tar(path, files, "w:xz")),
        ("a.zip", as_zip),
        ("a.parquet", as_parquet),
        ("b.parquet", as_plain_parquet),
        ("c.pq", as_paths_parquet),
        ("a.csv", as_csv),
        ("a.tsv", as_csv),
    ],
)
def test_a_container_gives_the_rows_of_its_folder(
    name: str, build: Any, files: list[Path], expected: list[Row], model: LocalModel, tmp_path: Path
) -> None:
    # Tables name their images relative to themselves.
    (tmp_path / "images").symlink_to(files[0].parent)
    source = build(tmp_path / name, [tmp_path / "images" / file.name for file in files])
    assert rows_of([source], model, tmp_path) == expected


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "grey.npz", "rgb.npy", "wide.npy"])
def test_an_array_gives_the_rows_of_its_images(
    name: str, expected: list[Row], model: LocalModel, tmp_path: Path
) -> None:
    images = random_images(COUNT)
    if name == "grey.npz":
        as_npz(tmp_path / name, images[..., 0])
    elif name.endswith(".npz"):
        as_npz(tmp_path / name, images)
    elif name == "rgb.npy":
        np.save(tmp_path / name, images.repeat(3, axis=3))
    elif name == "wide.npy":  # each pixel four times: `area` brings the image itself back
        np.save(tmp_path / name, images.repeat(2, axis=1).repeat(2, axis=2))
    else:
        np.save(tmp_path / name, images)
    good = [row for row in expected if row["error"] is None]
    assert rows_of([tmp_path / name], model, tmp_path) == good


def test_sources_of_all_kinds_are_mixed_in_order(
    files: list[Path],
    expected: list[Row],
    model: LocalModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_tar(tmp_path / "a.tar", files[:30])
    as_zip(tmp_path / "b.zip", files[40:70])
    as_parquet(tmp_path / "c.parquet", files[100:])
    listed = "\n".join([*map(str, files[70:100]), ""])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed.encode())))
    sources = [tmp_path / "a.tar", *files[30:40], tmp_path / "b.zip", "-", tmp_path / "c.parquet"]
    assert rows_of(sources, model, tmp_path) == expected


def test_a_url_is_opened_by_fsspec(
    files: list[Path], expected: list[Row], model: LocalModel, tmp_path: Path
) -> None:
    memory = fsspec.filesystem("memory")
    try:
        for file in files:
            memory.pipe_file(f"/photos/{file.name}", file.read_bytes())
        memory.pipe_file("/photos/.hidden", b"")
        as_tar(tmp_path / "a.tar", files)
        memory.pipe_file("/a.tar", (tmp_path / "a.tar").read_bytes())
        as_parquet(tmp_path / "a.parquet", files)
        memory.pipe_file("/a.parquet", (tmp_path / "a.parquet").read_bytes())
        as_csv(files[0].parent.parent / "a.csv", files)
        names = b"path\n" + b"\n".join(b"memory://photos/%s" % f.name.encode() for f in files)
        memory.pipe_file("/tables/a.csv", names)
        np.save(tmp_path / "a.npy", random_images(COUNT))
        memory.pipe_file("/a.npy", (tmp_path / "a.npy").read_bytes())
        for url in (
            "memory://photos",
            "memory://photos/*.png",
            "memory://a.tar",
            "memory://a.parquet",
            "memory://tables/a.csv",
        ):
            assert rows_of([url], model, tmp_path) == expected, url
        assert rows_of(["memory://a.npy"], model, tmp_path) == [
            row for row in expected if row["error"] is None
        ]
        with pytest.raises(ScoreError, match=r'^source "memory://none": expected a file'):
            run(["memory://none"], model, tmp_path / "a.csv")
    finally:
        memory.store.clear()
    with pytest.raises(ScoreError, match=r"^abacus://x: expected a URL that fsspec opens"):
        run(["abacus://x"], model, tmp_path / "a.csv")


def test_ids_say_where_a_row_is(files: list[Path], model: LocalModel, tmp_path: Path) -> None:
    some = files[:2]
    sources = [
        as_tar(tmp_path / "a.tar", some),
        as_zip(tmp_path / "b.zip", some),
        as_parquet(tmp_path / "c.parquet", some, name=["x", "y"]),
    ]
    np.save(tmp_path / "d.npy", random_images(2))
    run([*sources, tmp_path / "d.npy"], model, tmp_path / "out.csv")
    assert [row["id"].removeprefix(f"{tmp_path}/") for row in read(tmp_path / "out.csv")] == [
        "a.tar/images/0000.png",
        "a.tar/images/0001.png",
        "b.zip/images/0000.png",
        "b.zip/images/0001.png",
        "c.parquet#0",
        "c.parquet#1",
        "d.npy#0",
        "d.npy#1",
    ]
    run([sources[2]], model, tmp_path / "out.csv", columns=Columns(id="name"))
    assert [row["id"] for row in read(tmp_path / "out.csv")] == ["x", "y"]


def test_glob_chooses_files_of_folders_alone(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    def names(pattern: str) -> list[str]:
        run([files[0].parent.parent, files[0]], model, tmp_path / "out.csv", patterns=(pattern,))
        return [Path(row["id"]).name for row in read(tmp_path / "out.csv")]

    assert names("*0.png") == [f"{i:04}.png" for i in range(0, COUNT, 10)] + ["0000.png"]
    assert names("images/000?.png") == [f"{i:04}.png" for i in range(10)] + ["0000.png"]
    assert names("elsewhere/*.png") == ["0000.png"]


WRONG = [
    (
        "a.npy",
        lambda path: np.save(path, np.zeros((2, 8, 8, 1), np.float32)),
        r"got float32; scale to 0-255 and use \.astype\('uint8'\)$",
    ),
    (
        "a.npy",
        lambda path: np.save(path, np.zeros((2, 3, 8, 8), np.uint8)),
        r"got \[2, 3, 8, 8\]; use \.transpose",
    ),
    ("a.npy", lambda path: np.save(path, np.zeros((2, 64), np.uint8)), r"got \[2, 64\]$"),
    (
        "a.npy",
        lambda path: np.save(path, np.asfortranarray(np.zeros((2, 8, 8), np.uint8))),
        "Fortran",
    ),
    ("a.npy", lambda path: np.save(path, np.array([{}]), allow_pickle=True), "got object"),
    ("a.npy", lambda path: path.write_bytes(b"no array"), "expected an array of numpy, got"),
    ("a.npz", lambda path: path.write_bytes(b"no array"), "expected an array of numpy, got"),
    (
        "a.npz",
        lambda path: np.savez(path, a=np.zeros(3), b=np.zeros(3)),
        "expected an array called images, .* got a, b$",
    ),
    (
        "a.npz",
        lambda path: np.savez(path, images=np.zeros((2, 8, 8), np.uint8), labels=[1]),
        r"expected labels \[2\] of whole numbers or text, got int64 \[1\]",
    ),
    ("a.parquet", lambda path: path.write_bytes(b"no table"), "expected a Parquet file, got"),
    (
        "a.parquet",
        lambda path: pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), path),
        "expected a column of images or paths, got x; name it with --image-column",
    ),
    ("a.csv", lambda path: path.write_text("x,y\n1,2\n"), "expected a column of images or paths"),
    ("a.csv", lambda path: path.write_bytes(b"path\x81\n"), "expected CSV in UTF-8"),
]


def array(header: bytes) -> bytes:
    """An array of numpy's version 1.0 with any header."""
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(128)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "a file that ends within its header"),
        (array(b"{'shape': (2, 8, 8)}\n")[:15], "a file that ends within its header"),
        (b"PNG or so", "a file that does not begin as one"),
        (
            array(b"{'descr': f(), 'fortran_order': False, 'shape': (2, 8, 8)}\n"),
            "a damaged header",
        ),
        (array(b"(" * 300), "a damaged header"),
        (array(b"{'descr': 'zzz', 'fortran_order': False, 'shape': (2,)}\n"), "a damaged header"),
        (array(b"\0\xff\n"), "a damaged header"),
    ],
)
def test_a_damaged_array_is_said_in_one_line(content: bytes, got: str, tmp_path: Path) -> None:
    """Without the address of an object of Python's parser."""
    (tmp_path / "a.npy").write_bytes(content)
    images = tmp_path / "images.npy"
    np.save(images, np.zeros((2, 8, 8), np.uint8))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(images, "images.npy")
        archive.writestr("labels.npy", content)
    for name, where in (("a.npy", "a.npy"), ("a.npz", "a.npz, labels.npy")):
        with pytest.raises(ScoreError) as error:
            ArraySource(str(tmp_path / name))
        assert str(error.value).removeprefix(f"{tmp_path}/") == (
            f"{where}: expected an array of numpy, got {got}; write it with numpy.save or savez"
        )


@pytest.mark.parametrize(("name", "build", "match"), WRONG, ids=[match for _, _, match in WRONG])
def test_a_container_that_holds_no_images_is_refused_at_once(
    name: str, build: Any, match: str, model: LocalModel, tmp_path: Path
) -> None:
    build(tmp_path / name)
    with pytest.raises(ScoreError, match=match):
        run([tmp_path / name], model, tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_labels_are_compared_where_they_are_known(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    images = random_images(COUNT)
    truths = [
        (int(best) + (i % 10 == 0)) % 4
        for i, best in enumerate(tiny_probabilities(images).argmax(axis=1))
    ]
    good = [file for file in files if "-" not in file.name]
    names = [LABELS[truth] for truth in truths]
    by_folder = tmp_path / "by_folder"
    for file, name in zip(good, names, strict=True):
        (by_folder / name).mkdir(parents=True, exist_ok=True)
        (by_folder / name / file.name).write_bytes(file.read_bytes())
    (by_folder / "3").mkdir()  # a number is no label here, and a file with an error does not count
    (by_folder / "3" / "a.png").write_bytes(good[0].read_bytes())
    (by_folder / LABELS[0] / "bad.png").write_bytes(b"")
    (tmp_path / "images").symlink_to(files[0].parent)
    linked = [tmp_path / "images" / file.name for file in good]
    label = Columns(label="truth")
    for source, columns in (
        (by_folder, Columns()),
        (as_parquet(tmp_path / "a.parquet", good, truth=truths), label),
        (as_parquet(tmp_path / "b.parquet", good, truth=names), label),
        (as_csv(tmp_path / "a.csv", linked, truth=truths), label),
        (as_csv(tmp_path / "b.csv", linked, truth=names), label),
        (as_npz(tmp_path / "a.npz", images, np.array(truths)), Columns()),
        (as_npz(tmp_path / "b.npz", images, np.array(names)), Columns()),
        (wds_tar(tmp_path / "a.tar", images, truths), Columns()),
    ):
        summary = run([source], model, tmp_path / "out.csv", columns=columns)
        accuracy = summary.accuracy
        assert accuracy is not None, source
        assert (accuracy["rows"], accuracy["correct"]) == (COUNT, COUNT - COUNT // 10), source
        assert accuracy["accuracy"] == pytest.approx(0.9)
        for index, name in enumerate(LABELS):
            assert sum(accuracy["confusion"][name].values()) == truths.count(index), source
    assert run(files[:20], model, tmp_path / "out.csv").accuracy is None


def test_a_container_whose_name_is_no_utf8_is_read(
    files: list[Path], expected: list[Row], model: LocalModel, tmp_path: Path
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfcn"))
    folder.mkdir()
    sources = [
        as_tar(folder / "a.tar", files),
        as_parquet(tmp_path / "b.parquet", files).rename(folder / "b.parquet"),
    ]
    (folder / "c.csv").write_text(f"path\n{files[0]}\n")
    np.save(folder / "d.npy", random_images(1))
    run([*sources, folder / "c.csv", folder / "d.npy"], model, folder / "out.parquet")
    ids = [row["id"] for row in read((folder / "out.parquet").rename(tmp_path / "out.parquet"))]
    assert ids[0] == f"{tmp_path}/gr\\xfcn/a.tar/images/{files[0].name}"
    assert ids[-1] == f"{tmp_path}/gr\\xfcn/d.npy#0"
    assert len(ids) == 2 * len(expected) + 2


def test_a_folder_opens_what_holds_images_but_not_a_table_of_paths(
    files: list[Path], model: LocalModel, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    as_tar(folder / "a.tar", files[:2])
    (folder / "b.png").write_bytes(files[0].read_bytes())
    (folder / "labels.csv").write_text("name,label\nb.png,top\n")
    np.save(folder / "z.npy", random_images(1))
    run([folder], model, tmp_path / "out.jsonl")
    rows = read(tmp_path / "out.jsonl")
    assert [(row["id"].removeprefix(f"{folder}/"), row["error"] is None) for row in rows] == [
        ("a.tar/images/0000.png", True),
        ("a.tar/images/0001.png", True),
        ("b.png", True),
        ("labels.csv", False),
        ("z.npy#0", True),
    ]
