import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.models.photographs import source
from training.quality.duplicates import equal_groups, near_pairs

pytestmark = pytest.mark.training

ORIGINALS = 300


@cache
def opened(number: int) -> Image.Image:
    return Image.open(source(number)).convert("RGB")


def crop(number: int) -> Image.Image:
    """One of many different crops of a photograph, 96 x 96."""
    generator = np.random.default_rng(number)
    photograph = opened(number % 3)
    left, top = (int(generator.integers(0, side - 96)) for side in photograph.size)
    return photograph.crop((left, top, left + 96, top + 96))


def as_small(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.HAMMING))


def saved(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "compressed": lambda image: saved(image, 60),
    "smaller": lambda image: image.resize((48, 48)),
    "larger": lambda image: image.resize((144, 144)),
    "lighter": lambda image: image.point(lambda value: min(255, value * 1.1 + 8)),
}


@pytest.fixture(scope="module")
def originals() -> NDArray[np.uint8]:
    return np.stack([as_small(crop(number)) for number in range(ORIGINALS)])


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found(change: str, originals: NDArray[np.uint8]) -> None:
    copied = range(0, ORIGINALS, 10)
    copies = np.stack([as_small(CHANGES[change](crop(number))) for number in copied])
    pairs, similarity = near_pairs(np.concatenate([originals, copies]))
    expected = {(number, ORIGINALS + at) for at, number in enumerate(copied)}
    assert len(expected & set(map(tuple, pairs.tolist()))) >= 0.9 * len(expected)
    assert (similarity >= 0.99).all()


def test_the_least_similarity_is_the_callers(originals: NDArray[np.uint8]) -> None:
    cut = np.stack([as_small(crop(number).crop((1, 1, 95, 95))) for number in range(0, 300, 10)])
    both = np.concatenate([originals, cut])
    expected = {(10 * at, ORIGINALS + at) for at in range(30)}
    strict, loose = (set(map(tuple, near_pairs(both, least)[0].tolist())) for least in (0.99, 0.9))
    assert strict < loose
    assert len(expected & loose) >= 0.9 * len(expected)


def test_different_pictures_are_not_copies(originals: NDArray[np.uint8]) -> None:
    pairs, _ = near_pairs(originals)
    assert pairs.tolist() == []


def test_pictures_of_one_colour_are_no_copies_of_each_other() -> None:
    flat = np.stack([np.full((32, 32, 1), value, np.uint8) for value in range(20)])
    assert len(near_pairs(flat)[0]) == 0


@pytest.mark.parametrize("count", [0, 1])
def test_few_pictures_have_no_pairs(count: int, originals: NDArray[np.uint8]) -> None:
    pairs, similarity = near_pairs(originals[:count])
    assert pairs.shape == (0, 2)
    assert similarity.shape == (0,)


def test_equal_groups() -> None:
    digests = [b"a", b"b", None, b"a", None, b"c", b"a", b"b"]
    assert equal_groups(digests) == [[0, 3, 6], [1, 7]]
