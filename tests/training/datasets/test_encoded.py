from pathlib import Path

import numpy as np
import pytest

from models.artifact import ImageSpec
from models.image import decode
from tests.training.files import make_pngs
from training.datasets.encoded import Reading
from training.datasets.sources import Dataset, load_dataset
from training.errors import DatasetError
from training.pipeline import train
from training.recipes import default_run, resolve
from training.runs import read_run

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
    with pytest.raises(
        DatasetError, match=r"expected the classes of train, bright, dark, got .*dim"
    ):
        load_dataset(f"folder:{parts}")


def test_pixels_are_those_of_the_service(folder: Path) -> None:
    dataset = load_dataset(f"folder:{folder}", reading=Reading(image_size=4, grey=True))
    assert dataset.image_shape == (4, 4, 1)
    spec = ImageSpec("L", 4, 4)
    decoded = {decode(path.read_bytes(), spec).tobytes() for path in folder.glob("*/*.png")}
    for part in (dataset.train, dataset.validation, dataset.test):
        assert {image.tobytes() for image in part.images_NHWC} <= decoded


def test_images_of_another_size_are_named(folder: Path) -> None:
    path = folder / "dark" / "3.png"
    path.write_bytes(make_pngs(1, side=7)[0])
    with pytest.raises(DatasetError, match=rf"^{path}: expected 6 x 6 pixels.*got 7 x 7.*--image-"):
        load_dataset(f"folder:{folder}")
    resized = load_dataset(f"folder:{folder}", reading=Reading(image_size=6))
    assert resized.image_shape == (6, 6, 3)


@pytest.mark.parametrize("content", [b"", b"text", make_pngs(1)[0][:60]])
def test_files_that_are_no_images_are_named(folder: Path, content: bytes) -> None:
    path = folder / "dark" / "3.png"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=f"^{path}: image: expected .*, got") as caught:
        load_dataset(f"folder:{folder}")
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_classes_are_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DatasetError, match=f"^{folder / 'empty'}: expected images of this class"):
        load_dataset(f"folder:{folder}")
    (folder / "empty" / "deeper").mkdir()
    with pytest.raises(DatasetError, match=f"^{folder / 'empty' / 'deeper'}: expected a readable"):
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
    options = {"image_size": 5, "grey": True, "epochs": 1, "positive": "bright"}
    train(resolve(f"folder:{folder}", "neuron", run, **options))
    record, outcome = read_run(run)
    assert record.config.image_size == 5
    assert len(outcome.test.per_class) == 2


def test_one_class_against_all_others() -> None:
    everyone: Dataset = load_dataset("digits")
    dataset = load_dataset("digits", positive="7")
    assert dataset.labels == ("not 7", "7")
    assert np.array_equal(dataset.test.targets_N == 1, everyone.test.targets_N == 7)
    assert dataset.sha256 != everyone.sha256
