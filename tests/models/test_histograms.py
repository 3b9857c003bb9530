import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from models.histograms import MAX_PIXELS, entropy, pixel_statistics

SMALL = st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3])).flatmap(
    lambda shape: npst.arrays(np.uint8, shape)
)


@given(SMALL)
def test_statistics_of_a_small_image_are_those_of_all_its_pixels(image: NDArray[np.uint8]) -> None:
    mean, spread = pixel_statistics(image)
    assert mean == pytest.approx(image.mean(), abs=1e-3)
    assert spread == pytest.approx(image.std(), abs=1e-3)


@pytest.mark.parametrize("shape", [(224, 224, 3), (64, 192, 3), (512, 512, 1), (640, 480, 3)])
def test_a_sample_of_a_large_image_sees_every_channel_and_region(
    shape: tuple[int, int, int],
) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image[..., 0] //= 4
    image[: shape[0] // 2] //= 2
    mean, spread = pixel_statistics(image)
    assert mean == pytest.approx(image.mean(), rel=0.05)
    assert spread == pytest.approx(image.std(), rel=0.05)
    assert image.size > MAX_PIXELS


def test_entropy_is_that_of_a_coin_and_of_a_certainty() -> None:
    rows = np.array([[0.5, 0.5, 0, 0], [1, 0, 0, 0], [0.25] * 4], np.float32)
    assert entropy(rows).tolist() == pytest.approx([math.log(2), 0, math.log(4)])
