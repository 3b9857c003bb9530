import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from service.pipeline.job import Batch, Job
from service.pipeline.postprocess import Postprocessor, rank
from service.session.outputs import Outputs

LABELS = ("plain", 'with "quotes"', "naïve ☃", "back\\slash", "")
FLOAT32 = st.floats(0, 1, width=32)
PROBABILITIES = st.integers(1, 6).flatmap(
    lambda rows: npst.arrays(np.float32, (rows, len(LABELS)), elements=FLOAT32)
)


def batch(probabilities_NK: NDArray[np.float32]) -> Batch:
    finished = Batch(len(probabilities_NK), [], 0.0)
    finished.outputs = Outputs(probabilities_NK, probabilities_NK)
    return finished


@given(PROBABILITIES, st.integers(1, 9))
def test_text_is_the_json_of_the_values(probabilities_NK: NDArray[np.float32], top: int) -> None:
    """orjson's own writing of the same values, digit for digit."""
    postprocessor = Postprocessor(LABELS)
    fragments = postprocessor.fragments(batch(probabilities_NK), top)
    assert len(fragments) == len(probabilities_NK)
    for fragment, row_K in zip(fragments, probabilities_NK, strict=True):
        order = rank(row_K[None], top)[0].tolist()
        expected = {
            "predictions": [
                {"label": LABELS[i], "index": i, "probability": row_K[i]} for i in order
            ]
        }
        assert fragment == orjson.dumps(expected, option=orjson.OPT_SERIALIZE_NUMPY)
        assert len(order) == min(top, len(LABELS))


@given(PROBABILITIES)
def test_probabilities_read_back_as_the_same_float32(
    probabilities_NK: NDArray[np.float32],
) -> None:
    fragments = Postprocessor(LABELS).fragments(batch(probabilities_NK), len(LABELS))
    for fragment, row_K in zip(fragments, probabilities_NK, strict=True):
        for prediction in orjson.loads(fragment)["predictions"]:
            got = np.float32(prediction["probability"])
            assert got.tobytes() == row_K[prediction["index"]].tobytes()
            assert prediction["label"] == LABELS[prediction["index"]]


@given(PROBABILITIES, st.integers(1, 9))
def test_rank_is_a_stable_descending_sort(probabilities_NK: NDArray[np.float32], top: int) -> None:
    for row_K, order in zip(probabilities_NK, rank(probabilities_NK, top), strict=True):
        expected = sorted(range(len(row_K)), key=lambda i: (-row_K[i], i))[:top]
        assert order.tolist() == expected


def test_ties_go_to_the_lower_index() -> None:
    tied = np.array([[0.2, 0.4, 0.0, 0.4, 0.0]], np.float32)
    assert rank(tied, 5).tolist() == [[1, 3, 0, 2, 4]]


@given(PROBABILITIES, st.integers(1, 6))
def test_text_of_a_row_does_not_depend_on_its_batch(
    probabilities_NK: NDArray[np.float32], top: int
) -> None:
    postprocessor = Postprocessor(LABELS)
    together = postprocessor.fragments(batch(probabilities_NK), top)
    alone = [postprocessor.fragments(batch(row_K[None]), top)[0] for row_K in probabilities_NK]
    assert together == alone


def test_batch_is_rendered_once_for_each_top_and_labels() -> None:
    one, other = Postprocessor(("a", "b")), Postprocessor(("c", "d"))
    finished = batch(np.array([[0.25, 0.75]], np.float32))
    first = one.fragments(finished, 2)
    assert one.fragments(finished, 2) is first
    assert one.fragments(finished, 1) == [
        b'{"predictions":[{"label":"b","index":1,"probability":0.75}]}'
    ]
    assert b'"label":"d"' in other.fragments(finished, 2)[0]


def test_output_that_is_not_contiguous() -> None:
    wide = np.array([[0.1, 9, 0.9, 9], [0.8, 9, 0.2, 9]], np.float32)[:, ::2]
    fragments = Postprocessor(("a", "b")).fragments(batch(wide), 1)
    assert fragments[1] == b'{"predictions":[{"label":"a","index":0,"probability":0.8}]}'


