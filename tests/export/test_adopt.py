import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from export.errors import AdoptError
from models.artifact import Resize
from models.image import encode_png
from models.onnx_file import summarize
from models.repository import ModelRepository
from scoring.local import LocalModel, verify
from tests.export.conftest import Adopt
from tests.export.foreign import LABELS, SIDE, foreign_model, foreign_probabilities, save
from tests.server import ROOT
from tests.shell import Shell

GRAPHS: dict[str, dict[str, Any]] = {
    "nchw": {},
    "nhwc": {"layout": "NHWC"},
    "uint8": {"elem_type": TensorProto.UINT8, "layout": "NHWC"},
    "grey": {"channels": 1},
    "softmax": {"ending": "softmax"},
    "log softmax": {"ending": "log_softmax"},
    "four axes": {"ending": "4d"},
    "batch of 1": {"batch": 1},
    "batch of 3": {"batch": 3, "ending": "softmax"},
    "opset 11": {"opset": 11},
}


def pixels(count: int, channels: int = 3) -> NDArray[np.uint8]:
    generator = np.random.default_rng(7)
    return generator.integers(0, 256, (count, SIDE, SIDE, channels), dtype=np.uint8)


def answers(repository: ModelRepository, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return LocalModel.load(repository, "foreign", 1).run(list(images))


@pytest.mark.parametrize("graph", GRAPHS)
def test_an_adopted_graph_answers_as_the_network_does(
    adopted: Adopt, repository: ModelRepository, graph: str
) -> None:
    """Against a second implementation in NumPy, fed the pixels as they are."""
    model = foreign_model(**GRAPHS[graph])
    artifact = adopted(model, **({"layout": "NHWC"} if graph == "uint8" else {}))
    images = pixels(5, artifact.image.channels)
    expected = foreign_probabilities(images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(answers(repository, images), expected, rtol=0, atol=2e-5)
    assert artifact.parity is not None
    assert artifact.parity.batch_sizes == (1, 2, 7)
    assert artifact.parity.label_agreement == 1
    assert verify(repository) == {"foreign:1": "ok"}
    summary = summarize(repository.read_model(artifact, "model.onnx"))
    assert summary.metadata["foveal.name"] == "foreign"
    assert len(artifact.golden) == 8
    assert artifact.metrics is None


def test_a_graph_is_adopted_beside_the_onnxruntime_of_a_gpu(
    adopted: Adopt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is of another distribution, onnxruntime-gpu: asking for this one's version failed."""
    real = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    versions = adopted(foreign_model()).provenance.versions
    assert versions["onnxruntime"] == onnxruntime.__version__


def test_pixels_are_scaled_normalised_and_reordered_as_told(
    adopted: Adopt, repository: ModelRepository
) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    adopted(foreign_model(), scale=1 / 255, mean=mean, std=std, channels="BGR")
    images = pixels(5)
    values = (images[..., ::-1] / 255 - np.array(mean)) / np.array(std)
    expected = foreign_probabilities(values.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(answers(repository, images), expected, rtol=0, atol=2e-6)
    assert np.abs(expected - expected[:1]).max() > 0.01, "answers must tell images apart"


def test_half_precision_graphs_answer_to_their_own_digits(
    adopted: Adopt, repository: ModelRepository
) -> None:
    adopted(foreign_model(elem_type=TensorProto.FLOAT16), scale=1 / 255)
    images = pixels(5)
    expected = foreign_probabilities(images.transpose(0, 3, 1, 2) / 255)
    np.testing.assert_allclose(answers(repository, images), expected, rtol=0, atol=5e-3)


def test_probabilities_without_a_softmax_get_their_logarithm_as_logits(
    adopted: Adopt, repository: ModelRepository
) -> None:
    model = foreign_model(ending="hidden_softmax")
    with pytest.raises(AdoptError, match="foreign"):
        adopted(model, labels=LABELS[:3], gives="probabilities", scale=1 / 255)
    adopted(model, gives="probabilities", scale=1 / 255)
    images = pixels(5)
    expected = foreign_probabilities(images.transpose(0, 3, 1, 2) / 255)
    np.testing.assert_allclose(answers(repository, images), expected, rtol=0, atol=2e-6)


def test_an_open_size_is_given(adopted: Adopt) -> None:
    model = foreign_model(side="side")
    with pytest.raises(AdoptError, match="expected --size, its shape"):
        adopted(model)
    artifact = adopted(model, size=(6, 10), resize="crop")
    assert artifact.image.shape_HWC == (6, 10, 3)
    assert artifact.image.resize == Resize("shorter", "bilinear")


def test_given_images_are_verified_on_and_become_golden(adopted: Adopt, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, pixels(3), strict=True):
        path.write_bytes(encode_png(image))
    artifact = adopted(foreign_model(), images=tuple(paths), scale=1 / 255)
    assert artifact.parity is not None and artifact.parity.images == 3
    expected = foreign_probabilities(pixels(3).transpose(0, 3, 1, 2) / 255)
    got = [golden.probabilities for golden in artifact.golden]
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)
    assert [g.label for g in artifact.golden] == [LABELS[i] for i in expected.argmax(axis=1)]
    paths[1].write_bytes(b"no image")
    with pytest.raises(AdoptError, match=r"1\.png: image: expected"):
        adopted(foreign_model(), images=tuple(paths))


def first_row_only(batch: int) -> onnx.ModelProto:
    """A graph that answers its first row in every place: no rewriting frees that."""
    model = foreign_model(batch=batch)
    nodes = model.graph.node
    ends = [onnx.numpy_helper.from_array(np.array([n], np.int64), f"n{n}") for n in (0, 1)]
    model.graph.initializer.extend(ends)
    nodes[-1].input[0] = "first"
    cut = onnx.helper.make_node("Slice", ["scores", "n0", "n1", "n0"], ["first"])
    nodes.insert(len(nodes) - 1, cut)
    return model


def test_a_batch_size_that_cannot_be_rewritten_runs_row_by_row(
    adopted: Adopt, repository: ModelRepository, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = adopted(first_row_only(1), scale=1 / 255)
    assert "runs 1 row at a time" in caplog.text
    assert artifact.parity is not None and artifact.parity.batch_sizes == (1, 2, 7)
    images = pixels(5)
    expected = foreign_probabilities(images.transpose(0, 3, 1, 2) / 255)
    np.testing.assert_allclose(answers(repository, images), expected, rtol=0, atol=2e-6)


def test_a_free_batch_size_that_does_not_run_is_run_row_by_row(
    adopted: Adopt, repository: ModelRepository, caplog: pytest.LogCaptureFixture
) -> None:
    """Its input says any number of rows, a reshape within says one."""
    model = foreign_model()
    for tensor in model.graph.initializer:
        if tensor.name == "shape":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 16], np.int64), "shape"))
    adopted(model, scale=1 / 255)
    assert "runs 1 row at a time" in caplog.text
    images = pixels(3)
    expected = foreign_probabilities(images.transpose(0, 3, 1, 2) / 255)
    np.testing.assert_allclose(answers(repository, images), expected, rtol=0, atol=2e-6)


