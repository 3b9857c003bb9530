"""Encoded file in, probabilities out: a user's own answers against those of the adopted model."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper
from PIL import Image

from export.adopt import Request, adopt
from export.answers import Expected
from export.errors import AdoptError
from export.examine import Wanted
from export.options import Options
from export.sandbox import Bounds
from models.artifact import ModelArtifact, Resize
from models.describe import describe
from models.repository import ModelRepository
from scoring.local import LocalModel
from tests.export.foreign import save
from tests.export.own import KINDS, LABELS, MEAN, SIDE, STD, Pipeline, network, pictures
from tests.shell import Shell

PIPELINE = Pipeline()
# What a user says who knows the pipeline.
TOLD: dict[str, Any] = {
    "scale": 1 / 255,
    "mean": MEAN,
    "std": STD,
    "resize": 18,
    "filter": "bicubic",
}
FILES = 24


@dataclass
class Own:
    """A user's files, and a way to adopt."""

    folder: Path
    files: list[Path]
    repository: ModelRepository

    def __call__(
        self,
        model: onnx.ModelProto,
        expected: Expected | Path | NDArray[np.float32] | None = None,
        *,
        labels: tuple[str, ...] = LABELS,
        images: Path | None = None,
        wanted: Wanted | None = None,
        force: bool = False,
        **told: Any,
    ) -> ModelArtifact:
        if isinstance(expected, np.ndarray):
            expected = Expected(tuple(self.files), expected, "evaluate.py")
        request = Request(
            save(model, self.folder),
            labels,
            Options(**(TOLD | told)),
            (images or self.folder / "pictures",),
            Bounds(seconds=60),
            "foveal adopt foreign.onnx",
            expected=expected,
            wanted=wanted or Wanted(),
            force=force,
        )
        return adopt(request, "own", self.repository)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return pictures(tmp_path_factory.mktemp("own") / "pictures", FILES)


@pytest.fixture
def own(files: list[Path], tmp_path: Path) -> Own:
    return Own(files[0].parent.parent, files, ModelRepository(tmp_path / "models"))


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
@pytest.mark.parametrize("fault", FAULTS)
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


def test_answers_that_nothing_explains_are_said_so(own: Own) -> None:
    other = PIPELINE.answer(network("patches"), own.files)
    with pytest.raises(AdoptError, match=r"pixels or graph: .* of the same weights"):
        own(network("convolution"), other)


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


def labelled(folder: Path, model: onnx.ModelProto, count: int, wrong: int) -> list[Path]:
    """Pictures in folders named by what the model answers, some of them in the next one."""
    flat = pictures(folder / "flat", count)
    answers_N = PIPELINE.answer(model, flat).argmax(axis=1)
    for number, (file, answer) in enumerate(zip(flat, answers_N, strict=True)):
        label = LABELS[(answer + (number < wrong)) % len(LABELS)]
        (folder / "val" / label).mkdir(parents=True, exist_ok=True)
        file.rename(folder / "val" / label / file.name)
    return sorted((folder / "val").rglob("*.png"), key=lambda file: file.parts)


def test_folders_named_as_labels_give_scores(own: Own, tmp_path: Path) -> None:
    model = network("convolution")
    own.files = labelled(tmp_path, model, 60, 6)
    artifact = own(model, PIPELINE.answer(model, own.files), images=tmp_path / "val")
    assert artifact.metrics is not None
    assert (artifact.metrics.split, artifact.metrics.images) == ("given", 60)
    assert artifact.metrics.accuracy == pytest.approx(54 / 60)
    assert artifact.temperature == 1
    sizes = Counter(file.parent.name for file in own.files)
    (one, _), (other, _) = sizes.most_common(2)
    swapped = tuple({one: other, other: one}.get(label, label) for label in LABELS)
    with pytest.raises(AdoptError, match=r"labels: in another order .*correct the order of"):
        own(model, images=tmp_path / "val", labels=swapped)
    (tmp_path / "val" / "other").mkdir()
    own.files[0].rename(tmp_path / "val" / "other" / "stray.png")
    with pytest.raises(AdoptError, match=r"stray\.png: expected a folder named as a label"):
        own(model, images=tmp_path / "val")


def test_calibration_and_abstaining_are_fitted_where_they_are_asked(
    own: Own, tmp_path: Path
) -> None:
    model = network("convolution")
    own.files = labelled(tmp_path, model, 120, 30)
    expected = PIPELINE.answer(model, own.files)
    wanted = Wanted(calibrate=True, abstain_precision=0.6)
    artifact = own(model, expected, images=tmp_path / "val", wanted=wanted)
    assert artifact.metrics is not None and artifact.abstain is not None
    assert artifact.temperature != 1
    assert artifact.metrics.images == 60, "half of them is measured on"
    assert artifact.metrics.calibration_error_before is not None
    assert artifact.abstain.measured.split == "given"
    assert artifact.proof is not None and artifact.proof.max_probability_difference < 1e-5
    local = LocalModel.load(own.repository, "own", 1)  # replays the golden images
    got = local.run([local.decode(file.read_bytes()) for file in own.files])
    scaled = np.log(expected.astype(np.float64)) / artifact.temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    np.testing.assert_allclose(got, powers / powers.sum(axis=1, keepdims=True), atol=1e-4)
    with pytest.raises(AdoptError, match="--calibrate: expected labelled images"):
        own(model, images=own.folder / "pictures", wanted=Wanted(calibrate=True))


