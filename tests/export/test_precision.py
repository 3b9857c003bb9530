from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from export.errors import ExportError, GateError
from export.precision import check_gate, convert, find_body
from export.proof import Answers
from export.run import measure_gate, open_session, run_images
from models.artifact import ImageSpec, Precision
from models.image import decode
from models.onnx_file import summarize
from models.repository import ModelRepository
from scoring.local import LocalModel, verify
from tests.shell import Shell
from training.datasets.sources import Dataset, load_dataset
from training.datasets.splits import Split
from training.graph import ServedNetwork, export_onnx
from training.initial import untrained
from training.layers import ImageShape
from training.pipeline import export, train
from training.recipes import resolve

pytestmark = pytest.mark.training

Squares = Callable[..., Dataset]
GraphOf = Callable[[str, Dataset], bytes]
LOWER: tuple[Precision, ...] = ("int8", "fp16")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    options = {"epochs": 8, "widths": (16, 32), "depth": 1, "ema": 0.0, "dropout": 0.0, "lr": 0.01}
    return train(resolve("digits", "cnn", folder, **options))


@pytest.fixture(scope="module")
def repository(run: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    repository = ModelRepository(tmp_path_factory.mktemp("models"))
    export(run, "digits", repository, ("fp32", *LOWER))
    return repository


@pytest.fixture(scope="module")
def graphs() -> dict[tuple[str, ImageShape], bytes]:
    """The graphs that ``graph_of`` made: an export takes seconds."""
    return {}


@pytest.fixture
def graph_of(graphs: dict[tuple[str, ImageShape], bytes]) -> GraphOf:
    """Export an untrained network for the images of a dataset, once for all tests."""

    def export_once(network: str, dataset: Dataset) -> bytes:
        key = (network, dataset.image_shape)
        if key not in graphs:
            torch.manual_seed(0)
            config = resolve(dataset.name, network, Path("run"))
            served = ServedNetwork(untrained(config, dataset), temperature=2.0)
            graphs[key] = export_onnx(served, dataset.image_shape).SerializeToString()
        return graphs[key]

    return export_once


def run_split(content: bytes, split: Split) -> Answers:
    return run_images(open_session(content), split.images_NHWC)


@pytest.mark.parametrize("precision", LOWER)
def test_figures_in_model_json_are_those_of_the_published_file(
    repository: ModelRepository, precision: Precision
) -> None:
    artifact = repository.verify("digits", 1)
    file = artifact.file(precision)
    assert file is not None and file.gate is not None
    test = load_dataset("digits").test
    _, expected_NK = run_split(repository.read_model(artifact, "model.onnx"), test)
    _, got_NK = run_split(repository.read_model(artifact, file.path), test)
    labels_N, expected_N = got_NK.argmax(axis=1), expected_NK.argmax(axis=1)
    assert artifact.metrics is not None
    assert file.gate.images == len(test) == 359
    assert file.gate.accuracy is not None
    assert file.gate.accuracy == (labels_N == test.targets_N).mean()
    assert file.gate.accuracy_drop == artifact.metrics.accuracy - file.gate.accuracy
    assert file.gate.label_agreement == (labels_N == expected_N).mean() >= 0.98
    assert file.gate.max_probability_difference == np.abs(got_NK - expected_NK).max()
    assert 0 < file.gate.max_probability_difference < 0.2


@pytest.mark.parametrize("precision", LOWER)
def test_a_lower_file_is_smaller_keeps_the_contract_and_its_stamp(
    repository: ModelRepository, precision: Precision
) -> None:
    artifact = repository.verify("digits", 1)
    fp32 = summarize(repository.read_model(artifact, "model.onnx"))
    lower = summarize(repository.read_model(artifact, f"model.{precision}.onnx"))
    assert (lower.inputs, lower.outputs) == (fp32.inputs, fp32.outputs)
    assert lower.metadata == fp32.metadata
    assert lower.domains == ("",)
    file = artifact.file(precision)
    assert file is not None and file.size_bytes < 0.75 * artifact.fp32.size_bytes


@pytest.mark.parametrize("precision", LOWER)
def test_the_softmax_stays_in_fp32(repository: ModelRepository, precision: Precision) -> None:
    artifact = repository.verify("digits", 1)
    test = load_dataset("digits").test
    logits_NK, probabilities_NK = run_split(
        repository.read_model(artifact, f"model.{precision}.onnx"), test
    )
    scaled = logits_NK.astype(np.float64) / artifact.temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities_NK, expected, rtol=0, atol=1e-6)
    assert (probabilities_NK != probabilities_NK.astype(np.float16)).mean() > 0.9


def test_every_precision_replays_its_golden_images(repository: ModelRepository) -> None:
    assert verify(repository) == {"digits:1": "ok"}
    artifact = repository.load("digits", 1)
    for precision in LOWER:
        local = LocalModel.load(repository, "digits", precision=precision)
        file = artifact.file(precision)
        assert file is not None and file.gate is not None
        images = [
            decode(repository.read_file(artifact, golden.path), ImageSpec("L", 8, 8))
            for golden in artifact.golden
        ]
        for image, golden in zip(images, file.gate.golden, strict=True):
            assert local.run([image])[0].tolist() == list(golden)