def test_no_number_breaks_the_json() -> None:
    odd = np.array([[np.nan, np.inf, 0.5], [1e-45, 1e-7, 1.0]], np.float32)
    fragments = Postprocessor(("a", "b", "c")).fragments(batch(odd), 3)
    assert orjson.loads(fragments[0])["predictions"][-1] == {
        "label": "a",
        "index": 0,
        "probability": None,
    }
    assert orjson.loads(fragments[1])["predictions"][2]["probability"] == 1e-45


def test_rows_of_a_job_come_from_all_its_batches() -> None:
    postprocessor = Postprocessor(("a", "b"))
    batches = [batch(np.array([[0, i], [1, i], [2, i]], np.float32)) for i in (0, 10)]
    job = Job([np.zeros((1, 1, 1), np.uint8)] * 3, 0)
    job.parts = [(batches[0], 2, 1), (batches[1], 0, 2)]
    got = [
        [p["probability"] for p in sorted(orjson.loads(f)["predictions"], key=lambda p: p["index"])]
        for f in postprocessor.job_fragments(job, 2)
    ]
    assert got == [[2, 0], [0, 10], [1, 10]]


@given(PROBABILITIES, st.integers(1, 9), FLOAT32)
def test_a_threshold_adds_a_verdict_and_changes_nothing_else(
    probabilities_NK: NDArray[np.float32], top: int, threshold: float
) -> None:
    plain = Postprocessor(LABELS).fragments(batch(probabilities_NK), top)
    picky = Postprocessor(LABELS, threshold).fragments(batch(probabilities_NK), top)
    for row_K, without, fragment in zip(probabilities_NK, plain, picky, strict=True):
        best = LABELS[rank(row_K[None], 1)[0, 0]]
        abstains = bool(row_K.max() < np.float32(threshold))
        verdict = {"label": None if abstains else best, "abstained": abstains}
        assert fragment == without[:-1] + b"," + orjson.dumps(verdict)[1:]


THRESHOLDS = (0.5, 0.1, 0.9, 0.0, 1.0)


@given(PROBABILITIES, st.integers(1, 9), st.none() | FLOAT32)
def test_a_multi_label_row_gets_the_labels_above_their_thresholds(
    probabilities_NK: NDArray[np.float32], top: int, threshold: float | None
) -> None:
    """All of them, however few predictions are asked for; none where the model abstains."""
    plain = Postprocessor(LABELS).fragments(batch(probabilities_NK), top)
    several = Postprocessor(LABELS, threshold, THRESHOLDS).fragments(batch(probabilities_NK), top)
    for row_K, without, fragment in zip(probabilities_NK, plain, several, strict=True):
        order = rank(row_K[None], len(LABELS))[0].tolist()
        above = [LABELS[i] for i in order if row_K[i] >= np.float32(THRESHOLDS[i])]
        verdict: dict[str, object] = {"labels": above}
        if threshold is not None:
            abstains = bool(row_K.max() < np.float32(threshold))
            verdict = {"labels": [] if abstains else above, "abstained": abstains}
        assert fragment == without[:-1] + b"," + orjson.dumps(verdict)[1:]


def test_equal_labels_of_several_are_told_apart() -> None:
    labels = ("crane", "dog", "crane")
    row = batch(np.array([[0.75, 0.25, 1.0]], np.float32))
    result = orjson.loads(Postprocessor(labels, None, (0.5, 0.5, 0.5)).fragments(row, 1)[0])
    assert result == {
        "predictions": [{"label": "crane", "index": 2, "probability": 1.0}],
        "labels": ["crane (2)", "crane (0)"],
    }


def test_no_number_gives_no_label() -> None:
    odd = batch(np.array([[np.nan, 1.0], [np.nan, np.nan]], np.float32))
    for threshold, first in ((None, ["b"]), (0.0, [])):
        texts = Postprocessor(("a", "b"), threshold, (0.0, 0.0)).fragments(odd, 2)
        assert [orjson.loads(text)["labels"] for text in texts] == [first, []]
