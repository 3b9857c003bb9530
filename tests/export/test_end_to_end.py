"""Encoded file in, probabilities out: a user's own answers against those of the adopted model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from export.errors import AdoptError
from export.options import Options
from models.artifact import Resize
from models.describe import describe
from scoring.local import LocalModel
from tests.export.adopting import FILES, PIPELINE, TOLD, Own
from tests.export.foreign import save
from tests.export.own import KINDS, LABELS, SIDE, network, pictures
from tests.shell import Shell


def test_the_users_own_answers_are_those_of_the_published_model(own: Own) -> None:
    model = network("convolution")
    expected = PIPELINE.answer(model, own.files)
    assert len(set(expected.argmax(axis=1))) >= 4, "answers must tell the pictures apart"
    artifact = own(model, expected)
    assert artifact.proof is not None
    assert artifact.proof.reference == "evaluate.py"
    assert artifact.proof.images == FILES
    assert artifact.proof.label_agreement == 1
    assert artifact.proof.max_probability_difference < 1e-5
    assert artifact.metrics is None
    local = LocalModel.load(own.repository, "own", 1)
    got = local.run([local.decode(file.read_bytes()) for file in own.files])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    said = dict(describe(own.repository.load("own", 1)))
    assert said["proof"].startswith(f"{FILES} files, against evaluate.py: 100.00% same labels")


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "channels": ({"channels": "BGR"}, "pixels: RGB: with --channels RGB all 24 agree"),
    "scale": ({"scale": 1.0}, "pixels: scale: with --scale 1/255 all 24 agree"),
    "mean": (
        {"mean": (0.5,)},
        "pixels: mean: with --mean 0.485,0.456,0.406 all 24 agree",
    ),
    "crop": ({"resize": "crop"}, "pixels: crop: with --resize 18 all 24 agree"),
    "filter": (
        {"filter": "bilinear"},
        "pixels: filter: with --filter bicubic all 24 agree",
    ),
}


def swapped_labels(own: Own, model: onnx.ModelProto) -> None:
    expected = PIPELINE.answer(model, own.files)
    table = own.repository.root.parent / "answers.csv"
    rows = [
        ",".join((file.name, *(f"{p:.8f}" for p in row)))
        for file, row in zip(own.files, expected, strict=True)
    ]
    table.write_text("\n".join((",".join(("file", *LABELS)), *rows)))
    own(model, table)
    own(model, table, labels=("east", "north", *LABELS[2:]))


def training_norm(own: Own, model: onnx.ModelProto) -> None:
    """Statistics of the batch at hand: exported without ``model.eval()``."""
    names = {"mu": 0.0, "var": 1.0, "gain": 1.0, "offset": 0.0}
    present = {tensor.name for tensor in model.graph.initializer}
    first = model.graph.node[0]
    channels = next(t for t in model.graph.initializer if t.name == "kernel").dims[0]
    for name, value in names.items():
        if name not in present:
            values = np.full(channels, value, np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    if not any(node.op_type == "BatchNormalization" for node in model.graph.node):
        after, first.output[0] = first.output[0], "before_norm"
        inputs = ["before_norm", "gain", "offset", "mu", "var"]
        model.graph.node.insert(1, helper.make_node("BatchNormalization", inputs, [after]))
    norm = model.graph.node[1]
    norm.output.extend(("mean_out", "var_out"))
    norm.attribute.append(helper.make_attribute("training_mode", 1))
    own(model, np.full((FILES, len(LABELS)), 1 / len(LABELS), np.float32))


GRAPH_FAULTS = {
    "labels": (swapped_labels, r"labels: in another order \('east' at 1, 'north' at 0\)"),
    "training": (training_norm, r"BatchNormalization in training mode, .*: call eval\(\)"),
}
# One network in every run of the tests; the others with the slow ones.
NETWORKS = [KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=pytest.mark.thorough) if fault in ("mean", "filter") else fault
        for fault in FAULTS
    ],
)
def test_a_planted_fault_of_the_pixels_is_named(own: Own, kind: str, fault: str) -> None:
    model = network(kind)
    told, said = FAULTS[fault]
    with pytest.raises(AdoptError) as refused:
        own(model, PIPELINE.answer(model, own.files), **told)
    message = str(refused.value)
    assert message.endswith(said), message
    assert "\n" not in message
    assert message.count(".png (") == 3 or "100.00% of the labels" in message
    assert not own.repository.root.exists()


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("fault", GRAPH_FAULTS)
def test_a_planted_fault_of_labels_or_graph_is_named(own: Own, kind: str, fault: str) -> None:
    plant, said = GRAPH_FAULTS[fault]
    with pytest.raises(AdoptError, match=said):
        plant(own, network(kind))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_frozen_batch_is_named_and_run_row_by_row(
    own: Own, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the first row is looked at: what tracing with one image can leave."""
    model = network(kind)
    nodes = model.graph.node
    for end in (0, 1):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([end]), f"n{end}"))
    nodes[-1].output[0] = "scores"
    nodes.append(helper.make_node("Slice", ["scores", "n0", "n1", "n0"], ["answer"]))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    artifact = own(model, PIPELINE.answer(model, own.files))
    assert "its batch size is fixed to 1 in a way that cannot be undone here" in caplog.text
    assert artifact.proof is not None and artifact.proof.label_agreement == 1


