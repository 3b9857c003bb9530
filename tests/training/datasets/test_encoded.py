import json
from pathlib import Path

import numpy as np
import pytest

from models.artifact import ImageSpec
from models.image import decode, encode_png
from tests.training.files import make_pngs
from training.datasets.encoded import Reading, Rule, image_spec
from training.datasets.sources import Dataset, load_dataset
from training.errors import DatasetError
from training.pipeline import train
from training.recipes import default_run, resolve
from training.runs import EVALUATION_JSON, read_run

pytestmark = pytest.mark.training


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten images: dark ones and bright ones, and what a file manager leaves."""
    for label, images in (("bright", make_pngs(20)[10:]), ("dark", make_pngs(20)[:10])):
        (tmp_path / label).mkdir()
        (tmp_path / label / ".DS_Store").write_bytes(b"no image")
        for index, image in enumerate(images):
            (tmp_path / label / f"{index}.png").write_bytes(image)
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_folders_within_classes_and_what_systems_leave(folder: Path) -> None:
    expected = load_dataset(f"folder:{folder}")
    (folder / "dark" / "2024").mkdir()
    for path in (folder / "dark").glob("[5-9].png"):
        path.rename(path.parent / "2024" / path.name)
    (folder / "bright" / "Thumbs.db").write_bytes(b"no image")
    (folder / "bright" / "README.md").write_bytes(b"no image")
    (folder / "__MACOSX" / "bright").mkdir(parents=True)
    (folder / "__MACOSX" / "bright" / "._0.png").write_bytes(b"no image")
    dataset = load_dataset(f"folder:{folder}")
    assert dataset.labels == expected.labels
    assert dataset.sha256 == expected.sha256


def test_unreadable_images_are_all_named_or_skipped(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [folder / "dark" / "3.png", folder / "dark" / "9.png", folder / "bright" / "0.png"]
    for path in bad:
        path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"got 3 of 20 that are not .* --skip-unreadable"):
        load_dataset(f"folder:{folder}")
    assert all(str(path) in caplog.text for path in bad)
    dataset = load_dataset(f"folder:{folder}", reading=Reading(skip_unreadable=True))
    assert "left out 3 unreadable images of 20" in caplog.text
    splits = (dataset.train, dataset.validation, dataset.test)
    assert sum(map(len, splits)) == 17
    pixels = sorted(int(p) for split in splits for p in split.images_NHWC[:, 0, 0, 0])
    assert pixels == [10 * value for value in range(20) if value not in (3, 9, 10)]
    for split in splits:
        assert np.array_equal(split.images_NHWC[:, 0, 0, 0] < 100, split.targets_N == 1)


def test_images_too_many_for_memory_are_in_a_file(folder: Path, tmp_path: Path) -> None:
    """The same images; the file has no name, and what is fitted on it comes out the same."""
    expected = load_dataset(f"folder:{folder}")
    cache = tmp_path / "run"
    dataset = load_dataset(f"folder:{folder}", reading=Reading(folder=cache, memory_bytes=100))
    assert isinstance(dataset.train.images_NHWC, np.memmap)
    assert list(cache.iterdir()) == []
    assert dataset.sha256 == expected.sha256
    for name in ("train", "validation", "test"):
        assert np.array_equal(
            getattr(dataset, name).images_NHWC, getattr(expected, name).images_NHWC
        )


def test_a_full_disk_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reading = Reading(folder=tmp_path / "file" / "run", memory_bytes=100)
    with pytest.raises(
        DatasetError, match=r"expected 0\.0 GiB for 20 decoded images, got Not a dir"
    ):
        load_dataset(f"folder:{folder}", reading=reading)


@pytest.mark.parametrize(
    ("resize", "first", "last"), [("stretch", 10, 90), ("crop", 30, 70), ("pad", 0, 0)]
)
def test_ways_to_a_size(tmp_path: Path, resize: Rule, first: int, last: int) -> None:
    """Ten columns of 10 to 100 and five rows, to a square: all of it, its middle, or borders."""
    row = np.arange(10, 110, 10, dtype=np.uint8)
    picture = np.broadcast_to(row[None, :, None], (5, 10, 3))
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(3):
            (tmp_path / label / f"{number}.png").write_bytes(encode_png(picture))
    reading = Reading((5, 5), resize=resize)
    dataset = load_dataset(f"folder:{tmp_path}", reading=reading)
    image = dataset.train.images_NHWC[0, :, :, 0]
    assert image.shape == (5, 5)
    if resize == "pad":
        assert image[0].max() == image[-1].max() == 0
        assert image[2].min() > 0
    else:
        assert np.abs(image[2, [0, -1]].astype(int) - [first, last]).max() <= 10
    expected = decode(encode_png(picture), image_spec("RGB", 5, 5, resize))
    assert np.array_equal(dataset.train.images_NHWC[0], expected)


def test_height_comes_first(folder: Path) -> None:
    dataset = load_dataset(f"folder:{folder}", reading=Reading((4, 8)))
    assert dataset.image_shape == (4, 8, 3)


def test_sub_folders_are_the_classes(folder: Path) -> None:
    dataset = load_dataset(f"folder:{folder}")
    assert dataset.labels == ("bright", "dark")
    assert dataset.image_shape == (6, 6, 3)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (14, 2, 4)
    for part in (dataset.train, dataset.validation, dataset.test):
        assert np.array_equal(part.images_NHWC[:, 0, 0, 0] < 100, part.targets_N == 1)
    again = load_dataset(f"folder:{folder}", split_seed=1)
    assert np.array_equal(again.test.images_NHWC, dataset.test.images_NHWC)


def test_a_train_and_a_test_folder_are_the_parts(folder: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    for part in ("train", "test"):
        for label in ("bright", "dark"):
            (parts / part / label).mkdir(parents=True)
            for path in sorted((folder / label).glob("*.png"))[: 10 if part == "train" else 3]:
                (parts / part / label / path.name).write_bytes(path.read_bytes())
    dataset = load_dataset(f"folder:{parts}")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (18, 2, 6)
    (parts / "test" / "dim").mkdir()
    (parts / "test" / "dim" / "1.png").write_bytes(make_pngs(1)[0])
    with pytest.raises(DatasetError, match="images for training of each class, got none of dim"):
        load_dataset(f"folder:{parts}")


def write_parts(root: Path, **counts: int) -> Path:
    """Parts with as many images of each of two classes; the first image's pixel is its number."""
    for number, (part, count) in enumerate(counts.items()):
        for label in ("cat", "dog"):
            (root / part / label).mkdir(parents=True)
            for row in range(count):
                image = encode_png(np.full((6, 6, 3), 60 * number + row, np.uint8))
                (root / part / label / f"{row:03}.png").write_bytes(image)
    return root


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        ({"train": 10, "val": 4}, (18, 2, 8)),
        ({"Train": 10, "TEST": 3, "valid": 2}, (20, 4, 6)),
        ({"training": 10, "validation": 4}, (18, 2, 8)),
        ({"train": 10}, (14, 2, 4)),
    ],
)
def test_parts_in_any_case(
    tmp_path: Path, parts: dict[str, int], sizes: tuple[int, int, int]
) -> None:
    dataset = load_dataset(f"folder:{write_parts(tmp_path, **parts)}")
    assert dataset.labels == ("cat", "dog")
    splits = (dataset.train, dataset.validation, dataset.test)
    assert tuple(map(len, splits)) == sizes
    if len(parts) > 1:  # no image of the test part is trained on
        pixels = [set(split.images_NHWC[:, 0, 0, 0].tolist()) for split in splits]
        assert not pixels[2] & (pixels[0] | pixels[1])


