from dataclasses import replace
from pathlib import Path

import pytest

from models.describe import describe, list_entries, tabulate
from models.evidence import Metrics, Proof
from models.repository import ModelRepository
from tests.server import ROOT
from tests.tiny import publish_tiny

SHIPPED = ModelRepository(ROOT / "models")


@pytest.mark.parametrize("name", SHIPPED.names())
def test_the_story_of_a_shipped_model_is_whole(name: str) -> None:
    artifact = SHIPPED.load(*SHIPPED.resolve(name))
    lines = describe(artifact)
    titles = [title for title, _ in lines]
    files = [title for file in artifact.files for title in ("file", *([""] if file.gate else []))]
    drift = ["trained on"] if "trained on" in titles else []  # older exports did not write it
    assert titles == [
        "model",
        "labels",
        "image",
        "input",
        "outputs",
        "graph",
        *files,
        "golden",
        "accuracy",
        "",
        "calibration",
        *drift,
        "parity",
        "dataset",
        "made",
        "command",
        "versions",
    ]
    story = "\n".join(text for _, text in lines)
    assert artifact.metrics is not None and artifact.provenance is not None
    for known in (
        artifact.reference,
        artifact.files[0].sha256,
        f"{artifact.metrics.accuracy:.2%} of {artifact.metrics.images} test images",
        artifact.provenance.command,
        artifact.provenance.git,
        *artifact.labels,
    ):
        assert known in story


def test_a_model_without_measurements_is_told_without_them(tmp_path: Path) -> None:
    titles = [title for title, _ in describe(publish_tiny(tmp_path))]
    assert titles[-1] == "golden"
    [entry] = list_entries(ModelRepository(tmp_path))
    assert entry.disk_bytes >= entry.size_bytes
    assert tabulate([entry]) == [
        ("name", "version", "accuracy", "size", "disk", "answers"),
        (
            "tiny",
            "1",
            "-",
            "1 KiB",
            f"{entry.disk_bytes // 1024} KiB",
            "/models/tiny/predict and /predict",
        ),
    ]


def test_what_cannot_be_read_hides_nothing(tmp_path: Path) -> None:
    publish_tiny(tmp_path)
    broken = publish_tiny(tmp_path)
    (tmp_path / "tiny" / str(broken.version) / "model.json").write_text("{")
    good, bad = list_entries(ModelRepository(tmp_path))
    assert (good.version, good.error) == (1, "")
    assert bad.version == 2 and "model.json: expected JSON" in bad.error
    disk = f"{bad.disk_bytes // 1024} KiB"
    assert tabulate([bad])[1] == ("tiny", "2", "-", "-", disk, bad.error)


def test_equal_labels_are_told_apart(tmp_path: Path) -> None:
    metrics = Metrics("test", 100, 0.75, (0.5, None, 0.75, 1.0), 0.01)
    artifact = publish_tiny(tmp_path, labels=("crane", "dog", "crane", "cat"), metrics=metrics)
    story = describe(artifact)
    assert dict(story)["labels"] == "4: crane (0), dog, crane (2), cat"
    assert ("", "crane (0) 50.0%, crane (2) 75.0%, cat 100.0%") in story


def test_a_binary_model_says_what_its_two_probabilities_are(tmp_path: Path) -> None:
    story = dict(describe(publish_tiny(tmp_path, task="binary")))
    assert story["task"] == "binary: 1 - p and p of one sigmoid"
    assert story["labels"] == "2: dark, light"


def test_task_and_proof_are_told(tmp_path: Path) -> None:
    artifact = replace(
        publish_tiny(tmp_path),
        task="multi-label",
        thresholds=(0.25, 0.5, 0.5, 0.75),
        proof=Proof("answers.csv", 300, 0.9966, 0.00123, 0.01, 1.5),
        metrics=Metrics("given", 60, 0.5, (0.5, None, 0.75, 1.0), 0.01),
    )
    story = dict(describe(artifact))
    assert story["task"] == "multi-label, thresholds 0.25 to 0.75"
    assert story["accuracy"] == "50.00% of 60 given images, with all their labels and no other"
    assert story["proof"] == (
        "300 files, against answers.csv: 99.66% same labels, probabilities within 0.0012 "
        "(limit 0.01), pixels within 1.5 of 255"
    )
