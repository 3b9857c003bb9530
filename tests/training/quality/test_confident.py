import numpy as np
import pytest

from training.quality.confident import estimate_joint, find_suspects

pytestmark = pytest.mark.training

# Worked by hand from the paper's definitions. Mean probability of the own label, the threshold of
# a class: 1.6 / 3, 1.5 / 2, 1.7 / 3. Rows 2 and 7 pass that of another class; row 4 passes none.
PROBABILITIES = np.array(
    [
        [0.8, 0.1, 0.1],
        [0.7, 0.2, 0.1],
        [0.1, 0.8, 0.1],
        [0.1, 0.9, 0.0],
        [0.2, 0.6, 0.2],
        [0.1, 0.1, 0.8],
        [0.1, 0.2, 0.7],
        [0.7, 0.1, 0.2],
    ]
)
TARGETS = np.array([0, 0, 0, 1, 1, 2, 2, 2])


def test_the_joint_is_that_of_the_definition() -> None:
    expected = np.array([[2, 1, 0], [0, 2, 0], [1, 0, 2]]) / 8
    np.testing.assert_allclose(estimate_joint(PROBABILITIES, TARGETS), expected)


def test_suspects_are_in_the_order_of_self_confidence() -> None:
    suspects = find_suspects(PROBABILITIES, TARGETS)
    assert suspects.rows.tolist() == [2, 7]
    assert suspects.suggestions.tolist() == [1, 0]
    np.testing.assert_allclose(suspects.scores, [0.9, 0.8])
    assert suspects.estimate == 2


def test_a_class_of_no_row_is_no_suspect_and_no_suggestion() -> None:
    widened = np.pad(PROBABILITIES, ((0, 0), (0, 1)))
    assert find_suspects(widened, TARGETS).rows.tolist() == [2, 7]
    assert estimate_joint(widened, TARGETS)[:, 3].tolist() == [0, 0, 0, 0]


def test_nothing_is_suspected_where_all_agree() -> None:
    suspects = find_suspects(np.eye(3)[TARGETS], TARGETS)
    assert not len(suspects.rows)
    assert suspects.estimate == 0


def test_uniform_flips_are_counted_as_often_as_they_are() -> None:
    """Of known probabilities and flips the joint must give the flips' own rate."""
    generator = np.random.default_rng(0)
    true = generator.integers(0, 4, 20_000)
    probabilities = np.full((len(true), 4), 0.02)
    probabilities[np.arange(len(true)), true] = 0.94
    flipped = generator.random(len(true)) < 0.1
    given = np.where(flipped, (true + generator.integers(1, 4, len(true))) % 4, true)
    joint = estimate_joint(probabilities, given)
    assert 1 - np.trace(joint) == pytest.approx(flipped.mean(), abs=1e-9)
    suspects = find_suspects(probabilities, given)
    assert sorted(suspects.rows) == np.flatnonzero(flipped).tolist()
    assert suspects.estimate == flipped.sum()