def test_a_statically_quantized_graph_says_so(adopted: Adopt) -> None:
    """A pixel that lies between two steps may fall on either: no difference that counts."""
    model = foreign_model()
    nodes = model.graph.node
    for name, value in (("step", np.float32(1 / 100)), ("zero", np.uint8(0))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    nodes[0].input[0] = "steps"
    for kind, given, made in (
        ("DequantizeLinear", "small", "steps"),
        ("QuantizeLinear", "data", "small"),
    ):
        nodes.insert(0, onnx.helper.make_node(kind, [given, "step", "zero"], [made]))
    artifact = adopted(model, scale=1 / 255)
    assert artifact.provenance is not None
    assert "adopted from foreign.onnx, int8, verified" in artifact.provenance.dataset


def test_a_graph_that_mixes_rows_is_refused(adopted: Adopt, repository: ModelRepository) -> None:
    model = foreign_model()
    nodes = model.graph.node
    nodes[-1].input[0] = "mixed"
    mean = onnx.helper.make_node("ReduceMean", ["scores"], ["of_batch"], axes=[0], keepdims=1)
    nodes.insert(len(nodes) - 1, mean)
    mix = onnx.helper.make_node("Sub", ["scores", "of_batch"], ["mixed"])
    nodes.insert(len(nodes) - 1, mix)
    with pytest.raises(AdoptError, match="not published: this graph mixes the rows of a batch"):
        adopted(model)
    assert not repository.root.exists()


def test_a_network_that_amplifies_rounding_may_differ_by_a_few_roundings(
    adopted: Adopt, caplog: pytest.LogCaptureFixture
) -> None:
    """As deep networks with sharp probabilities do: no other order of the same sums is nearer."""

    def amplifier(gain: float) -> onnx.ModelProto:
        model = foreign_model()
        nodes = model.graph.node
        nodes[-1].input[0] = "waves"
        model.graph.initializer.append(numpy_helper.from_array(np.array(gain, np.float32), "gain"))
        for kind, given, made in (
            ("Mul", ["scores", "gain"], "large"),
            ("Sin", ["large"], "waves"),
        ):
            nodes.insert(len(nodes) - 1, onnx.helper.make_node(kind, given, [made]))
        return model

    options: dict[str, Any] = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406)}
    options["std"] = (0.229, 0.224, 0.225)
    parity = adopted(amplifier(1e4), **options).parity
    assert parity is not None and 1e-4 < parity.max_probability_difference <= 1e-3
    assert "moves its probabilities by up to" in caplog.text
    with pytest.raises(AdoptError, match=r"within 0\.001 and the same labels"):
        adopted(amplifier(1e5), **options)


