import numpy as np
import pytest
import torch

from training.augment import Augment
from training.batches import Batches
from training.splits import Split

pytestmark = pytest.mark.training


@pytest.fixture
def split() -> Split:
    rows = np.arange(10)
    return Split(np.repeat(rows, 4).astype(np.uint8).reshape(10, 2, 2, 1), rows)


def targets(batches: Batches) -> list[list[int]]:
    return [target_n.tolist() for _, target_n in batches]


def test_in_order_every_row_once(split: Split) -> None:
    batches = Batches(split, 4)
    assert targets(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(batches) == 3


def test_shuffled_drops_the_small_rest(split: Split) -> None:
    batches = Batches(split, 4, seed=(0, 0))
    seen = targets(batches)
    assert [len(batch) for batch in seen] == [4, 4]
    assert len({row for batch in seen for row in batch}) == 8
    assert len(batches) == 2


def test_a_batch_larger_than_the_split_is_the_split(split: Split) -> None:
    assert [len(batch) for batch in targets(Batches(split, 64, seed=(0, 0)))] == [10]


def test_order_depends_on_seed_and_epoch_only(split: Split) -> None:
    def order(*seed: int) -> list[list[int]]:
        return targets(Batches(split, 5, seed=seed))

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 0)


def test_images_stay_with_their_targets_and_are_not_modified(split: Split) -> None:
    before = split.images_NHWC.copy()
    for images_NHWC, targets_N in Batches(split, 5, seed=(0, 0), augment=Augment(flip=True)):
        assert images_NHWC.dtype == torch.uint8
        assert torch.equal(images_NHWC[:, 0, 0, 0].long(), targets_N)
    assert np.array_equal(split.images_NHWC, before)
