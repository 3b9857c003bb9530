from pathlib import Path

import pytest

from tests.training.quality.proof import measure
from training.datasets.mnist import DEBIAN_FASHION_MNIST

pytestmark = [
    pytest.mark.training,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="no dataset-fashion-mnist"),
]


def test_planted_labels_of_fashion_mnist_are_found(tmp_path: Path) -> None:
    measured = measure(tmp_path)
    assert measured["images"] == 70_000
    assert measured["found"][2] >= 0.8
