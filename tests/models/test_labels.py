import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.histograms import entropy, entropy_of_labels
from models.labels import are_given, distinct_names, equal_labels


def test_only_equal_labels_are_numbered() -> None:
    assert distinct_names(("crane", "dog", "crane")) == ("crane (0)", "dog", "crane (2)")
    assert distinct_names(("cat", "dog")) == ("cat", "dog")
    assert equal_labels(("crane", "dog", "crane")) == {"crane"}


def test_a_label_that_looks_numbered_is_told_from_one_that_is() -> None:
    names = distinct_names(("crane", "crane", "crane (1)", "crane (1) (2)"))
    assert names == ("crane (0)", "crane (1)", "crane (1) (2)", "crane (1) (2) (3)")


@given(st.lists(st.sampled_from(["a", "a (0)", "a (1)", "a (0) (1)", "b", ""]), max_size=7))
def test_names_are_all_different_and_begin_with_the_label(labels: list[str]) -> None:
    names = distinct_names(labels)
    assert len(set(names)) == len(labels)
    for index, (name, label) in enumerate(zip(names, labels, strict=True)):
        assert name in (label, f"{label} ({index})")


def test_a_label_is_given_at_its_threshold_and_never_to_no_number() -> None:
    """0.1 of JSON lies below float32's 0.1; the label is given all the same."""
    probabilities = np.array([[0.1, 0.1], [np.nan, 1.0], [0.0, 0.09]], np.float32)
    given_NK = are_given(probabilities, (0.1, 0.0))
    assert given_NK.tolist() == [[True, True], [False, True], [False, True]]


def test_entropy_of_labels_is_that_of_each_beside_its_opposite() -> None:
    probabilities = np.array([[0.5, 0.0, 1.0], [0.25, 0.5, 0.9]], np.float32)
    pairs = [entropy(np.stack([p, 1 - p], axis=1)).sum() for p in probabilities]
    np.testing.assert_allclose(entropy_of_labels(probabilities), pairs, rtol=1e-6)
    np.testing.assert_allclose(entropy_of_labels(probabilities)[0], np.log(2))
