import numpy as np
import pytest
from numpy.typing import NDArray

from export.errors import ParityError
from export.proof import Answers, compare, run_batches

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 1.0]], np.float32)
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.2, 0.4, 0.4]], np.float32)


def moved(by: float, row: int = 0, column: int = 0) -> Answers:
    probabilities_NK = PROBABILITIES.copy()
    probabilities_NK[row, column] += by
    return LOGITS, probabilities_NK


def test_the_largest_difference_of_all_batch_sizes_counts() -> None:
    expected = LOGITS, PROBABILITIES
    pairs = {1: (expected, moved(1e-4)), 2: (expected, expected), 7: (expected, moved(2e-4))}
    parity = compare(pairs, names="a against b", tolerance=1e-3)
    assert (parity.images, parity.batch_sizes) == (2, (1, 2, 7))
    assert parity.max_logit_difference == 0
    assert parity.max_probability_difference == pytest.approx(2e-4, rel=1e-2)
    assert parity.label_agreement == 1
    with pytest.raises(ParityError, match="a against b on 2 images: expected probabilities within"):
        compare(pairs, names="a against b", tolerance=1e-5)


def test_another_first_label_is_refused_unless_both_are_as_probable() -> None:
    pairs = {1: ((LOGITS, PROBABILITIES), moved(1e-4, row=1, column=2))}
    with pytest.raises(ParityError, match=r"50.00% of the labels; not published: mend it"):
        compare(pairs, names="a against b", tolerance=1e-3, advice="mend it")
    assert compare(pairs, names="a against b", tolerance=1e-3, tie=1e-3).label_agreement == 1


def test_several_labels_are_the_same_above_the_same_thresholds() -> None:
    """The most probable one says nothing about the others."""
    got = moved(-0.3, row=1, column=1)  # 0.4 falls to 0.1; the first label moves too
    for thresholds, agreement in (((0.5, 0.5, 0.5), 1.0), ((0.5, 0.3, 0.5), 0.5)):
        parity = compare(
            {1: ((LOGITS, PROBABILITIES), got)},
            names="a against b",
            tolerance=0.5,
            tie=0.05,
            thresholds=thresholds,
        )
        assert parity.label_agreement == agreement
    near = compare(
        {1: ((LOGITS, PROBABILITIES), got)},
        names="a against b",
        tolerance=0.5,
        tie=0.1,
        thresholds=(0.5, 0.31, 0.5),
    )
    assert near.label_agreement == 1


def test_not_a_number_and_missing_rows_are_refused() -> None:
    expected = LOGITS, PROBABILITIES
    for one, other in ((expected, moved(np.nan)), (moved(np.nan), expected)):
        with pytest.raises(ParityError, match="got inf"):
            compare({1: (one, other)}, names="a against b", tolerance=1, tie=1)
    short = LOGITS[:1], PROBABILITIES[:1]
    with pytest.raises(ParityError, match="at batch size 7: expected 2 rows out, got 1"):
        compare({7: (expected, short)}, names="a against b", tolerance=1)


def test_every_row_is_run_once_and_in_order() -> None:
    sizes = []

    def run(images_NHWC: NDArray[np.uint8]) -> Answers:
        sizes.append(len(images_NHWC))
        values = images_NHWC.reshape(len(images_NHWC), -1).astype(np.float32)
        return values, values / np.float32(255)

    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    logits_NK, probabilities_NK = run_batches(run, images, 2)
    assert sizes == [2, 2, 1]
    assert logits_NK.tolist() == [[0], [1], [2], [3], [4]]
    assert probabilities_NK.dtype == np.float32
