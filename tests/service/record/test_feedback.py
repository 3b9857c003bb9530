"""Truths are joined with answers, judged, counted once, and refused with a reason."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from models.artifact import ArtifactError, ModelArtifact
from models.evidence import Abstain, Selective
from service.errors import InvalidInputError
from service.record.answers import ABSTAINED, SHADOW, Answers, key_of, model_key
from service.record.feedback import BINS, Feedback, Report, bin_of
from service.record.keeper import remembered
from service.record.told import read_truth
from tests.tiny import publish_tiny, random_images, tiny_probabilities

LABELS = ("cat", "dog", "crane", "crane")


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], ModelArtifact]:
    root = tmp_path_factory.mktemp("versions")
    made = [
        publish_tiny(root, "one", labels=LABELS),
        publish_tiny(root, "one", gain=2.0, labels=LABELS),
        publish_tiny(root, "several", task="multi-label"),
    ]
    return {(artifact.name, artifact.version): artifact for artifact in made}


class Bench:
    """Answers of two models, and what became of truths about them."""

    def __init__(self, folder: Path, versions: dict[tuple[str, int], ModelArtifact]) -> None:
        self.answers = Answers(folder, 1000)
        self.versions = versions
        self.feedback = Feedback(self.answers, self._load)
        self._before: dict[tuple[Any, ...], float] = {}

    def _load(self, name: str, version: int) -> ModelArtifact:
        try:
            return self.versions[name, version]
        except KeyError:
            raise ArtifactError(f"{name}:{version}: no such version") from None

    def answered(
        self,
        request_id: bytes,
        index: int,
        confidence: float = 0.9,
        flags: int = 0,
        version: int = 1,
    ) -> None:
        model = model_key("one"), version
        self.answers.add(key_of(request_id), 0, version, model, (index, confidence, flags))

    def take(self, *items: Any, model: str = "one") -> Report:
        return self.feedback.take(model, items)

    def counted(self, name: str, **labels: str) -> float:
        """Return what was added to a metric since the last call for it."""
        now = REGISTRY.get_sample_value(name, labels) or 0.0
        key = (name, *sorted(labels.items()))
        before, self._before[key] = self._before.get(key, 0.0), now
        return now - before


@pytest.fixture
def bench(tmp_path: Path, versions: dict[tuple[str, int], ModelArtifact]) -> Bench:
    return Bench(tmp_path, versions)


def rows(bench: Bench, outcome: str, version: int = 1, model: str = "one") -> float:
    return bench.counted(
        "foveal_feedback_rows_total", model=model, version=str(version), outcome=outcome
    )


def test_right_wrong_and_abstained(bench: Bench) -> None:
    for outcome in ("right", "wrong", "abstained"):
        rows(bench, outcome)
    bench.answered(b"a", 0)
    bench.answered(b"b", 1)
    bench.answered(b"c", 1, flags=ABSTAINED)
    report = bench.take(
        {"id": "a", "label": "cat"}, {"id": "b", "row": 0, "index": 0}, {"id": "c", "label": "dog"}
    )
    assert report.outcomes == [(1, "right"), (1, "wrong"), (1, "abstained")]
    assert not report.refused
    assert [rows(bench, outcome) for outcome in ("right", "wrong", "abstained")] == [1, 1, 1]


def test_a_truth_counts_once_and_is_not_replaced(bench: Bench) -> None:
    rows(bench, "right")
    bench.answered(b"a", 2)
    for _ in range(2):
        bench.take({"id": "a", "index": 2}, {"id": "a", "label": "crane (2)"})
    assert rows(bench, "right") == 1
    report = bench.take({"id": "a", "index": 3})
    ((position, error),) = report.refused
    assert (position, error.status) == (0, 409)
    assert "one truth" in error.message


@pytest.mark.parametrize(
    ("item", "status", "says"),
    [
        ({"id": "none", "label": "cat"}, 404, "FOVEAL_FEEDBACK_ROWS"),
        ({"id": "a", "row": 1, "label": "cat"}, 404, "row 1"),
        ({"id": "a", "label": "cow"}, 400, "expected one of one:1 .cat, dog"),
        ({"id": "a", "label": "crane"}, 400, "give its index"),
        ({"id": "a", "index": 4}, 400, "expected 0 to 3"),
        ({"id": "a", "index": -1}, 400, "expected 0 to 3"),
        ({"id": "a", "labels": ["cat"]}, 400, "not multi-label"),
        ({"id": "a", "index": True}, 400, "index: expected a whole number"),
        ({"id": "a", "label": 3}, 400, "label: expected text"),
        ({"id": "a", "label": "cat", "index": 0}, 400, "expected one of"),
        ({"id": "a"}, 400, "expected one of"),
        ({"id": "a", "label": "cat", "more": 1}, 400, "more"),
        ({"id": "", "label": "cat"}, 400, "X-Request-Id"),
        ({"id": "x" * 141, "label": "cat"}, 400, "X-Request-Id"),
        ({"id": 7, "label": "cat"}, 400, "X-Request-Id"),
        ({"id": "a", "row": -1, "label": "cat"}, 400, "row"),
        ({"id": "a", "row": 1.0, "label": "cat"}, 400, "row"),
        ({"id": "a", "row": 1 << 70, "label": "cat"}, 400, "row"),
        ({"label": "cat"}, 400, "X-Request-Id"),
        ([], 400, "expected"),
        (None, 400, "expected"),
    ],
)
def test_what_is_refused(bench: Bench, item: Any, status: int, says: str) -> None:
    bench.answered(b"a", 0)
    good = {"id": "a", "label": "cat"}
    report = bench.take(item, good)
    ((position, error),) = report.refused
    assert (position, error.status) == (0, status)
    assert says in error.message.replace("(", ".")
    assert report.outcomes == [(1, "right")]  # and the other one is taken


def test_a_version_that_is_gone_is_refused(bench: Bench) -> None:
    bench.answered(b"a", 0, version=7)
    ((_, error),) = bench.take({"id": "a", "index": 0}).refused
    assert error.status == 404 and "one:7" in error.message


def test_labels_are_counted_as_right_missed_or_extra(bench: Bench) -> None:
    def classes() -> list[float]:
        name = "foveal_feedback_class_rows_total"
        return [
            bench.counted(name, model="one", version="1", label=label, outcome=outcome)
            for label in ("cat", "dog")
            for outcome in ("right", "missed", "extra")
        ]

    classes()
    for i in range(3):
        bench.answered(b"%d" % i, 0)
    bench.take({"id": "0", "index": 0}, {"id": "1", "index": 0}, {"id": "2", "index": 1})
    assert classes() == [2, 0, 1, 0, 1, 0]


def test_probabilities_are_counted_in_bins(bench: Bench) -> None:
    name = "foveal_feedback_bin_confidence_total"
    bench.counted(name, model="one", version="1", bin="14")
    for i in range(4):
        bench.answered(b"%d" % i, 0, confidence=0.92)
    bench.take(*({"id": str(i), "index": 0 if i else 1} for i in range(4)))
    total = bench.counted(name, model="one", version="1", bin="14")
    assert total == pytest.approx(4 * 0.92, abs=1e-5)


@pytest.mark.parametrize(
    ("confidence", "expected"), [(0.0, 1), (1e-9, 1), (1 / 15, 1), (0.5, 8), (0.99, 15), (1.0, 15)]
)
def test_bins_include_their_upper_ends(confidence: float, expected: int) -> None:
    assert BINS == 15
    assert bin_of(confidence) == expected


@pytest.mark.parametrize(
    ("served", "shadow", "outcome"),
    [(0, 1, "worse"), (1, 0, "better"), (0, 0, "same"), (1, 2, "same")],
)
def test_a_shadow_is_compared(bench: Bench, served: int, shadow: int, outcome: str) -> None:
    def pairs() -> dict[str, float]:
        name = "foveal_feedback_pairs_total"
        return {
            each: bench.counted(name, model="one", version="2", outcome=each)
            for each in ("better", "worse", "same")
        }

    pairs()
    rows(bench, "right", 2)
    bench.answered(b"a", served)
    bench.answered(b"a", shadow, flags=SHADOW, version=2)
    assert bench.take({"id": "a", "label": "cat"}).outcomes[0][0] == 1
    assert pairs() == {"better": 0, "worse": 0, "same": 0} | {outcome: 1}
    assert rows(bench, "right", 2) == 0  # no client saw it


def test_multi_label_answers(bench: Bench, versions: dict[tuple[str, int], ModelArtifact]) -> None:
    artifact = versions["several", 1]
    images = random_images(20, seed=3)
    probabilities = tiny_probabilities(images, task="multi-label").astype(np.float32)
    given = probabilities >= np.asarray(artifact.thresholds, np.float32)
    for i, (bits, _) in enumerate(remembered(artifact, probabilities)):
        model = model_key("several"), 1
        bench.answers.add_several(key_of(b"%d" % i), 0, float(i), model, bits)
    rows(bench, "right", model="several")
    right = [
        {"id": str(i), "labels": [artifact.labels[j] for j in np.flatnonzero(given[i])]}
        for i in range(10)
    ]
    wrong = [{"id": str(i), "indexes": np.flatnonzero(~given[i]).tolist()} for i in range(10, 20)]
    report = bench.take(*right, *wrong, model="several")
    assert not report.refused
    assert [outcome for _, outcome in report.outcomes] == ["right"] * 10 + ["wrong"] * 10
    assert rows(bench, "right", model="several") == 10
    assert bench.take(*right, model="several").count("duplicate") == 10
    ((_, error),) = bench.take({"id": "0", "label": "top"}, model="several").refused
    assert "labels or indexes" in error.message


@pytest.mark.parametrize("name", ["one", "several"])
def test_a_row_that_is_not_sure_is_abstained(
    versions: dict[tuple[str, int], ModelArtifact], name: str
) -> None:
    some = Selective("test", 100, 0.9, 0.99)
    artifact = replace(versions[name, 1], abstain=Abstain(0.6, 0.99, some, some))
    rows_NK = np.array([[0.7, 0.2, 0.05, 0.05], [0.55, 0.3, 0.1, 0.1]], np.float32)
    assert [row[-1] for row in remembered(artifact, rows_NK)] == [0, ABSTAINED]
    assert [row[-1] for row in remembered(versions[name, 1], rows_NK)] == [0, 0]


def test_a_truth_is_read_as_it_was_sent() -> None:
    truth = read_truth({"id": "a", "row": 3, "labels": ["x", "y"]})
    assert (truth.id, truth.row, truth.labels, truth.is_several) == ("a", 3, ("x", "y"), True)
    with pytest.raises(InvalidInputError):
        read_truth({"id": "a", "labels": "x"})
