import numpy as np
import pytest
import torch

from training.augment import Augment

pytestmark = pytest.mark.training


@pytest.fixture
def images_NHWC() -> torch.Tensor:
    return torch.randint(1, 256, (64, 9, 7, 3), dtype=torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_asked_nothing_done(images_NHWC: torch.Tensor) -> None:
    assert torch.equal(Augment()(images_NHWC, generator()), images_NHWC)


@pytest.mark.parametrize(
    "augment",
    [Augment(shift=2), Augment(shift=2, border="reflect"), Augment(flip=True), Augment(cutout=4)],
)
def test_seeded_same_form_and_original_kept(images_NHWC: torch.Tensor, augment: Augment) -> None:
    before = images_NHWC.clone()
    first, again = augment(images_NHWC, generator()), augment(images_NHWC, generator())
    assert first.dtype == torch.uint8
    assert first.shape == images_NHWC.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(images_NHWC, generator(1)))
    assert torch.equal(images_NHWC, before)


def test_shift_moves_each_image_by_its_own_offset_and_fills_with_black(
    images_NHWC: torch.Tensor,
) -> None:
    shifted = Augment(shift=2)(images_NHWC, generator())
    offsets = set()
    for image, moved in zip(images_NHWC, shifted, strict=True):
        padded = torch.nn.functional.pad(image, (0, 0, 2, 2, 2, 2))
        found = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if torch.equal(padded[y : y + 9, x : x + 7], moved)
        ]
        assert len(found) == 1
        offsets.add(found[0])
    assert {y for y, _ in offsets} == {x for _, x in offsets} == set(range(5))


def test_shift_fills_with_the_mirrored_image(images_NHWC: torch.Tensor) -> None:
    shifted = Augment(shift=2, border="reflect")(images_NHWC, generator())
    padded_NHWC = np.pad(images_NHWC.numpy(), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    offsets = set()
    for padded, moved in zip(padded_NHWC, shifted.numpy(), strict=True):
        places = [(y, x) for y in range(5) for x in range(5)]
        found = [(y, x) for y, x in places if (padded[y : y + 9, x : x + 7] == moved).all()]
        assert len(found) == 1
        offsets.add(found[0])
    assert {y for y, _ in offsets} == {x for _, x in offsets} == set(range(5))


def test_borders_differ_in_nothing_but_the_border(images_NHWC: torch.Tensor) -> None:
    """Both draw the same offsets, so that the two can be compared in otherwise equal runs."""
    black = Augment(shift=2)(images_NHWC, generator())
    mirrored = Augment(shift=2, border="reflect")(images_NHWC, generator())
    seen = black != 0  # the images of the fixture have no black
    assert torch.equal(black[seen], mirrored[seen])
    assert not seen.all()
    assert (mirrored != 0).all()


def test_flip_mirrors_about_half(images_NHWC: torch.Tensor) -> None:
    flipped = Augment(flip=True)(images_NHWC, generator())
    mirrored = (flipped == images_NHWC.flip(2)).flatten(1).all(dim=1)
    kept = (flipped == images_NHWC).flatten(1).all(dim=1)
    assert (mirrored | kept).all()
    assert 16 < mirrored.sum() < 48


def test_cutout_paints_one_square_at_most(images_NHWC: torch.Tensor) -> None:
    painted = Augment(cutout=4)(images_NHWC, generator())
    changed_NHW = (painted != images_NHWC).any(dim=3)
    touched = 0
    for changed_HW in changed_NHW:
        rows, columns = changed_HW.nonzero(as_tuple=True)
        if len(rows):
            touched += 1
            assert rows.max() - rows.min() < 4
            assert columns.max() - columns.min() < 4
    assert 16 < touched < 48