def test_the_story_tells_what_each_file_lost(
    repository: ModelRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Shell(capsys, repository.root)("models", "show", "digits").out
    artifact = repository.load("digits", 1)
    for precision in LOWER:
        file = artifact.file(precision)
        assert file is not None and file.gate is not None
        assert f"{precision} on 359 test images: accuracy {file.gate.accuracy:.2%}" in shown
        assert f"{file.gate.label_agreement:.2%} of fp32's labels" in shown


def test_answers_of_int8_do_not_depend_on_the_batch(repository: ModelRepository) -> None:
    local = LocalModel.load(repository, "digits", 1, "int8")
    images = list(load_dataset("digits").test.images_NHWC[:64])
    whole = local.run(images)
    assert [local.run([image])[0].tolist() for image in images] == whole.tolist()


def test_a_failing_gate_stops_the_export_and_publishes_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ranges taken from black images clip everything: a real quantizer's real failure."""

    def blind(
        model: onnx.ModelProto, precision: Precision, train_NHWC: NDArray[np.uint8]
    ) -> onnx.ModelProto:
        return convert(model, precision, np.zeros_like(train_NHWC))

    monkeypatch.setattr("training.publish.convert", blind)
    said = Shell(capsys, tmp_path)("export", run, "--name", "digits", "--precision", "int8")
    assert said.code == 1
    assert said.error.count("\n") == 1
    assert "int8 on 359 test images: expected accuracy to fall by at most 0.50 points" in said.error
    assert "not published" in said.error
    assert list(tmp_path.iterdir()) == []


def test_limits_of_the_gate_are_inclusive_and_refuse_not_a_number(
    graph_of: GraphOf, squares: Squares
) -> None:
    dataset = squares()
    content = graph_of("cnn", dataset)
    _, expected_NK = run_split(content, dataset.test)
    images_NHWC, right_N = dataset.test.images_NHWC, expected_NK.argmax(axis=1)
    gate = measure_gate(expected_NK, content, images_NHWC, right_N, images_NHWC[:1], 0.0)
    assert (gate.accuracy, gate.accuracy_drop, gate.label_agreement) == (1, 0, 1)
    check_gate(gate, "int8")
    one_wrong = np.roll(expected_NK, 1, axis=1)
    moved = measure_gate(one_wrong, content, images_NHWC, right_N, images_NHWC[:1], 1.0)
    with pytest.raises(GateError, match=r"98.00% of fp32's labels, got .* and 0.00%"):
        check_gate(moved, "int8")
    nothing = measure_gate(
        expected_NK * np.nan, content, images_NHWC, right_N, images_NHWC[:1], 1.0
    )
    with pytest.raises(GateError):
        check_gate(nothing, "fp16")
    assert set(asdict(gate)) >= {"accuracy", "accuracy_drop", "label_agreement"}


@pytest.mark.parametrize(
    "network",
    [
        "fcnn",
        "cnn",
        *(pytest.param(name, marks=pytest.mark.thorough) for name in ("resnet", "speednet")),
    ],
)
@pytest.mark.parametrize("precision", LOWER)
def test_the_body_of_every_network_is_converted(
    graph_of: GraphOf, squares: Squares, network: str, precision: Precision
) -> None:
    dataset = squares(channels=3, side=16)
    content = graph_of(network, dataset)
    model = onnx.load_from_string(content)
    lower = convert(model, precision, dataset.train.images_NHWC)
    kinds = [node.op_type for node in lower.graph.node]
    assert ("QuantizeLinear" if precision == "int8" else "Cast") in kinds
    assert lower.graph.node[-1].op_type == "Softmax"
    assert model.SerializeToString() == content
    _, expected_NK = run_split(content, dataset.test)
    _, got_NK = run_split(lower.SerializeToString(), dataset.test)
    assert 0 < np.abs(got_NK - expected_NK).max() < 0.1


@pytest.mark.thorough
def test_the_body_leaves_out_scaling_last_layer_and_softmax(
    graph_of: GraphOf, squares: Squares
) -> None:
    graph = onnx.load_from_string(graph_of("resnet", squares(3, 16))).graph
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
    body = find_body(graph)
    outside = [node.op_type for node in graph.node if node.name not in body]
    assert outside[:4] == ["Transpose", "Cast", "Mul", "Add"]
    assert outside[4:] == ["Gemm", "Div", "Softmax"]
    assert {name.split("_")[0] for name in body} >= {"Conv", "Relu", "Add"}


def test_a_network_of_one_layer_has_nothing_to_convert(graph_of: GraphOf, squares: Squares) -> None:
    dataset = squares()
    model = onnx.load_from_string(graph_of("neuron", dataset))
    with pytest.raises(ExportError, match="expected a layer before the last one"):
        convert(model, "int8", dataset.train.images_NHWC)