def test_answers_that_prove_little_are_warned_of(
    adopted: Adopt, caplog: pytest.LogCaptureFixture
) -> None:
    adopted(foreign_model(), scale=1 / 255)
    assert not caplog.records
    model = foreign_model()
    for tensor in model.graph.initializer:
        if tensor.name == "last":
            tensor.raw_data = bytes(len(tensor.raw_data))
    adopted(model, scale=1 / 255)
    assert "every image got the same answer" in caplog.text


def test_a_stray_file_of_ours_needs_no_labels(adopted: Adopt, repository: ModelRepository) -> None:
    shipped = ModelRepository(ROOT / "models").load("digits-cnn", 2)
    path = ROOT / "models/digits-cnn/2/model.onnx"
    artifact = adopted(onnx.load(path), labels=())
    assert artifact.labels == shipped.labels
    assert artifact.temperature == pytest.approx(shipped.temperature)
    ours = ModelRepository(ROOT / "models")
    images = [
        LocalModel.load(repository, "foreign", 1).decode(ours.read_file(shipped, g.path))
        for g in shipped.golden
    ]
    expected = [golden.probabilities for golden in shipped.golden]
    np.testing.assert_allclose(answers(repository, np.stack(images)), expected, rtol=0, atol=1e-5)


def test_the_command_adopts_by_flags_over_toml(
    tmp_path: Path, repository: ModelRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(foreign_model(), tmp_path)
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(LABELS))
    toml = tmp_path / "pixels.toml"
    toml.write_text('scale = "1/255"\nmean = [0.1, 0.2, 0.3]\nchannels = "RGB"\nresize = "pad"\n')
    shell = Shell(capsys, repository.root)
    words = ("adopt", file, "--name", "foreign", "--labels", labels, "--toml", toml)
    said = shell(*words, "--channels", "BGR", "--std", "0.5")
    assert (said.code, said.error) == (0, "")
    assert said.out == f"foreign:1 published in {repository.root}/foreign/1\n"
    images = pixels(3)
    values = (images[..., ::-1] / 255 - np.array([0.1, 0.2, 0.3])) / 0.5
    expected = foreign_probabilities(values.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(answers(repository, images), expected, rtol=0, atol=2e-6)
    assert repository.load("foreign", 1).image.resize == Resize("longer", "bilinear")
    labels.write_text("north\nnorth\nsouth\nwest\n")
    assert shell(*words).code == 0
    assert repository.load("foreign", 2).labels == ("north", "north", "south", "west")
    labels.write_text("north\n\nsouth\nwest\n")
    said = shell(*words)
    assert (said.code, said.error) == (
        1,
        f"{labels}: label 2: expected a label, got an empty one\n",
    )
    said = shell("adopt", file, "--name", "foreign")
    assert (said.code, said.error.count("\n")) == (1, 1)
    assert "expected --labels" in said.error


def test_resize_256_crop_224(adopted: Adopt, repository: ModelRepository) -> None:
    """Golden images pass through the resize too, and a picture loses what the crop cuts off."""
    model = foreign_model(side="side")
    artifact = adopted(model, size=(6, 6), resize=8, scale=1 / 255)
    assert artifact.image.resize == Resize("shorter", "bilinear", 8, 8)
    local = LocalModel.load(repository, "foreign")  # replays the golden images
    picture = np.zeros((80, 80, 3), np.uint8)
    picture[10:70, 10:70] = 200
    assert (local.decode(encode_png(picture)) > 150).all()
