"""Evidence that contradicts the labels of its version."""

import pytest

from models.evidence import Metrics


@pytest.mark.parametrize("confusion", [(), ((1,),), ((1, 2), (3,)), ((1, 2), (3, 4), (5, 6))])
def test_confusions_of_another_number_of_labels(confusion: tuple[tuple[int, ...], ...]) -> None:
    metrics = Metrics("test", 9, 0.5, (0.5, None), 0.1, None, confusion)
    assert metrics.why_wrong(2).startswith("$.metrics.confusion: expected 2 lists of 2 values")


def test_confusions_may_be_missing_or_right() -> None:
    for confusion in (None, ((1, 2), (3, 4))):
        assert not Metrics("test", 9, 0.5, (0.5, None), 0.1, None, confusion).why_wrong(2)