def test_folders_beside_parts_are_no_classes(tmp_path: Path) -> None:
    write_parts(tmp_path, train=4, test=4, meta=1)
    with pytest.raises(DatasetError, match="got meta, test, train; move meta elsewhere"):
        load_dataset(f"folder:{tmp_path}")


def test_pixels_are_those_of_the_service(folder: Path) -> None:
    dataset = load_dataset(f"folder:{folder}", reading=Reading((4, 4), grey=True))
    assert dataset.image_shape == (4, 4, 1)
    spec = ImageSpec("L", 4, 4)
    decoded = {decode(path.read_bytes(), spec).tobytes() for path in folder.glob("*/*.png")}
    for part in (dataset.train, dataset.validation, dataset.test):
        assert {image.tobytes() for image in part.images_NHWC} <= decoded


def test_images_of_another_size_are_named(folder: Path) -> None:
    path = folder / "dark" / "3.png"
    path.write_bytes(make_pngs(1, side=7)[0])
    with pytest.raises(DatasetError, match=rf"^{path}: expected 6 x 6 pixels.*got 7 x 7.*--size"):
        load_dataset(f"folder:{folder}")
    resized = load_dataset(f"folder:{folder}", reading=Reading((6, 6)))
    assert resized.image_shape == (6, 6, 3)


@pytest.mark.parametrize("content", [b"", b"text", make_pngs(1)[0][:60]])
def test_files_that_are_no_images_are_named(folder: Path, content: bytes) -> None:
    path = folder / "dark" / "3.png"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=f"^{path}: image: expected .*, got") as caught:
        load_dataset(f"folder:{folder}")
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_classes_are_named(folder: Path) -> None:
    (folder / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(DatasetError, match=f"^{folder}: .* each class, got none of empty"):
        load_dataset(f"folder:{folder}")
    with pytest.raises(
        DatasetError, match="expected two or more sub-folders, one per class, got 0"
    ):
        load_dataset(f"folder:{folder / 'dark'}")
    with pytest.raises(DatasetError, match="No such file"):
        load_dataset(f"folder:{folder / 'nowhere'}")
    with pytest.raises(DatasetError, match="expected no data folder, got /x"):
        load_dataset(f"folder:{folder}", Path("/x"))


def test_a_folder_of_any_name_can_be_trained_on(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / default_run(f"folder:{folder}", "neuron")
    assert run.parent == tmp_path / "runs"
    options = {"size": "5", "grey": True, "epochs": 1, "positive": "bright"}
    train(resolve(f"folder:{folder}", "neuron", run, **options))
    record, outcome = read_run(run)
    assert record.config.size == "5"
    assert len(outcome.test.per_class) == 2
    written = json.loads((run / EVALUATION_JSON).read_text())
    assert list(written["test"]["per_class"]) == ["not bright", "bright"]


def test_one_class_against_all_others() -> None:
    everyone: Dataset = load_dataset("digits")
    dataset = load_dataset("digits", positive="7")
    assert dataset.labels == ("not 7", "7")
    assert np.array_equal(dataset.test.targets_N == 1, everyone.test.targets_N == 7)
    assert dataset.sha256 != everyone.sha256
