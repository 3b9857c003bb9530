import pytest

from scoring.rows import ScoreError, Truth, label_of
from scoring.truths import Remarks, Truths

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


# "2" is the name of the second class and the index of the third.
NUMBERED = Truths(("10", "2", "cat", "Grün", "RAW", "raw"))


@pytest.mark.parametrize(
    ("truth", "index", "remarks"),
    [
        ("cat", 2, {}),
        (" cat ", 2, {}),
        ("2", 1, {"number": [1, ["2"]]}),
        (2, 1, {"number": [1, ["2"]]}),
        ("2.0", 1, {"number": [1, ["2"]]}),
        (10, 0, {}),
        (3, 3, {}),
        ("3", 3, {}),
        ("3.0", 3, {}),
        ("3.", 3, {}),
        ("3.5", -1, {"unknown": [1, ["'3.5'"]]}),
        (-1, -1, {"unknown": [1, ["'-1'"]]}),
        (7, -1, {"unknown": [1, ["'7'"]]}),
        ("CAT", 2, {"case": [1, ["'CAT' as 'cat'"]]}),
        ("Gru\u0308n", 3, {"case": [1, ["'Gru\u0308n' as 'Grün'"]]}),
        ("GRU\u0308N", 3, {"case": [1, ["'GRU\u0308N' as 'Grün'"]]}),
        ("raw", 5, {}),
        ("Raw", -1, {"unknown": [1, ["'Raw'"]]}),
        ("wolf", -1, {"unknown": [1, ["'wolf'"]]}),
        (("cat",), 2, {}),
        (("cat", "wolf"), -1, {"unknown": [1, ["cat and wolf"]]}),
        ("", -1, {}),
        ("  ", -1, {}),
        ((), -1, {}),
        (None, -1, {}),
    ],
)
def test_a_label_is_found_by_its_name_and_what_is_odd_is_noted(
    truth: Truth, index: int, remarks: dict[str, object]
) -> None:
    noted = Remarks()
    assert NUMBERED.one(truth, is_declared=True, remarks=noted) == index
    assert noted.to_json() == remarks


def test_a_folder_of_another_name_is_no_unknown_label() -> None:
    noted = Remarks()
    for folder in ("Cat", "holidays", "3", "2"):
        NUMBERED.one(folder, is_declared=False, remarks=noted)
    assert noted.to_json() == {
        "case": [1, ["'Cat' as 'cat'"]],
        "folder": [2, ["'holidays'", "'3'"]],
        "number": [1, ["2"]],
    }
    assert len(noted.lines(is_compared=True)) == 3
    assert not any("folder" in line for line in noted.lines(is_compared=False))


def test_remarks_are_added_and_read_back() -> None:
    first, second = Remarks(), Remarks()
    for i in range(4):
        first.note("unknown", f"a{i}")
        second.note("unknown", f"b{i}")
    second.note("case", "x" * 100)
    first.add(Remarks.from_json(second.to_json()))
    assert first.counts == {"unknown": 8, "case": 1}
    assert first.lines(is_compared=True) == [
        "labels: 8 of no class of the model, not compared: a0, a1, a2, a3, b0, …",
        f"labels: 1 in other letters, read {'x' * 40}",
    ]


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        (3.0, 3),
        (3.5, "3.5"),
        (float("nan"), None),
        (float("inf"), "inf"),
        (True, "True"),
        (b"cat", "cat"),
        (7, 7),
        ("7", "7"),
        (None, None),
    ],
)
def test_a_cell_is_a_label(cell: object, label: object) -> None:
    assert label_of(cell) == label
