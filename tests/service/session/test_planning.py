import hashlib
import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.artifact import ArtifactError, ModelArtifact, Precision
from models.evidence import Parity
from models.repository import ModelRepository
from scoring.local import LocalModel, verify
from service.session.formats import Choice
from service.session.planning import PlanChoices, open_best
from tests.tiny import build_tiny, publish_tiny, random_images, tiny_model, tiny_probabilities

GAINS: dict[Precision, float] = {"int8": 3.0, "fp16": 5.0}


def opened(
    root: Path, precision: Choice, threads: tuple[int, ...] = (1,)
) -> tuple[Precision, float]:
    """Open the tiny model; return what runs, and the gain of whoever answers."""
    repository = ModelRepository(root)
    artifact = repository.verify("tiny", 1)
    session = open_best(repository, artifact, PlanChoices(precision, threads, 16))
    images = random_images(3)
    got = session.run(images).probabilities
    (gain,) = (
        gain
        for gain in (1.0, *GAINS.values())
        if np.allclose(got, tiny_probabilities(images, gain), rtol=0, atol=1e-6)
    )
    return session.plan.precision, gain


@pytest.mark.parametrize(("precision", "gain"), [("fp32", 1.0), ("int8", 3.0), ("fp16", 5.0)])
def test_the_file_asked_for_answers(tmp_path: Path, precision: Precision, gain: float) -> None:
    publish_tiny(tmp_path, lower=GAINS)
    assert opened(tmp_path, precision) == (precision, gain)
    assert opened(tmp_path, precision, (1, 2)) == (precision, gain)


def test_a_model_without_the_file_answers_in_fp32_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish_tiny(tmp_path, lower={"fp16": 5.0})
    with caplog.at_level(logging.WARNING):
        assert opened(tmp_path, "int8") == ("fp32", 1.0)
    assert "expected an int8 file that passed its gate, got fp32, fp16" in caplog.text


@pytest.mark.parametrize("precision", ["int8", "auto"])
def test_a_file_without_a_gate_never_answers(tmp_path: Path, precision: Choice) -> None:
    def build(folder: Path, version: int) -> ModelArtifact:
        slow = tiny_model(is_slow=True)
        artifact = build_tiny(folder, "tiny", version, slow, lower={"int8": 3.0})
        return replace(artifact, files=tuple(replace(f, gate=None) for f in artifact.files))

    ModelRepository(tmp_path).publish("tiny", build)
    assert opened(tmp_path, precision) == ("fp32", 1.0)


@pytest.mark.parametrize("precision", ["int8", "auto"])
def test_a_file_that_fails_its_self_test_here_leaves_fp32_to_answer(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    precision: Choice,
) -> None:
    """As on a CPU whose integer kernels saturate: other answers than where it was made."""
    publish_tiny(tmp_path, model=tiny_model(is_slow=True), lower={"int8": 3.0})
    swap_answers(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert opened(tmp_path, precision) == ("fp32", 1.0)
    assert "int8 does not run here, fp32 answers instead" in caplog.text
    assert "golden image golden/0.png: expected the recorded probabilities within 0.02" in (
        caplog.text
    )
    for can, how in ((True, "export the model again"), (False, "this CPU lacks VNNI")):
        monkeypatch.setattr("service.session.planning.multiplies_whole", lambda can=can: can)
        said = verify(ModelRepository(tmp_path))["tiny:1"]
        assert re.search(rf"within 0.02, .+ in int8; {how}", said), said
        assert said.startswith("golden image" if can else "ok in fp32; golden image")


def test_a_file_that_onnxruntime_refuses_leaves_fp32_to_answer(tmp_path: Path) -> None:
    def build(folder: Path, version: int) -> ModelArtifact:
        artifact = build_tiny(folder, "tiny", version, tiny_model(), lower={"int8": 3.0})
        broken = tiny_model(gain=3.0)
        broken.graph.node[0].op_type = "NoSuchOperator"
        content = broken.SerializeToString()
        (folder / "model.int8.onnx").write_bytes(content)
        fp32, int8 = artifact.files
        digest = hashlib.sha256(content).hexdigest()
        return replace(
            artifact, files=(fp32, replace(int8, sha256=digest, size_bytes=len(content)))
        )

    ModelRepository(tmp_path).publish("tiny", build)
    assert opened(tmp_path, "int8") == ("fp32", 1.0)


def test_fp32_that_fails_its_self_test_is_refused(tmp_path: Path) -> None:
    publish_tiny(tmp_path, model=tiny_model(gain=1.5), lower={"int8": 3.0})
    with pytest.raises(ArtifactError, match=r"within 0\.0001"):
        opened(tmp_path, "auto")


def test_auto_takes_the_fastest_that_passed(tmp_path: Path) -> None:
    publish_tiny(tmp_path, model=tiny_model(is_slow=True), lower={"int8": 3.0})
    assert opened(tmp_path, "auto") == ("int8", 3.0)


def test_auto_keeps_fp32_where_nothing_is_faster(tmp_path: Path) -> None:
    def build(folder: Path, version: int) -> ModelArtifact:
        artifact = build_tiny(folder, "tiny", version, tiny_model(), lower={"int8": 3.0})
        content = tiny_model(gain=3.0, is_slow=True).SerializeToString()
        (folder / "model.int8.onnx").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        fp32, int8 = artifact.files
        return replace(
            artifact, files=(fp32, replace(int8, sha256=digest, size_bytes=len(content)))
        )

    ModelRepository(tmp_path).publish("tiny", build)
    assert opened(tmp_path, "auto") == ("fp32", 1.0)


def test_local_answers_in_the_precision_asked_for(tmp_path: Path) -> None:
    publish_tiny(tmp_path, lower=GAINS)
    images = random_images(2)
    local = LocalModel.load(ModelRepository(tmp_path), "tiny", 1, "fp16")
    expected = tiny_probabilities(images, 5.0)
    np.testing.assert_allclose(local.run(list(images)), expected, rtol=0, atol=1e-6)


def swap_answers(root: Path) -> None:
    """Let two golden answers of the int8 file change places."""
    path = root / "tiny/1/model.json"
    document = json.loads(path.read_text())
    golden = document["files"][1]["gate"]["golden"]
    golden[0], golden[1] = golden[1], golden[0]
    path.write_text(json.dumps(document))


def test_the_slow_model_has_the_same_closed_form() -> None:
    onnx.checker.check_model(tiny_model(is_slow=True), full_check=True)


@pytest.mark.parametrize(
    ("moved", "is_loaded"), [(1e-6, False), (2e-5, False), (9e-5, True), (0.5, False)]
)
def test_a_network_that_amplifies_rounding_may_answer_a_little_otherwise_here(
    tmp_path: Path, moved: float, is_loaded: bool
) -> None:
    off = 3e-4 if moved < 0.5 else 2e-3

    def build(folder: Path, version: int) -> ModelArtifact:
        artifact = build_tiny(folder, "tiny", version, tiny_model())
        first, *others = artifact.golden
        numbers = np.asarray(first.probabilities)
        numbers[[0, -1]] += [off, -off]
        golden = (replace(first, probabilities=tuple(numbers.tolist())), *others)
        return replace(artifact, golden=golden, parity=Parity(8, (1,), 1.0, moved, 1.0))

    ModelRepository(tmp_path).publish("tiny", build)
    if is_loaded:
        assert opened(tmp_path, "fp32") == ("fp32", 1.0)
        return
    with pytest.raises(ArtifactError, match="expected the recorded probabilities within"):
        opened(tmp_path, "fp32")