@pytest.mark.thorough
def test_faults_that_come_together_are_named_together(own: Own) -> None:
    """What a user gets who gives no option at all."""
    model = network("convolution")
    plain = Options()
    told = {name: getattr(plain, name) for name in TOLD}
    with pytest.raises(AdoptError) as refused:
        own(model, PIPELINE.answer(model, own.files), **told)
    message = str(refused.value)
    assert "pixels: scale, mean, std, resize and crop, filter: with " in message
    assert "--scale 1/255 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225" in message
    assert message.endswith("--resize 18 --filter bicubic all 24 agree"), message


def test_answers_of_a_model_in_training_mode_are_named(own: Own) -> None:
    model = network("norm")
    trained = network("norm")
    norm = trained.graph.node[1]
    norm.op_type = "InstanceNormalization"
    del norm.input[3:]
    with pytest.raises(AdoptError, match=r"batch norm: .* call model.eval\(\) in your pipeline"):
        own(model, PIPELINE.answer(trained, own.files))


@pytest.mark.thorough
def test_answers_that_nothing_explains_are_said_so(own: Own) -> None:
    other = PIPELINE.answer(network("patches"), own.files)
    with pytest.raises(AdoptError, match=r"pixels or graph: .* of the same weights"):
        own(network("convolution"), other)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["turned", "transparent"])
def test_turned_and_transparent_files_are_named(own: Own, tmp_path: Path, kind: str) -> None:
    """The user's pipeline opens files as most do: as they are stored, without transparency."""
    folder = tmp_path / "pictures"
    for number, file in enumerate(pictures(folder, 12)):
        image = Image.open(file)
        exif = image.getexif()
        if kind == "turned" and number % 3 == 0:
            exif[0x0112] = 6
        if kind == "transparent" and number % 3 == 0:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(file, exif=exif.tobytes())
    own.files = sorted(folder.iterdir(), key=lambda file: file.parts)
    model = network("convolution")
    expected = PIPELINE.answer(model, own.files)
    with pytest.raises(AdoptError) as refused:
        own(model, expected, images=folder)
    said = "pixels: loader: with --loader pillow all 12 agree"
    assert str(refused.value).endswith(said), refused.value
    artifact = own(model, expected, images=folder, loader="pillow")
    assert artifact.proof is not None


def test_the_command_takes_folders_and_answers(
    own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network("convolution")
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(LABELS))
    answers = tmp_path / "answers.npy"
    np.save(answers, PIPELINE.answer(model, own.files))
    shell = Shell(capsys, own.repository.root)
    words = (
        *("adopt", save(model, tmp_path), "--name", "own", "--labels", labels, "--resize", "crop"),
        *("--scale", "1/255", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"),
        *("--images", own.folder / "pictures", "--expected", answers),
    )
    said = shell(*words)
    assert (said.code, said.error.count("\n")) == (1, 1)
    assert said.error.endswith("with --resize 18 --filter bicubic all 24 agree\n"), said.error
    np.save(
        answers,
        replace(PIPELINE, resize=16, filter=Image.Resampling.BILINEAR).answer(model, own.files),
    )
    said = shell(*words)
    assert (said.code, said.error) == (0, "")
    assert said.out.endswith(f"; 24 files answered as {answers} says\n")
    assert own.repository.load("own", 1).image.resize == Resize("shorter", "bilinear")
    assert own.repository.load("own", 1).image.height == SIDE
