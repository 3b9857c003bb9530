"""Evidence that contradicts the labels of its version."""

import numpy as np
import pytest

from models.evidence import Metrics
from models.repository import ModelRepository
from tests.server import ROOT


@pytest.mark.parametrize("confusion", [(), ((1,),), ((1, 2), (3,)), ((1, 2), (3, 4), (5, 6))])
def test_confusions_of_another_number_of_labels(confusion: tuple[tuple[int, ...], ...]) -> None:
    metrics = Metrics("test", 9, 0.5, (0.5, None), 0.1, None, confusion)
    assert metrics.why_wrong(2).startswith("$.metrics.confusion: expected 2 lists of 2 values")


def test_confusions_may_be_missing_or_right() -> None:
    for confusion in (None, ((1, 2), (3, 4))):
        assert not Metrics("test", 9, 0.5, (0.5, None), 0.1, None, confusion).why_wrong(2)


@pytest.mark.parametrize("name", ["cifar10-cnn", "digits-cnn", "fashion-cnn", "fashion-fcnn"])
def test_confusions_of_a_shipped_model_are_those_of_its_accuracy(name: str) -> None:
    """They were counted later than the rest of its card, over the same images."""
    repository = ModelRepository(ROOT / "models")
    metrics = repository.load(*repository.resolve(name)).metrics
    assert metrics is not None and metrics.confusion is not None
    counts_KK = np.array(metrics.confusion)
    right_K, images_K = np.diag(counts_KK), counts_KK.sum(axis=1)
    assert images_K.sum() == metrics.images
    assert right_K.sum() / images_K.sum() == metrics.accuracy
    assert tuple(right_K / images_K) == metrics.per_class
