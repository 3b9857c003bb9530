"""Triton's unmodified clients over every shipped model, on every wire, and the errors they meet."""

import base64
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from models.artifact import ModelArtifact
from models.image import decode
from models.repository import ModelRepository
from tests.e2e.triton import WIRES, Triton, objects, triton
from tests.server import ROOT, RunningServer

pytestmark = pytest.mark.e2e

REPOSITORY = ModelRepository(ROOT / "models")
NAMES = REPOSITORY.names()
EVERY_MODEL = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(params=WIRES)
def client(shipped: RunningServer, request: pytest.FixtureRequest) -> Iterator[Triton]:
    with triton(shipped, request.param) as opened:
        yield opened


@functools.cache
def golden_of(name: str) -> "Golden":
    return Golden(name)


class Golden:
    """A shipped model's golden images: encoded, decoded, and what each must be answered."""

    def __init__(self, name: str) -> None:
        self.artifact: ModelArtifact = REPOSITORY.load(*REPOSITORY.resolve(name))
        self.files = [REPOSITORY.read_file(self.artifact, g.path) for g in self.artifact.golden]
        self.pixels = np.stack([decode(file, self.artifact.image) for file in self.files])
        self.probabilities = np.array(
            [golden.probabilities for golden in self.artifact.golden], np.float32
        )

    def encoded(self, client: Triton) -> NDArray[np.object_]:
        """As the wire carries bytes: JSON as base64."""
        return objects([base64.b64encode(f) for f in self.files] if client.is_json else self.files)


def close(got: Any, expected: NDArray[np.float32]) -> None:
    assert got.dtype == np.float32 and got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


@EVERY_MODEL
def test_pixels(client: Triton, name: str) -> None:
    golden = golden_of(name)
    result = client.infer(name, [client.input(golden.pixels)], request_id="tag")
    close(result.as_numpy("probabilities"), golden.probabilities)
    logits = result.as_numpy("logits")
    assert (logits.argmax(1) == golden.probabilities.argmax(1)).all()
    response = result.get_response()
    identity = response["id"] if isinstance(response, dict) else response.id
    assert identity == "tag"


@EVERY_MODEL
def test_encoded_images_are_the_same_as_pixels(client: Triton, name: str) -> None:
    golden = golden_of(name)
    pixels = client.infer(name, [client.input(golden.pixels)])
    encoded = golden.encoded(client)
    for images in (encoded, encoded[:, None]):
        result = client.infer(name, [client.input(images)])
        for output in ("logits", "probabilities"):
            np.testing.assert_array_equal(result.as_numpy(output), pixels.as_numpy(output))


@EVERY_MODEL
def test_one_row_alone(client: Triton, name: str) -> None:
    golden = golden_of(name)
    result = client.infer(
        name, [client.input(golden.pixels[:1])], outputs=[client.output("probabilities")]
    )
    close(result.as_numpy("probabilities"), golden.probabilities[:1])
    assert result.as_numpy("logits") is None


@EVERY_MODEL
@pytest.mark.parametrize("classes", [1, 3, 10_000])
def test_classification(client: Triton, name: str, classes: int) -> None:
    golden = golden_of(name)
    labels = golden.artifact.labels
    result = client.infer(
        name,
        [client.input(golden.pixels)],
        outputs=[client.output("logits"), client.output("probabilities", classes)],
    )
    said = result.as_numpy("probabilities")
    assert said.shape == (len(golden.pixels), min(classes, len(labels)))
    for row, expected in zip(said, golden.probabilities, strict=True):
        texts = [text if isinstance(text, str) else text.decode() for text in row]
        values = [float(text.split(":")[0]) for text in texts]
        assert values == sorted(values, reverse=True)
        value, index, label = texts[0].split(":", 2)
        assert (int(index), label) == (expected.argmax(), labels[expected.argmax()])
        assert len(value.split(".")[1]) == 6
        assert abs(float(value) - expected.max()) < 1e-4


@EVERY_MODEL
def test_metadata_and_configuration(client: Triton, name: str) -> None:
    artifact = golden_of(name).artifact
    metadata = client.get_model_metadata(name, **as_json(client))
    assert metadata["name"] == name
    assert metadata["versions"] == [str(artifact.version)]
    assert metadata["platform"] == "onnx_onnxv1"
    for specs, told in ((artifact.inputs, "inputs"), (artifact.outputs, "outputs")):
        assert [
            (t["name"], t["datatype"], [int(size) for size in t["shape"]]) for t in metadata[told]
        ] == [(s.name, s.datatype, list(s.shape)) for s in specs]
    config = client.get_model_config(name, **as_json(client))
    config = config.get("config", config)
    assert config["name"] == name and config["max_batch_size"] == 16
    assert [int(d) for d in config["input"][0]["dims"]] == list(artifact.inputs[0].shape[1:])
    assert config["input"][0]["data_type"] == "TYPE_UINT8"
    assert config["input"][0]["format"] == "FORMAT_NHWC"


def test_health_and_index(client: Triton) -> None:
    assert client.is_server_live() and client.is_server_ready()
    for name in NAMES:
        version = str(golden_of(name).artifact.version)
        assert client.is_model_ready(name) and client.is_model_ready(name, version)
        assert not client.is_model_ready(name, "999")
    assert not client.is_model_ready("nothing")
    metadata = client.get_server_metadata(**as_json(client))
    assert metadata["name"] == "foveal"
    assert {"binary_tensor_data", "classification", "statistics"} <= set(metadata["extensions"])
    index = client.get_model_repository_index(**as_json(client))
    index = index if isinstance(index, list) else index["models"]
    assert [(model["name"], model["state"]) for model in index] == [(n, "READY") for n in NAMES]


