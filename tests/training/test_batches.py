import numpy as np
import pytest
import torch

from training.augment import Augment
from training.batches import Batches, InMemoryData, evaluation_rows, place
from training.datasets.splits import Split, balancing_weights
from training.devices import fits

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


def test_a_split_is_placed_once_and_shared_by_all_epochs(split: Split) -> None:
    data = InMemoryData(split, split, batch_size=4, seed=0, augment=Augment())
    for loader in (data.train_dataloader, data.val_dataloader):
        first, second = loader(), loader()
        assert first._images_NHWC.data_ptr() == second._images_NHWC.data_ptr()
    assert data.train_dataloader()._images_NHWC.data_ptr() == split.images_NHWC.ctypes.data


def test_batches_of_placed_tensors_are_those_of_the_split(split: Split) -> None:
    augment = Augment(shift=1, flip=True, cutout=1)
    copies = (torch.from_numpy(split.images_NHWC.copy()), torch.from_numpy(split.targets_N.copy()))
    for one, other in zip(
        Batches(split, 4, (0, 1), augment),
        Batches(split, 4, (0, 1), augment, tensors=copies),
        strict=True,
    ):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_rows_are_drawn_by_the_weights_of_their_classes() -> None:
    targets_N = np.array([0] * 90 + [1] * 10)
    unbalanced = Split(np.zeros((100, 1, 1, 1), np.uint8), targets_N)
    weights_K = torch.from_numpy(balancing_weights(targets_N, 2).astype(np.float32))

    def drawn(epoch: int) -> list[int]:
        batches = Batches(unbalanced, 10, seed=(0, epoch), weights_K=weights_K)
        return [target for batch in targets(batches) for target in batch]

    assert len(drawn(0)) == 100
    assert 30 < sum(drawn(0)) < 70
    assert drawn(0) == drawn(0) != drawn(1)


def test_photographs_are_evaluated_a_few_at_a_time(split: Split) -> None:
    assert evaluation_rows(split) == 512
    assert evaluation_rows(Split(np.zeros((1, 224, 224, 3), np.uint8), np.zeros(1, np.int64))) == 41
    assert evaluation_rows(Split(np.zeros((1, 4096, 1, 3), np.uint8), np.zeros(1, np.int64))) == 512


def test_only_what_fits_is_placed_on_a_device() -> None:
    assert fits(1 << 50, torch.device("cpu"))  # it is there already
    assert not fits(1, torch.device("meta"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")
def test_an_epoch_on_a_gpu_has_the_order_of_the_cpu(split: Split) -> None:
    placed = place(split, torch.device("cuda"))
    augment = Augment(shift=1, flip=True, cutout=1)
    there = list(Batches(split, 4, (0, 1), augment, tensors=placed))
    here = list(Batches(split, 4, (0, 1), augment))
    assert [t.tolist() for _, t in there] == [t.tolist() for _, t in here]
    assert all(images.is_cuda and images.dtype == torch.uint8 for images, _ in there)
    again = list(Batches(split, 4, (0, 1), augment, tensors=placed))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(there, again, strict=True))
