"""What labelled images show of an adopted model: scores, calibration, precisions, thresholds."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from PIL import Image

from export.answers import Expected
from export.diagnose import check_folders
from export.errors import AdoptError
from export.examine import Wanted
from models.artifact import Precision
from models.describe import describe
from models.machine import multiplies_whole
from scoring.local import LocalModel
from tests.export.adopting import PIPELINE, Own
from tests.export.own import LABELS, network, pictures


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


@pytest.mark.thorough
def test_lower_precisions_pass_their_gate_on_the_users_images(own: Own, tmp_path: Path) -> None:
    model = network("convolution")
    own.files = pictures(tmp_path / "many", 100)
    # Weights of 7 bits, as CPUs before VNNI need, cost a random network more than its gate allows.
    lower: tuple[Precision, ...] = ("int8", "fp16") if multiplies_whole() else ("fp16",)
    wanted = Wanted(precisions=lower)
    artifact = own(model, images=tmp_path / "many", wanted=wanted)
    gates = [file.gate for file in artifact.files]
    assert [file.precision for file in artifact.files] == ["fp32", *lower]
    for gate in gates[1:]:
        assert gate is not None
        assert (gate.split, gate.images, gate.accuracy) == ("given", 50, None)
        assert gate.label_agreement >= 0.98
        assert 0 < gate.max_probability_difference < 0.3
    own.repository.verify("own", 1)
    assert "of fp32's labels" in str(describe(artifact))
    with pytest.raises(AdoptError, match="expected at least 100 --images"):
        own(model, wanted=wanted)


def large(folder: Path, count: int, noise: int) -> list[Path]:
    """JPEGs of 288 pixels and more, in whole eighths; stripes are lost at a part of the size."""
    generator = np.random.default_rng(7)
    folder.mkdir(parents=True)
    for number in range(count):
        coarse = generator.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        size = 8 * int(generator.integers(36, 50)), 8 * int(generator.integers(36, 50))
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), int)
        stripes = noise * (np.indices(smooth.shape)[1] % 2 * 2 - 1)
        pixels = Image.fromarray((smooth + stripes).clip(0, 255).astype(np.uint8))
        pixels.save(folder / f"{number:02}.jpg", quality=95)
    return sorted(folder.iterdir())


@pytest.mark.thorough
def test_scaled_decoding_passes_a_gate_on_the_users_images(own: Own, tmp_path: Path) -> None:
    model, wanted = network("convolution"), Wanted(scaled_decoding=True)
    own.files = large(tmp_path / "smooth", 60, 0)
    expected = PIPELINE.answer(model, own.files)
    artifact = own(model, expected, images=tmp_path / "smooth", wanted=wanted)
    assert artifact.image.scaled_decoding
    assert artifact.proof is not None and artifact.proof.images == 60, "of files decoded whole"
    own.repository.verify("own", 1)
    files = large(tmp_path / "lines", 60, 120)  # what is clipped is another colour on average
    with pytest.raises(AdoptError, match=r"on 60 given .* 98.00% of whole decoding"):
        own(model, images=tmp_path / "lines", wanted=wanted)
    for file in files[49:]:
        file.unlink()
    with pytest.raises(AdoptError, match="expected at least 50 --images to measure it on, got 49"):
        own(model, images=tmp_path / "lines", wanted=wanted)
    pictures(tmp_path / "lines", 30)
    with pytest.raises(AdoptError, match=r"at least 50 JPEGs .* 72 pixels or more, got 49"):
        own(model, images=tmp_path / "lines", wanted=wanted)
    assert own.repository.versions("own") == [1]


@pytest.mark.thorough
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


@pytest.mark.thorough
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
    first = Expected(tuple(own.files), expected, "labels.npy", is_labels_only=True)
    with pytest.raises(AdoptError, match=r"labels\.npy: expected a probability for each label"):
        own(model, first, images=tmp_path / "val", threshold="0.6")
    for wanted, name in (
        (Wanted(calibrate=True), "--calibrate"),
        (Wanted(abstain_precision=0.9), "--abstain-precision"),
    ):
        with pytest.raises(AdoptError, match=rf"{name}: .* got a multi-label model, whose thresh"):
            own(model, images=tmp_path / "val", wanted=wanted)


def test_a_folders_label_need_not_be_the_most_probable_of_several() -> None:
    """Beaches show the sky, too: only labels that an image does not get speak for another order."""
    both = np.array([[0.9, 0.8]] * 20, np.float32)
    targets_N = np.array([0, 1] * 10)
    swapped = np.where(targets_N[:, None] == [[1, 0]], 0.9, 0.1).astype(np.float32)
    labels = ("beach", "sky")
    for answers_NK in (both, both[:, ::-1]):
        assert check_folders(targets_N, answers_NK, labels, (0.5, 0.5)) is None
    turned = np.where(targets_N[:, None] == [[0, 1]], 0.8, 0.9).astype(np.float32)
    assert check_folders(targets_N, turned, labels, (0.5, 0.5)) is None
    for thresholds in ((), (0.5, 0.5)):
        said = check_folders(targets_N, swapped, labels, thresholds)
        assert said is not None and "labels: in another order" in said
    said = check_folders(targets_N, turned, labels)
    assert said is not None, "of one label an image the first one counts"


def quantized(model: onnx.ModelProto, files: list[Path], folder: Path) -> onnx.ModelProto:
    """As onnxruntime's own tools write int8, with ranges from the user's images."""

    class Rows(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self.left = [{"data": PIPELINE.prepare(file)[None]} for file in files]

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return self.left.pop() if self.left else None

    onnx.save(model, folder / "fp32.onnx")
    quantize_static(
        folder / "fp32.onnx", folder / "int8.onnx", Rows(), quant_format=QuantFormat.QDQ
    )
    return onnx.load(folder / "int8.onnx")


@pytest.mark.thorough
def test_a_statically_quantized_file_says_int8_and_what_was_compared(
    own: Own, tmp_path: Path
) -> None:
    model = network("convolution")
    own.files = labelled(tmp_path, model, 60, 6)
    small = quantized(model, own.files[:20], tmp_path)
    expected = PIPELINE.answer(small, own.files)
    targets_N = np.array([LABELS.index(file.parent.name) for file in own.files])
    artifact = own(small, expected, images=tmp_path / "val")
    assert artifact.metrics is not None and artifact.proof is not None
    right = float((expected.argmax(axis=1) == targets_N).mean())
    assert artifact.metrics.accuracy == pytest.approx(right, abs=1 / 60)
    assert (artifact.metrics.images, artifact.proof.images) == (60, 60)
    assert (artifact.proof.label_agreement, artifact.proof.tolerance) == (1, 0.05)
    story = describe(artifact)
    texts = dict(story)
    assert texts["file"].startswith("model.onnx: int8, ")
    assert texts["proof"].endswith("(limit 0.05)")
    assert own.repository.load("own", 1).files[0].computes == "int8"
    own.repository.verify("own", 1)
    other = (replace(PIPELINE, bgr=True)).answer(small, own.files)
    with pytest.raises(AdoptError, match=r"with --channels BGR all 60 agree"):
        own(small, other, images=tmp_path / "val", force=True)


@pytest.mark.thorough
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
