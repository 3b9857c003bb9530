"""The graphs that the onnx package ships for its own tests, adopted and served."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.adopt import Request, adopt
from export.options import Options
from export.sandbox import Bounds, run_bounded
from models.image import decode, encode_png
from models.repository import ModelRepository
from tests.export.foreign import LIGHT
from tests.server import RunningServer, running_server
from tests.tiny import publish_tiny

LABELS = tuple(f"class {i}" for i in range(1000))
QUICK = ("squeezenet", pytest.param("shufflenet", marks=pytest.mark.thorough))
SLOW = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "vgg19",
    "zfnet512",
)  # with weights of their own, up to 575 MB of them
EVERY = (*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def lively(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give random weights to a graph whose own are all alike, so that answers differ by image."""
    generator = np.random.default_rng(3)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            nodes.append(node)
            continue
        shape = [int(side) for side in shapes[node.input[0]].ravel()]
        if len(shape) == 1 and is_factor(model.graph, node.output[0]):
            weights = generator.uniform(0.5, 1.0, shape)
        elif len(shape) == 1:
            weights = generator.normal(0, 0.05, shape)
        else:
            weights = generator.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        named = numpy_helper.from_array(weights.astype(np.float32), node.output[0])
        model.graph.initializer.append(named)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.ir_version = 8
    last = [node for node in model.graph.node if node.op_type in ("Gemm", "Conv")][-1]
    pixels = generator.normal(0, 1, (1, 3, 224, 224)).astype(np.float32)
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.append(onnx.ValueInfoProto(name=last.output[0]))
    scores = run_bounded(shown.SerializeToString(), [pixels], Bounds())[0][0]
    for tensor in model.graph.initializer:  # logits of about 1: a softmax that is not one-hot
        if tensor.name in last.input[1:]:
            weights = numpy_helper.to_array(tensor) / scores.std()
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    return model


def is_factor(graph: onnx.GraphProto, name: str) -> bool:
    """Whether a vector is a scale or a variance, as against a bias, shift or mean."""
    (node,) = (node for node in graph.node if name in node.input)
    if node.op_type == "Unsqueeze":
        return is_factor(graph, node.output[0])
    place = list(node.input).index(name)
    return node.op_type == "Mul" or (node.op_type == "BatchNormalization" and place in (1, 4))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A service of a tiny model, which is told what was adopted."""
    folder = tmp_path_factory.mktemp("adopted")
    publish_tiny(folder / "models")
    with running_server(
        folder / "models",
        folder,
        max_batch_size=3,
        threads=1,
        request_timeout_s=60,
        admin_token="secret",
    ) as running:
        yield running


@contextlib.contextmanager
def served(server: RunningServer, name: str) -> Iterator[str]:
    """Load a model and give the address that predicts with it; then unload it."""
    for verb in ("load", "unload"):
        url = f"{server.url}/v2/repository/models/{name}/{verb}"
        headers = {"Authorization": "Bearer secret"}
        assert httpx.post(url, headers=headers, timeout=300).status_code == 200
        if verb == "load":
            yield f"{server.url}/models/{name}/predict"


@pytest.mark.e2e
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", EVERY)
def test_a_known_architecture_is_adopted_and_served(
    name: str, server: RunningServer, tmp_path: Path
) -> None:
    """Fixed batch of 1, opset 9, weights from ConstantOfShape: as they come from the package."""
    repository = ModelRepository(server.log_path.parent / "models")
    options = Options(scale=1 / 255, mean=MEAN, std=STD, resize="crop")
    adopt(Request(LIGHT / f"light_{name}.onnx", LABELS, options), f"{name}-as-is", repository)
    alive = lively(onnx.load(LIGHT / f"light_{name}.onnx"))
    (tmp_path / "alive.onnx").write_bytes(alive.SerializeToString())
    artifact = adopt(Request(tmp_path / "alive.onnx", LABELS, options), f"{name}-alive", repository)
    assert artifact.parity is not None and artifact.parity.label_agreement == 1

    generator = np.random.default_rng(5)
    images = [generator.integers(0, top, (224, 300, 3), dtype=np.uint8) for top in (32, 128, 256)]
    files = [(str(i), encode_png(image)) for i, image in enumerate(images)]
    pixels = np.stack([decode(encoded, artifact.image) for _, encoded in files])
    prepared = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    prepared = prepared.transpose(0, 3, 1, 2).astype(np.float32)
    runs = run_bounded(alive.SerializeToString(), [row[None] for row in prepared], Bounds())
    expected = np.concatenate([output[0].reshape(1, 1000) for output in runs])
    if name == "densenet121":  # its graph ends before the softmax
        powers = np.exp(expected - expected.max(axis=1, keepdims=True))
        expected = powers / powers.sum(axis=1, keepdims=True)

    with served(server, f"{name}-alive") as url, served(server, f"{name}-as-is") as same_url:
        results = httpx.post(f"{url}?top=1000", files=files, timeout=60).json()
        for result, probabilities in zip(results["results"], expected, strict=True):
            got = np.zeros(1000)
            for ranked in result["predictions"]:
                assert ranked["label"] == LABELS[ranked["index"]]
                got[ranked["index"]] = ranked["probability"]
            np.testing.assert_allclose(got, probabilities, rtol=0, atol=1e-4)
        (same,) = httpx.post(same_url, content=files[0][1], timeout=60).json()["results"]
        assert same["predictions"][0]["probability"] == pytest.approx(0.001)
    assert np.ptp(expected, axis=0).max() > 1e-4, "answers must tell images apart"
