"""What answers say beside their predictions: abstaining, several labels, equal ones, drift."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from models.artifact import ModelArtifact
from models.evidence import Abstain, Selective, Statistics
from models.histograms import entropy, entropy_of_labels
from models.image import encode_png
from models.repository import ModelRepository
from service.pipeline.histograms import INTERVAL_S
from tests.server import RunningServer, running_server
from tests.shell import Shell
from tests.tiny import (
    BINARY_LABELS,
    LABELS,
    THRESHOLDS,
    build_tiny,
    publish_tiny,
    random_images,
    tiny_model,
    tiny_probabilities,
)

IMAGES = random_images(12)
PROBABILITIES = tiny_probabilities(IMAGES).astype(np.float32)
THRESHOLD = float(np.sort(PROBABILITIES.max(axis=1))[6])
SEEN = Statistics(1000, 130.5, 70.25, (0.1, 0.2, 0.3, 0.4), 1.25)
SEVERAL = tiny_probabilities(IMAGES, task="multi-label").astype(np.float32)
SURE = 0.55
CRANES = ("crane", "dog", "crane", "cat")
FILES = [(str(i), encode_png(image)) for i, image in enumerate(IMAGES)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``picky`` abstains on about half of the images, as ``alike``; ``plain`` has no threshold.

    ``several`` is multi-label, ``unsure`` also abstains; ``either`` is binary; ``cranes`` has two
    labels of one name.
    """
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
    least = Abstain(SURE, 0.99, replace(worth, split="validation"), worth)
    publish_tiny(root, "several", task="multi-label", statistics=SEEN)
    publish_tiny(root, "unsure", task="multi-label", abstain=least, statistics=SEEN)
    publish_tiny(root, "either", task="binary", abstain=least)
    publish_tiny(root, "cranes", labels=CRANES, statistics=SEEN)
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


def write_images(folder: Path) -> list[Path]:
    paths = [folder / f"{i:02}.png" for i in range(len(IMAGES))]
    for path, image in zip(paths, IMAGES, strict=True):
        path.write_bytes(encode_png(image))
    return paths


@pytest.mark.e2e
def test_predict_and_score_abstain_as_the_service_does(
    server: RunningServer, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell, paths = Shell(capsys, models), write_images(tmp_path)
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


def labels_of(row_K: NDArray[np.float32]) -> list[str]:
    order = np.argsort(-row_K, kind="stable")
    return [LABELS[i] for i in order if row_K[i] >= np.float32(THRESHOLDS[i])]


@pytest.mark.e2e
def test_a_multi_label_answer_has_all_labels_above_their_thresholds(server: RunningServer) -> None:
    url = f"{server.url}/models/several/predict?top=2"
    results = httpx.post(url, files=FILES).json()["results"]
    assert results == [httpx.post(url, content=file).json()["results"][0] for _, file in FILES]
    form = {"model": "several", "top": "2"}
    classified = [
        httpx.post(f"{server.url}/classify", data=form, files={"image": file}).json()["results"][0]
        for _, file in FILES
    ]
    assert classified == results
    for result, row_K in zip(results, SEVERAL, strict=True):
        assert list(result) == ["predictions", "labels"]
        assert result["labels"] == labels_of(row_K)
        best = np.argsort(-row_K, kind="stable")[:2]
        assert [each["index"] for each in result["predictions"]] == best.tolist()
        got = [each["probability"] for each in result["predictions"]]
        np.testing.assert_allclose(got, row_K[best], rtol=0, atol=1e-6)
    assert {0, 3} <= {len(result["labels"]) for result in results}


@pytest.mark.e2e
def test_a_multi_label_model_that_abstains_gives_no_label(server: RunningServer) -> None:
    results = httpx.post(f"{server.url}/models/unsure/predict", files=FILES).json()["results"]
    for result, row_K in zip(results, SEVERAL, strict=True):
        is_sure = bool(row_K.max() >= np.float32(SURE))
        assert list(result) == ["predictions", "labels", "abstained"]
        assert result["labels"] == (labels_of(row_K) if is_sure else [])
        assert result["abstained"] is not is_sure
    said = [result["abstained"] for result in results]
    assert 0 < sum(said) < len(said)


@pytest.mark.e2e
def test_a_binary_answer_has_one_label_of_two(server: RunningServer) -> None:
    expected = tiny_probabilities(IMAGES, task="binary")
    results = httpx.post(f"{server.url}/models/either/predict", files=FILES).json()["results"]
    for result, row_K in zip(results, expected, strict=True):
        best = result["predictions"][0]
        assert best["label"] == BINARY_LABELS[int(row_K.argmax())]
        assert best["probability"] == pytest.approx(row_K.max(), abs=1e-6)
        assert result["abstained"] is bool(best["probability"] < SURE)
        assert result["label"] == (None if result["abstained"] else best["label"])


@pytest.mark.e2e
def test_v2_gives_the_probabilities_of_each_task(server: RunningServer) -> None:
    """Classification ranks them; equal labels have their indexes; the thresholds can be asked."""
    content = IMAGES.tobytes()
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(IMAGES.shape)}
    for name, expected, labels in (
        ("several", SEVERAL, LABELS),
        ("either", tiny_probabilities(IMAGES, task="binary"), BINARY_LABELS),
        ("cranes", PROBABILITIES, CRANES),
    ):
        url = f"{server.url}/v2/models/{name}"
        request = {
            "inputs": [{**tensor, "data": list(content)}],
            "outputs": [{"name": "probabilities"}],
        }
        output = httpx.post(f"{url}/infer", json=request).json()["outputs"][0]
        got = np.array(output["data"], np.float32).reshape(output["shape"])
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
        request["outputs"] = [{"name": "probabilities", "parameters": {"classification": 2}}]
        texts = httpx.post(f"{url}/infer", json=request).json()["outputs"][0]["data"]
        order = np.argsort(-got, axis=1, kind="stable")[:, :2].ravel().tolist()
        rows = np.repeat(np.arange(len(got)), 2)
        assert texts == [
            f"{got[row, i]:f}:{i}:{labels[i]}" for row, i in zip(rows, order, strict=True)
        ]
    several = httpx.get(f"{server.url}/v2/models/several/config").json()["parameters"]
    assert several["task"] == {"string_value": "multi-label"}
    assert json.loads(several["thresholds"]["string_value"]) == list(THRESHOLDS)
    either = httpx.get(f"{server.url}/v2/models/either/config").json()["parameters"]
    assert either == {"task": {"string_value": "binary"}}
    assert "parameters" not in httpx.get(f"{server.url}/v2/models/cranes/config").json()


