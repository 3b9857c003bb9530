import numpy as np
import pytest

from training.datasets.sources import read_source
from training.quality.cross_validation import FOLDS, CrossValidation, assign_folds

pytestmark = pytest.mark.training


def test_folds_share_out_each_class_and_keep_groups_together() -> None:
    targets = np.arange(1000) % 4
    groups = np.arange(1000)
    groups[500:540] = groups[4]  # forty copies of one row
    folds = assign_folds(targets, groups, seed=0)
    assert len(set(folds[500:540]) | {folds[4]}) == 1
    for target in range(4):
        alone = folds[(targets == target) & (groups == np.arange(1000))]
        counts = np.bincount(alone, minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    assert (folds == assign_folds(targets, groups, seed=0)).all()
    assert (folds != assign_folds(targets, groups, seed=1)).any()


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    source = read_source("digits", None)
    images = np.concatenate([source.train.images_NHWC, source.test.images_NHWC])
    return images, np.concatenate([source.train.targets_N, source.test.targets_N])


@pytest.fixture(scope="module")
def judged(digits: tuple[np.ndarray, np.ndarray]) -> CrossValidation:
    images, targets = digits
    return CrossValidation(images, targets, np.arange(len(images)), 10)


def test_it_is_right_and_as_sure_as_it_is_right(
    digits: tuple[np.ndarray, np.ndarray], judged: CrossValidation
) -> None:
    probabilities = judged.probabilities_NK
    assert probabilities.shape == (1797, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    accuracy = (probabilities.argmax(axis=1) == digits[1]).mean()
    assert accuracy > 0.97
    assert probabilities.max(axis=1).mean() == pytest.approx(accuracy, abs=0.02)


def test_a_row_does_not_see_its_own_label(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """Labels drawn by lot must not be found again."""
    images, targets = digits
    drawn = np.random.default_rng(0).permutation(targets)
    judged = CrossValidation(images, drawn, np.arange(len(images)), 10)
    assert (judged.probabilities_NK.argmax(axis=1) == drawn).mean() < 0.2


def test_copies_do_not_confirm_each_other(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """Every image twice, under labels drawn by lot: only groups keep the copy's label out."""
    images, targets = (values[:600] for values in digits)
    drawn = np.random.default_rng(0).permutation(targets)
    rows = np.arange(600)
    twice = np.concatenate([images, images]), np.concatenate([drawn, drawn])
    judged = CrossValidation(*twice, np.concatenate([rows, rows]), 10)
    assert (judged.probabilities_NK.argmax(axis=1) == twice[1]).mean() < 0.2


def test_the_same_data_gives_the_same_answer(
    digits: tuple[np.ndarray, np.ndarray], judged: CrossValidation
) -> None:
    images, targets = digits
    again = CrossValidation(images, targets, np.arange(len(images)), 10)
    np.testing.assert_array_equal(again.probabilities_NK, judged.probabilities_NK)


def test_a_turned_picture_is_known_once_it_is_turned_back(
    digits: tuple[np.ndarray, np.ndarray],
) -> None:
    images, targets = digits
    images = images.copy()
    rows = np.arange(0, 1500, 50)
    turns = np.arange(len(rows)) % 2
    for row, turn in zip(rows, turns, strict=True):
        images[row] = np.rot90(images[row], (-1, -3)[turn])
    judged = CrossValidation(images, targets, np.arange(len(images)), 10)
    back = judged.answer_turned(rows)[np.arange(len(rows)), turns]
    assert (back.argmax(axis=1) == targets[rows]).mean() >= 0.9


@pytest.mark.parametrize("shape", [(3, 3, 1), (5, 5, 3), (32, 32, 3)])
def test_pictures_of_any_size(shape: tuple[int, ...]) -> None:
    targets = np.arange(100) % 2
    noise = np.random.default_rng(0).integers(0, 100, (100, *shape), dtype=np.uint8)
    noise[:, : shape[0] // 2] += (100 * targets[:, None, None, None]).astype(np.uint8)
    judged = CrossValidation(noise, targets, np.arange(100), 2)
    assert (judged.probabilities_NK.argmax(axis=1) == targets).mean() > 0.9


def test_flat_pictures_are_no_error() -> None:
    flat = np.zeros((60, 8, 8, 1), np.uint8)
    judged = CrossValidation(flat, np.arange(60) % 2, np.arange(60), 2)
    assert np.isfinite(judged.probabilities_NK).all()