def test_statistics_count_rows_and_runs(client: Triton) -> None:
    name = "digits-cnn"
    pixels = golden_of(name).pixels

    def counted() -> tuple[int, int, int]:
        (model,) = client.get_inference_statistics(name, **as_json(client))["model_stats"]
        sizes = {int(b["batch_size"]): b for b in model["batch_stats"]}
        runs_of_eight = int(sizes.get(8, {"compute_infer": {"count": 0}})["compute_infer"]["count"])
        success = int(model["inference_stats"]["success"]["count"])
        return int(model["inference_count"]), success, runs_of_eight

    client.infer(name, [client.input(pixels)])
    rows, success, runs = counted()
    client.infer(name, [client.input(pixels)])
    assert counted() == (rows + 8, success + 1, runs + 1)
    every = client.get_inference_statistics(**as_json(client))["model_stats"]
    assert [model["name"] for model in every] == NAMES


def test_parameters_are_accepted(client: Triton) -> None:
    golden = golden_of("digits-cnn")
    result = client.infer(
        "digits-cnn",
        [client.input(golden.pixels)],
        model_version="2",
        priority=1,
        timeout=5_000_000,
        sequence_id=3,
        sequence_start=True,
        parameters={"who": "me", "n": 1},
    )
    close(result.as_numpy("probabilities"), golden.probabilities)


def test_compression_both_ways(client: Triton) -> None:
    golden = golden_of("digits-cnn")
    for algorithm in ("gzip", "deflate"):
        if client.wire.startswith("http"):
            how = {
                "request_compression_algorithm": algorithm,
                "response_compression_algorithm": algorithm,
            }
        else:
            how = {"compression_algorithm": algorithm}
        pixels = np.tile(golden.pixels, (8, 1, 1, 1))
        result = client.infer("digits-cnn", [client.input(pixels)], **how)
        close(result.as_numpy("probabilities"), np.tile(golden.probabilities, (8, 1)))


ROW = np.zeros((1, 28, 28, 1), np.uint8)


@pytest.mark.parametrize(
    ("values", "datatype", "match"),
    [
        (np.zeros((1, 28, 28, 1), np.float32), "FP32", r"expected UINT8 \[-1, 28, 28, 1\], or B"),
        (np.zeros((1, 28, 28, 1), np.int8), "INT8", "got INT8"),
        (np.zeros((1, 28, 28, 1), np.int64), "INT64", "got INT64"),
        (np.zeros((1, 28, 28, 1), np.bool_), "BOOL", "got BOOL"),
        (np.zeros((1, 28, 28), np.uint8), "UINT8", r"expected UINT8 \[-1, 28, 28, 1\], got"),
        (np.zeros((1, 1, 28, 28), np.uint8), "UINT8", r"got UINT8 \[1, 1, 28, 28\]"),
        (np.zeros((784,), np.uint8), "UINT8", r"got UINT8 \[784\]"),
        (np.zeros((0, 28, 28, 1), np.uint8), "UINT8", "at least 1 row|expected .*data"),
        (np.zeros((513, 28, 28, 1), np.uint8), "UINT8", "at most 512 rows, got 513"),
        (objects([b"bm8gaW1hZ2U="]), "BYTES", r"\[0\]: image: expected JPEG, PNG, WebP, GIF"),
        (np.array([[b"AAAA", b"AAAA"]], object), "BYTES", r"expected BYTES \[-1\] or \[-1, 1\]"),
    ],
)
def test_wrong_tensors(client: Triton, values: NDArray[Any], datatype: str, match: str) -> None:
    with pytest.raises(InferenceServerException, match=match):
        client.infer("fashion-fcnn", [client.input(values, datatype=datatype)])
    assert client.infer("fashion-fcnn", [client.input(ROW)]).as_numpy("logits").shape == (1, 10)


def test_wrong_names(client: Triton) -> None:
    good = [client.input(ROW)]
    listed = f"expected one of {golden_of('cifar10-cnn').artifact.reference}"
    not_found = ("404", "StatusCode.NOT_FOUND")
    invalid = ("400", "StatusCode.INVALID_ARGUMENT")
    for statuses, match, named, words in (
        (not_found, listed, "nothing", {"inputs": good}),
        (
            not_found,
            listed,
            "fashion-fcnn",
            {"inputs": good, "model_version": "7"},
        ),
        (
            invalid,
            'expected "images", got "image"',
            "fashion-fcnn",
            {"inputs": [client.input(ROW, "image")]},
        ),
        (invalid, 'expected one, "images", got 2', "fashion-fcnn", {"inputs": good * 2}),
        (
            invalid,
            "expected logits or probabilities",
            "fashion-fcnn",
            {"inputs": good, "outputs": [client.output("label")]},
        ),
        (
            invalid,
            "got one twice",
            "fashion-fcnn",
            {"inputs": good, "outputs": [client.output("logits"), client.output("logits")]},
        ),
    ):
        with pytest.raises(InferenceServerException, match=match) as refused:
            client.infer(named, **words)
        assert refused.value.status() in statuses


def test_time_out_in_microseconds(client: Triton) -> None:
    with pytest.raises(InferenceServerException, match="deadline passed") as refused:
        client.infer("fashion-fcnn", [client.input(ROW)], timeout=1)
    assert refused.value.status() in ("504", "StatusCode.DEADLINE_EXCEEDED")


def as_json(client: Triton) -> dict[str, bool]:
    return {} if client.wire.startswith("http") else {"as_json": True}