def test_lower_precisions_pass_their_gate_on_the_users_images(own: Own, tmp_path: Path) -> None:
    model = network("convolution")
    own.files = pictures(tmp_path / "many", 100)
    wanted = Wanted(precisions=("int8", "fp16"))
    artifact = own(model, images=tmp_path / "many", wanted=wanted)
    gates = [file.gate for file in artifact.files]
    assert [file.precision for file in artifact.files] == ["fp32", "int8", "fp16"]
    for gate in gates[1:]:
        assert gate is not None
        assert (gate.split, gate.images, gate.accuracy) == ("given", 50, None)
        assert gate.label_agreement >= 0.98
        assert 0 < gate.max_probability_difference < 0.3
    own.repository.verify("own", 1)
    assert "of fp32's labels" in str(describe(artifact))
    with pytest.raises(AdoptError, match="expected at least 100 --images"):
        own(model, wanted=wanted)


def test_weights_beside_the_graph_are_calibrated_and_converted(own: Own, tmp_path: Path) -> None:
    """More than 64 KiB of one weight: the graph at work does not hold it."""
    model = network("convolution")
    wide = np.random.default_rng(3).normal(0, 0.2, (128, 160)).astype(np.float32)
    for name, weight in (("wide", wide), ("back", np.linalg.pinv(wide))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    place = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Gemm")
    model.graph.node[place].input[0] = "again"
    model.graph.node.insert(place, helper.make_node("MatMul", ["widened", "back"], ["again"]))
    model.graph.node.insert(place, helper.make_node("MatMul", ["flat", "wide"], ["widened"]))
    own.files = labelled(tmp_path, model, 120, 30)
    expected = PIPELINE.answer(model, own.files)
    wanted = Wanted(calibrate=True, precisions=("fp16",), max_accuracy_drop=0.05)
    artifact = own(model, expected, images=tmp_path / "val", wanted=wanted)
    assert artifact.temperature != 1
    assert [file.precision for file in artifact.files] == ["fp32", "fp16"]
    own.repository.verify("own", 1)
    local = LocalModel.load(own.repository, "own", 1)
    got = local.run([local.decode(file.read_bytes()) for file in own.files])
    np.testing.assert_array_equal(got.argmax(axis=1), expected.argmax(axis=1))


def sigmoids(model: onnx.ModelProto, files: list[Path]) -> NDArray[np.float32]:
    """End a network in a sigmoid a label, and answer as its user does."""
    model.graph.node[-1].output[0] = "scores"
    model.graph.node.append(helper.make_node("Sigmoid", ["scores"], ["answer"]))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    rows = [session.run(None, {"data": PIPELINE.prepare(file)[None]})[0] for file in files]
    probabilities: NDArray[np.float32] = np.concatenate(rows)
    return probabilities


def test_several_labels_are_those_above_their_thresholds(own: Own, tmp_path: Path) -> None:
    model = network("convolution")
    files = pictures(tmp_path / "flat", 40)
    expected = sigmoids(model, files)
    targets_N = expected.argmax(axis=1)
    for file, target in zip(files, targets_N, strict=True):
        (tmp_path / "val" / LABELS[target]).mkdir(parents=True, exist_ok=True)
        file.rename(tmp_path / "val" / LABELS[target] / file.name)
    found = {file.name: file for file in (tmp_path / "val").rglob("*.png")}
    order = sorted(range(40), key=lambda row: found[files[row].name].parts)
    own.files = [found[files[row].name] for row in order]
    expected = expected[order]
    artifact = own(model, expected, images=tmp_path / "val", threshold="0.6")
    assert artifact.task == "multi-label"
    assert artifact.proof is not None and artifact.proof.label_agreement == 1
    is_only_N = ((expected >= 0.6) == np.eye(len(LABELS), dtype=bool)[targets_N[order]]).all(axis=1)
    assert 0 < is_only_N.mean() < 1
    assert artifact.metrics is not None
    assert artifact.metrics.accuracy == pytest.approx(is_only_N.mean())
    other = expected.copy()
    row, label = np.argwhere(expected < 0.5)[0]
    other[row, label] = 0.7  # not the most probable one: the first label stays
    with pytest.raises(AdoptError, match=r"got 97.50% of the labels"):
        own(model, other, images=tmp_path / "val", threshold="0.6")
    for wanted, name in (
        (Wanted(calibrate=True), "--calibrate"),
        (Wanted(abstain_precision=0.9), "--abstain-precision"),
    ):
        with pytest.raises(AdoptError, match=rf"{name}: .* got a multi-label model, whose thresh"):
            own(model, images=tmp_path / "val", wanted=wanted)


def test_a_worse_version_asks_for_force(own: Own, tmp_path: Path) -> None:
    model = network("convolution")
    labelled(tmp_path, model, 60, 0)
    own(model, images=tmp_path / "val")
    worse: dict[str, Any] = {"filter": "nearest", "resize": "crop"}
    with pytest.raises(AdoptError, match=r"own:1 serves and is right on 100.00% of the same 60"):
        own(model, images=tmp_path / "val", **worse)
    with pytest.raises(AdoptError, match="expected labelled images to compare with it on"):
        own(model)
    names = tuple(label.upper() for label in LABELS)
    with pytest.raises(AdoptError, match=r"--force publishes it nevertheless"):
        own(model, labels=names)
    assert own.repository.versions("own") == [1]
    assert own(model, images=tmp_path / "val").version == 2
    assert own(model, images=tmp_path / "val", force=True, **worse).version == 3


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
