import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.artifact import ModelArtifact
from models.evidence import Abstain, Selective, Statistics
from models.histograms import entropy
from models.image import encode_png
from models.repository import ModelRepository
from tests.server import RunningServer, running_server
from tests.shell import Shell
from tests.tiny import LABELS, build_tiny, random_images, tiny_model, tiny_probabilities

IMAGES = random_images(12)
PROBABILITIES = tiny_probabilities(IMAGES).astype(np.float32)
THRESHOLD = float(np.sort(PROBABILITIES.max(axis=1))[6])
SEEN = Statistics(1000, 130.5, 70.25, (0.1, 0.2, 0.3, 0.4), 1.25)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``picky`` abstains on about half of the images, as ``alike``; ``plain`` has no threshold."""
    root = tmp_path_factory.mktemp("models")
    worth = Selective("test", 100, 0.5, 0.99)

    def build(folder: Path, name: str, version: int) -> ModelArtifact:
        artifact = build_tiny(folder, name, version, tiny_model())
        abstain = Abstain(THRESHOLD, 0.99, replace(worth, split="validation"), worth)
        return replace(artifact, abstain=abstain, statistics=SEEN)

    repository = ModelRepository(root)
    for name in ("picky", "alike"):
        repository.publish(name, lambda folder, v, name=name: build(folder, name, v))  # type: ignore[misc]
    repository.publish("plain", lambda folder, v: build_tiny(folder, "plain", v, tiny_model()))
    return root


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(models, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.mark.e2e
def test_answers_below_the_threshold_have_no_label(server: RunningServer) -> None:
    files = [(str(i), encode_png(image)) for i, image in enumerate(IMAGES)]
    url = f"{server.url}/models/picky/predict?top=2"
    results = httpx.post(url, files=files).json()["results"]
    alone = [httpx.post(url, content=file).json()["results"][0] for _, file in files]
    assert results == alone
    plain = httpx.post(f"{server.url}/models/plain/predict?top=2", files=files).json()["results"]
    said = []
    for result, without in zip(results, plain, strict=True):
        best = result["predictions"][0]
        abstains = np.float32(best["probability"]) < np.float32(THRESHOLD)
        expected = {"label": None if abstains else best["label"], "abstained": bool(abstains)}
        assert list(result) == ["predictions", "label", "abstained"]
        assert result == {"predictions": result["predictions"], **expected}
        assert without == {"predictions": result["predictions"]}
        said.append(abstains)
    assert sum(said) == 6


@pytest.mark.e2e
def test_predict_and_score_abstain_as_the_service_does(
    server: RunningServer, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, image in enumerate(IMAGES):
        (tmp_path / f"{i:02}.png").write_bytes(encode_png(image))
    shell = Shell(capsys, models)
    paths = sorted(tmp_path.glob("*.png"))
    for words in ((), ("--json",)):
        here = shell("predict", *paths, "--model", "picky", *words)
        assert here == shell("predict", *paths, "--model", "picky", "--url", server.url, *words)
    table = shell("predict", *paths, "--model", "picky").out
    assert table.count("(abstains)") == 6
    out = tmp_path / "scores.jsonl"
    assert shell("score", tmp_path / "*.png", "--model", "picky", "--out", out).code == 0
    scored = [json.loads(line) for line in out.read_text().splitlines()]
    answers = here.document["results"]
    assert [row["label"] for row in scored] == [answer["label"] for answer in answers]
    assert [row["probability"] for row in scored] == [
        answer["predictions"][0]["probability"] for answer in answers
    ]
    assert all(row["error"] is None for row in scored)


@pytest.mark.e2e
def test_drift_can_be_read_from_the_metrics(server: RunningServer) -> None:
    """One batch is looked at whole: its sums are those of its rows, beside the training's."""
    files = [(str(i), encode_png(image)) for i, image in enumerate(IMAGES)]
    assert httpx.post(f"{server.url}/models/alike/predict", files=files).status_code == 200
    text = httpx.get(f"{server.url}/metrics").text
    assert "foveal_drift_rows_total" in text
    alike = {"model": "alike", "version": "1"}
    assert server.metric("foveal_drift_rows_total", **alike) == len(IMAGES)
    sums = {
        "pixel_mean": IMAGES.mean(axis=(1, 2, 3)).sum(),
        "pixel_spread": IMAGES.std(axis=(1, 2, 3)).sum(),
        "entropy": entropy(PROBABILITIES).sum(),
    }
    for quantity, expected in sums.items():
        got = server.metric("foveal_drift_sums_total", quantity=quantity, **alike)
        assert got == pytest.approx(expected, rel=1e-4)
        trained = server.metric("foveal_training", quantity=quantity, **alike)
        assert trained == getattr(SEEN, quantity)
    assert server.metric("foveal_drift_sums_total", quantity="abstained", **alike) == 6
    first = PROBABILITIES.argmax(axis=1)
    for index, label in enumerate(LABELS):
        got = server.metric("foveal_drift_class_rows_total", label=label, **alike)
        assert got == (first == index).sum()
        share = server.metric("foveal_training_class_share", label=label, **alike)
        assert share == SEEN.class_shares[index]
    assert server.metric("foveal_training", model="plain") == 0
