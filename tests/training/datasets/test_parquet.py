import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.image import encode_png
from tests.training.files import make_pngs, write_parquet
from training.datasets.encoded import AS_THEY_ARE, Reading
from training.datasets.listed import read_listing
from training.datasets.listing import FOUND, Columns
from training.datasets.parquet import list_parquet
from training.datasets.sources import load_dataset
from training.datasets.splits import Source
from training.errors import ConfigError, DatasetError

pytestmark = pytest.mark.training

IMAGES = make_pngs(20)
TARGETS = [row % 2 for row in range(20)]
NAMES = ["cat", "dog"]


def read_parquet(path: Path, reading: Reading = AS_THEY_ARE, columns: Columns = FOUND) -> Source:
    return read_listing(list_parquet("t", path, columns), reading)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "animals.parquet"


def test_names_come_from_the_metadata(path: Path) -> None:
    write_parquet(path, IMAGES, TARGETS, NAMES)
    dataset = load_dataset(f"parquet:{path}")
    assert dataset.labels == ("cat", "dog")
    assert dataset.image_shape == (6, 6, 3)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (14, 2, 4)
    for part in (dataset.train, dataset.validation, dataset.test):
        # Image i is 10 * i everywhere, and its label is i % 2.
        assert np.array_equal(part.images_NHWC[:, 0, 0, 0] // 10 % 2, part.targets_N)


def test_a_folder_holds_the_parts_and_their_shards(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000-of-00002.parquet", IMAGES[:12], TARGETS[:12], NAMES)
    write_parquet(tmp_path / "train-00001-of-00002.parquet", IMAGES[12:], TARGETS[12:], NAMES)
    source = read_parquet(tmp_path)
    assert (len(source.train), len(source.test)) == (16, 4), "a fifth of train is the test part"
    test = write_parquet(tmp_path / "test-00000-of-00001.parquet", IMAGES[:4], TARGETS[:4], NAMES)
    source = read_parquet(tmp_path)
    assert source.train.images_NHWC[:, 0, 0, 0].tolist() == [10 * row for row in range(20)]
    assert source.train.targets_N.tolist() == TARGETS
    assert (len(source.test), source.validation) == (4, None)
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", IMAGES[:2], TARGETS[:2], NAMES)
    held = read_parquet(tmp_path).validation
    assert held is not None and held.images_NHWC[:, 0, 0, 0].tolist() == [0, 10]
    write_parquet(test, IMAGES[:4], TARGETS[:4], ["dog", "cat"])
    assert read_parquet(tmp_path).test.targets_N.tolist() == [1, 0, 1, 0], "by name, not number"
    write_parquet(test, IMAGES[:4], TARGETS[:4], ["dog", "cow"])
    with pytest.raises(DatasetError, match=rf"^{test} row 1: expected a label .*cat, dog.*got 1"):
        read_parquet(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("data/Train-0.parquet", "data/valid-0.parquet"),
        ("train/0000.parquet", "Val/0000.PARQUET"),
        ("TRAIN.parquet", "test.parquet"),
    ],
)
def test_parts_are_told_by_files_and_folders_in_any_case(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for name, count in zip(names, (20, 4), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_parquet(tmp_path / name, IMAGES[:count], TARGETS[:count], NAMES)
    dataset = load_dataset(f"parquet:{tmp_path}")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (18, 2, 4)


def test_files_without_parts_are_one_table(tmp_path: Path) -> None:
    (tmp_path / "_temporary").mkdir()
    (tmp_path / "_SUCCESS").touch()
    for number in range(2):
        write_parquet(tmp_path / f"part-0000{number}.parquet", IMAGES, TARGETS, NAMES)
    source = read_parquet(tmp_path)
    assert (len(source.train), len(source.test)) == (32, 8)
    write_parquet(tmp_path / "train.parquet", IMAGES, TARGETS, NAMES)
    with pytest.raises(DatasetError, match=r"got part-00000\.parquet beside parts"):
        read_parquet(tmp_path)


def two_label_columns(path: Path, first: str, second: str) -> None:
    """CIFAR-100 as Hugging Face has it."""
    table = pa.table(
        {
            "img": [{"bytes": i, "path": None} for i in IMAGES],
            first: [0, 1, 2, 3] * 5,
            second: [1, 1, 0, 0] * 5,
        }
    )
    features: dict[str, Any] = {"img": {"_type": "Image"}}
    features |= {first: {"_type": "ClassLabel", "names": ["ant", "bee", "oak", "elm"]}}
    features |= {second: {"_type": "ClassLabel", "names": ["trees", "insects"]}}
    metadata = json.dumps({"info": {"features": features}})
    pa.parquet.write_table(table.replace_schema_metadata({"huggingface": metadata}), path)


def test_which_of_two_label_columns_is_a_question(path: Path) -> None:
    two_label_columns(path, "fine_label", "coarse_label")
    with pytest.raises(DatasetError, match=r"got fine_label, coarse_label; .* --label-column"):
        read_parquet(path)
    assert read_parquet(path, columns=Columns(label="coarse_label")).labels == ("trees", "insects")
    dataset = load_dataset(f"parquet:{path}", reading=Reading(columns=Columns("img", "fine_label")))
    assert dataset.labels == ("ant", "bee", "oak", "elm")
    two_label_columns(path, "label", "kingdom")
    assert read_parquet(path).labels == ("ant", "bee", "oak", "elm")


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["dog" if target else "cat" for target in TARGETS]).dictionary_encode(),
        pa.array(["cafe\u0301", "caf\u00e9", "tea", "tea"] * 5),
        pa.array([float(target) for target in TARGETS]),
    ],
)
def test_labels_as_pandas_and_systems_write_them(path: Path, labels: pa.Array) -> None:
    write_parquet(path, IMAGES, TARGETS, label=labels)
    source = read_parquet(path)
    assert len(source.labels) == 2
    assert len(source.train) + len(source.test) == 20


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_binary_and_texts_without_metadata(path: Path, kind: pa.DataType) -> None:
    texts = ["dog" if target else "cat" for target in TARGETS]
    write_parquet(path, IMAGES, texts, image=pa.array(IMAGES, kind))
    source = read_parquet(path, Reading((3, 3), grey=True))
    assert source.labels == ("cat", "dog")
    assert source.train.images_NHWC.shape == (16, 3, 3, 1)
    assert np.array_equal(source.test.images_NHWC[:, 0, 0, 0] // 10 % 2, source.test.targets_N)


def test_numbers_without_metadata_name_themselves(path: Path) -> None:
    write_parquet(path, IMAGES, TARGETS)
    assert read_parquet(path).labels == ("0", "1")


def test_metadata_says_which_columns(path: Path) -> None:
    """Many datasets call them otherwise: ``img`` and ``fine_label`` in CIFAR-100."""
    images = [{"bytes": image, "path": "a.png"} for image in IMAGES]
    table = pa.table({"img": images, "fine_label": TARGETS})
    metadata = (
        '{"info": {"features": {"img": {"_type": "Image"}, '
        '"fine_label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}}'
    )
    pa.parquet.write_table(table.replace_schema_metadata({"huggingface": metadata}), path)
    assert read_parquet(path).labels == ("cat", "dog")


def changed(values: list[Any], row: int, value: Any) -> list[Any]:
    return [*values[:row], value, *values[row + 1 :]]


@pytest.mark.parametrize(
    ("images", "targets", "names", "message"),
    [
        (changed(IMAGES, 9, b"text"), TARGETS, NAMES, "row 9: image: expected JPEG, PNG"),
        (changed(IMAGES, 9, b""), TARGETS, NAMES, "row 9: image: .* got an empty body"),
        (changed(IMAGES, 9, None), TARGETS, NAMES, "row 9: .*expected an image, got no bytes"),
        (changed(IMAGES, 9, IMAGES[0][:60]), TARGETS, NAMES, "row 9: image: .*truncated"),
        (
            changed(IMAGES, 9, encode_png(np.zeros((5, 6, 3), np.uint8))),
            TARGETS,
            NAMES,
            "row 9: expected 6 x 6 pixels like the first image, got 6 x 5",
        ),
        (IMAGES, changed(TARGETS, 8, 2), NAMES, r"row 8: expected a label 0 to 1 .*, got 2"),
        (IMAGES, changed(TARGETS, 8, -1), NAMES, r"row 8: expected a label 0 to 1 .*, got -1"),
        (IMAGES, changed(TARGETS, 8, None), NAMES, r"row 8: expected a label .*, got None"),
        (IMAGES, changed(TARGETS, 8, 10**9), None, "row 8: .* number of rows, 20, got 1000000000"),
        (IMAGES, changed(["cat", "dog"] * 10, 8, "cow"), NAMES, "row 8: .*got 'cow'"),
    ],
)
def test_wrong_rows_are_named(
    path: Path, images: list[Any], targets: list[Any], names: list[str] | None, message: str
) -> None:
    write_parquet(path, images, targets, names)
    with pytest.raises(DatasetError, match=message) as caught:
        read_parquet(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_table_without_rows_is_named(path: Path) -> None:
    write_parquet(path, [], [], image=pa.array([], pa.binary()), label=pa.array([], pa.int64()))
    with pytest.raises(DatasetError, match=f"^{path}: expected rows, got none"):
        read_parquet(path)


def test_rows_are_counted_in_their_own_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", IMAGES, TARGETS, NAMES)
    second = write_parquet(tmp_path / "train-1.parquet", changed(IMAGES, 3, b"text"), TARGETS)
    write_parquet(tmp_path / "test.parquet", IMAGES, TARGETS, NAMES)
    with pytest.raises(DatasetError, match=f"^{second} row 3: image"):
        read_parquet(tmp_path)
    write_parquet(second, IMAGES, changed(TARGETS, 4, 5), NAMES)
    with pytest.raises(DatasetError, match=f"^{second} row 4: expected a label"):
        read_parquet(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": None}, "expected a column 'image' of images, got label"),
        ({"label": None}, "expected a column 'label' of labels, got image"),
        ({"image": [1] * 20}, "expected binary images in 'image', .*, got int64"),
        ({"image": [{"path": "a"}] * 20}, "expected binary images in 'image', .*, got struct"),
        ({"label": [b"cat"] * 20}, "expected integers or texts in 'label', got binary"),
    ],
)
def test_wrong_columns_are_named(path: Path, columns: dict[str, Any], message: str) -> None:
    write_parquet(path, IMAGES, TARGETS, NAMES, **columns)
    with pytest.raises(DatasetError, match=f"^{path}: {message}"):
        read_parquet(path)


def test_damaged_files_are_named(path: Path) -> None:
    whole = write_parquet(path, IMAGES, TARGETS, NAMES).read_bytes()
    for content in (b"", b"text", whole[:-9], whole[:100] + bytes(400) + whole[500:]):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=f"^{path}") as caught:
            read_parquet(path)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(DatasetError, match=f"^{path}: expected a parquet file"):
        read_parquet(path)


def test_names_of_kinds_need_an_argument() -> None:
    for name in ("parquet", "parquet:", "folder", "tfds:mnist"):
        with pytest.raises(ConfigError, match=f"dataset: expected one of .*, got '{name}'"):
            load_dataset(name, reading=Reading())