@pytest.mark.e2e
def test_predict_and_score_give_the_labels_that_the_service_gives(
    server: RunningServer, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell, paths = Shell(capsys, models), write_images(tmp_path)
    for model in ("several", "unsure", "either", "cranes"):
        for words in ((), ("--json",)):
            here = shell("predict", *paths, "--model", model, *words)
            there = shell("predict", *paths, "--model", model, "--url", server.url, *words)
            assert here == there
        out = tmp_path / f"{model}.jsonl"
        assert shell("score", tmp_path / "*.png", "--model", model, "--out", out).code == 0
        scored = [json.loads(line) for line in out.read_text().splitlines()]
        answers = here.document["results"]
        assert [row["index"] for row in scored] == [a["predictions"][0]["index"] for a in answers]
        assert [row.get("labels") for row in scored] == [a.get("labels") for a in answers]
    text = shell("predict", paths[0], "--model", "several").out
    assert f"= {', '.join(labels_of(SEVERAL[0]))}" in text
    assert "(no label)" in shell("predict", *paths, "--model", "several").out
    text = shell("predict", paths[0], "--model", "cranes", "--top", "4").out
    assert all(name in text for name in ("crane (0)", "crane (2)", "dog"))
    best = shell("predict", *paths, "--model", "cranes", "--top", "1").out
    assert "crane (" in best and "crane " not in best.replace("crane (", "")


@pytest.mark.e2e
def test_drift_of_several_and_of_equal_labels(server: RunningServer) -> None:
    """Every label that a row gets counts; equal labels are series of their own."""
    before = server.metric("foveal_drift_rows_total", model="unsure")
    for name in ("unsure", "cranes"):
        time.sleep(2 * INTERVAL_S)  # the batch is sampled unless one was just before
        rows = {label: drift_rows(server, name, label) for label in names_of(name)}
        total = server.metric("foveal_drift_sums_total", model=name, quantity="entropy")
        assert httpx.post(f"{server.url}/models/{name}/predict", files=FILES).status_code == 200
        if name == "unsure":
            given = [(SEVERAL[:, i] >= np.float32(THRESHOLDS[i])).sum() for i in range(4)]
            grown, entropies = given, entropy_of_labels(SEVERAL)
        else:
            first = PROBABILITIES.argmax(axis=1)
            grown, entropies = [(first == i).sum() for i in range(4)], entropy(PROBABILITIES)
        for index, label in enumerate(names_of(name)):
            assert drift_rows(server, name, label) - rows[label] == grown[index]
            share = server.metric("foveal_training_class_share", model=name, label=label)
            assert share == SEEN.class_shares[index]
        now = server.metric("foveal_drift_sums_total", model=name, quantity="entropy")
        assert now - total == pytest.approx(entropies.sum(), rel=1e-4)
    assert server.metric("foveal_drift_rows_total", model="unsure") == before + len(IMAGES)


def names_of(model: str) -> tuple[str, ...]:
    return ("crane (0)", "dog", "crane (2)", "cat") if model == "cranes" else LABELS


def drift_rows(server: RunningServer, model: str, label: str) -> float:
    return server.metric("foveal_drift_class_rows_total", model=model, label=label)
