import os
from pathlib import Path

import numpy as np
import pytest

from models.image import ImageError
from tests.training.files import make_pngs, write_mnist_like, write_parquet
from training.datasets.listing import Content, Listing
from training.errors import ConfigError, DatasetError
from training.quality.pipeline import list_dataset

pytestmark = pytest.mark.training


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def named(listing: Listing, root: Path) -> list[tuple[str, str, str]]:
    """(path below the root, split, label) of every row."""
    return [
        (os.path.relpath(row.file, root), row.split, listing.label(index))
        for index, row in enumerate(listing.rows)
    ]


def test_a_folder_of_classes(tmp_path: Path) -> None:
    write(tmp_path, "cat/b.png", "cat/a.jpg", "cat/2024/spring/c.png", "dog/a.png", "stray.JPG")
    write(tmp_path, "README.md", "labels.csv")
    listing = list_dataset(f"folder:{tmp_path}")
    assert listing.labels == ("cat", "dog")
    assert named(listing, tmp_path) == [
        ("cat/a.jpg", "all", "cat"),
        ("cat/b.png", "all", "cat"),
        ("cat/2024/spring/c.png", "all", "cat"),
        ("dog/a.png", "all", "dog"),
        ("stray.JPG", "all", ""),
    ]
    assert [content for _, content in listing.read(None)] == [
        b"cat/a.jpg",
        b"cat/b.png",
        b"cat/2024/spring/c.png",
        b"dog/a.png",
        b"stray.JPG",
    ]
    assert list(listing.read({3, 1})) == [(1, b"cat/b.png"), (3, b"dog/a.png")]


def test_parts_in_any_case_have_the_classes_of_all(tmp_path: Path) -> None:
    write(tmp_path, "Test/cat/1.png", "TRAIN/cat/2.png", "TRAIN/dog/3.png", "val/owl/4.png")
    listing = list_dataset(f"folder:{tmp_path}")
    assert listing.labels == ("cat", "dog", "owl")
    assert listing.splits == ["train", "validation", "test"]
    assert named(listing, tmp_path) == [
        ("TRAIN/cat/2.png", "train", "cat"),
        ("TRAIN/dog/3.png", "train", "dog"),
        ("val/owl/4.png", "validation", "owl"),
        ("Test/cat/1.png", "test", "cat"),
    ]


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    write(tmp_path, "test/1.png", "production/2.png")
    listing = list_dataset(f"folder:{tmp_path}")
    assert listing.labels == ("production", "test")
    assert listing.splits == ["all"]


def test_what_systems_leave_behind_is_passed_over_and_counted(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.png", "cat/Thumbs.db", "cat/.DS_Store", "dog/__MACOSX/._1.png")
    write(tmp_path, "dog/1.png", ".git/config", "__MACOSX/cat/1.png")
    listing = list_dataset(f"folder:{tmp_path}")
    assert listing.labels == ("cat", "dog")
    assert [row[0] for row in named(listing, tmp_path)] == ["cat/1.png", "dog/1.png"]
    assert listing.passed_over == 3


def test_a_name_that_is_no_utf_8_is_shown_with_escapes(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "dog" / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    listing = list_dataset(f"folder:{tmp_path}")
    assert listing.rows[2].file.endswith(r"dog/\xff.png")
    assert list(listing.read({2})) == [(2, b"x")]


def test_a_file_that_is_gone_is_a_bad_row(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.png", "dog/1.png")
    listing = list_dataset(f"folder:{tmp_path}")
    (tmp_path / "cat/1.png").unlink()
    bad, good = [content for _, content in listing.read(None)]
    assert isinstance(bad, ImageError)
    assert "No such file" in str(bad)
    assert good == b"dog/1.png"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "expected a folder with one sub-folder per class, got No such file"),
        (["cat/1.png"], "expected two or more sub-folders, one per class, got 1"),
        (["a.png", "b.png"], "expected two or more sub-folders, one per class, got 0"),
    ],
)
def test_a_folder_without_classes_is_refused(
    tmp_path: Path, names: list[str], message: str
) -> None:
    write(tmp_path / "photos", *names)
    with pytest.raises(DatasetError, match=message):
        list_dataset(f"folder:{tmp_path / 'photos'}")


def contents(listing: Listing) -> list[Content]:
    return [content for _, content in listing.read(None)]


def test_a_table_with_rows_that_training_refuses(tmp_path: Path) -> None:
    images = [*make_pngs(3), None, b""]
    path = write_parquet(tmp_path / "t.parquet", images, [0, 1, 7, 1, None], ["cat", "dog"])
    listing = list_dataset(f"parquet:{path}")
    assert listing.labels == ("cat", "dog")
    assert [row.target for row in listing.rows] == [0, 1, -1, 1, -1]
    assert str(listing.rows[4]) == f"{path} row 4"
    read = contents(listing)
    assert read[:3] == images[:3]
    assert isinstance(read[3], ImageError)
    assert read[4] == b""
    assert list(listing.read({1})) == [(1, images[1])]


def test_a_folder_of_tables_has_its_parts(tmp_path: Path) -> None:
    for part, count in (("test", 2), ("train-0", 20), ("train-1", 3), ("validation", 4)):
        texts = ["cat", "dog"] * count
        write_parquet(tmp_path / f"{part}.parquet", make_pngs(2) * count, texts[: 2 * count])
    listing = list_dataset(f"parquet:{tmp_path}")
    assert listing.splits == ["train", "validation", "test"]
    assert len(listing.rows) == 58
    assert (listing.rows[40].file, listing.rows[40].row) == (str(tmp_path / "train-1.parquet"), 0)
    assert [index for index, _ in listing.read({0, 45, 57})] == [0, 45, 57]


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected files train\*.parquet"):
        list_dataset(f"parquet:{tmp_path}")


def test_a_dataset_with_a_name(tmp_path: Path) -> None:
    listing = list_dataset("mnist", write_mnist_like(tmp_path, rows=20))
    assert len(listing.rows) == 40
    assert str(listing.rows[21]) == "mnist/test row 1"
    ((index, content),) = listing.read({21})
    assert index == 21
    assert isinstance(content, np.ndarray)
    assert content.shape == (28, 28, 1)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of cifar10, digits"):
        list_dataset("birds")
