import pytest

from scoring.rows import ScoreError, Truth
from scoring.truths import Truths

CRANES = Truths(("crane", "dog", "crane", "a|b"))


@pytest.mark.parametrize(
    ("truth", "folder", "column"),
    [
        ("dog", 1, 1),
        ("crane (2)", 2, 2),
        ("2", -1, 2),
        (2, 2, 2),
        (4, -1, -1),
        ("4", -1, -1),
        ("cat", -1, -1),
        (("dog",), 1, 1),
        (("dog", "dog"), -1, -1),
        ((), -1, -1),
        (None, -1, -1),
    ],
)
def test_one_label(truth: Truth, folder: int, column: int) -> None:
    """Only a column means an index by its digits."""
    assert CRANES.one(truth, is_declared=False) == folder
    assert CRANES.one(truth, is_declared=True) == column


def test_a_name_that_several_labels_have_is_refused_in_a_column() -> None:
    """A folder may be named so for other reasons; its images have no known label."""
    assert CRANES.one("crane", is_declared=False) == -1
    expected = (
        "label: expected a name that one label has, got 'crane', which labels 0, 2 have; "
        r"write the index, or 'crane \(0\)'$"
    )
    with pytest.raises(ScoreError, match=expected):
        CRANES.one("crane", is_declared=True)
    with pytest.raises(ScoreError, match=expected):
        CRANES.several("dog|crane", is_declared=True)


@pytest.mark.parametrize(
    ("truth", "indexes"),
    [
        ("dog", {1}),
        ("dog|crane (0)", {0, 1}),
        (" dog | 2 ", {1, 2}),
        ("a|b", {3}),
        ("", set()),
        ((), set()),
        (("dog", 2, "0"), {0, 1, 2}),
        (1, {1}),
        ("dog|cat", None),
        (("dog", None), None),
        (None, None),
    ],
)
def test_several_labels(truth: Truth, indexes: set[int] | None) -> None:
    assert CRANES.several(truth, is_declared=True) == indexes
    assert CRANES.several(truth, is_declared=False) is None


def test_zeros_and_ones_are_not_read_as_indexes() -> None:
    with pytest.raises(ScoreError, match=r"expected each label of an image once, got \[0, 1, 0, 0"):
        CRANES.several((0, 1, 0, 0), is_declared=True)
