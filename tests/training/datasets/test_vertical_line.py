import numpy as np
import pytest

from training.datasets.sources import load_dataset
from training.datasets.splits import Source
from training.datasets.vertical_line import has_one_line, make_vertical_line
from training.errors import DatasetError

pytestmark = pytest.mark.training


def everything(source: Source) -> tuple[np.ndarray, np.ndarray]:
    images = np.concatenate([source.train.images_NHWC, source.test.images_NHWC])
    return images[..., 0], np.concatenate([source.train.targets_N, source.test.targets_N])


def test_all_512_patterns_are_there_once() -> None:
    images, targets = everything(make_vertical_line())
    assert images.shape == (512, 3, 3)
    assert set(np.unique(images)) == {0, 255}
    assert len(np.unique(images.reshape(512, 9), axis=0)) == 512
    # One of three columns is full, and the two others are any but full: 3 * 7 * 7.
    assert targets.sum() == 147


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["#..", "#..", "#.."], True),
        (["##.", "##.", "#.."], True),
        (["##.", "##.", "##."], False),
        (["###", "...", "..."], False),
        (["#..", "#..", ".#."], False),
        (["###", "###", "###"], False),
        (["...", "...", "..."], False),
        ([".##", "..#", "#.#"], True),
    ],
)
def test_exactly_one_full_column(rows: list[str], expected: bool) -> None:
    image = np.array([[255 * (pixel == "#") for pixel in row] for row in rows], np.uint8)
    assert has_one_line(image[None]).tolist() == [expected]
    images, targets = everything(make_vertical_line())
    found = (images == image).all(axis=(1, 2))
    assert targets[found].tolist() == [expected]


def test_the_larger_one_is_a_balanced_seeded_sample_without_repetition() -> None:
    source = make_vertical_line(5)
    images, targets = everything(source)
    assert images.shape == (8000, 5, 5)
    assert np.bincount(targets).tolist() == [4000, 4000]
    assert np.bincount(source.test.targets_N).tolist() == [800, 800]
    assert len(np.unique(images.reshape(8000, 25), axis=0)) == 8000
    assert np.array_equal((images == 255).all(axis=1).sum(axis=1) == 1, targets == 1)
    assert np.array_equal(everything(make_vertical_line(5))[0], images)
    # Uniform among its class: every pixel of "no line" is white half of the time, or nearly.
    assert np.abs((images[targets == 0] == 255).mean(axis=0) - 0.5).max() < 0.04


def test_both_have_names() -> None:
    assert load_dataset("vertical-line").image_shape == (3, 3, 1)
    assert load_dataset("vertical-line:5").labels == ("no line", "one line")
    for name in ("vertical-line:4", "vertical-line:five"):
        with pytest.raises(DatasetError, match="expected a side of 3 or 5, got"):
            load_dataset(name)
