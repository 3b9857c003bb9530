"""The routes that the page asks: models, cards, golden images, and the pixels that a model sees."""

import gzip
import io

import httpx
import numpy as np
import pytest
from PIL import Image

from models.image import Pixels, decode, encode_png
from models.repository import ModelRepository
from tests.server import ROOT, RunningServer, Wire, assert_error, get
from tests.tiny import random_images

pytestmark = pytest.mark.e2e

SHIPPED = ModelRepository(ROOT / "models")
PICTURE = np.random.default_rng(5).integers(0, 256, (700, 900, 3), dtype=np.uint8)


def jpeg(pixels_HWC: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels_HWC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def test_index_names_models_versions_and_the_default(client: httpx.Client) -> None:
    (tiny,) = client.get("/models").json()["models"]
    assert client.get("/models").json()["default"] == "tiny"
    assert tiny == {
        "name": "tiny",
        "version": 1,
        "versions": [1, 2],
        "shadow": None,
        "canary": None,
    }


def test_card_says_what_the_artifact_says(shipped: RunningServer) -> None:
    for name in SHIPPED.names():
        artifact = SHIPPED.load(*SHIPPED.resolve(name))
        card = shipped.get(f"/models/{name}").json()
        assert card == shipped.get(f"/models/{name}/versions/{artifact.version}").json()
        assert (card["model"], card["version"]) == (name, artifact.version)
        assert card["labels"] == list(artifact.labels)
        assert artifact.metrics is not None
        assert card["metrics"]["accuracy"] == artifact.metrics.accuracy
        assert card["metrics"]["per_class"] == list(artifact.metrics.per_class)
        assert card["image"]["height"] == artifact.image.height
        assert artifact.provenance is not None
        assert card["provenance"]["dataset"] == artifact.provenance.dataset
        assert not {"command", "dataset_sha256"} & set(card["provenance"])
        assert card["golden"] == [golden.label for golden in artifact.golden]
        assert card["runs_on"]["device"] == "cpu"


def test_golden_images_are_the_published_files(shipped: RunningServer) -> None:
    artifact = SHIPPED.load(*SHIPPED.resolve("digits-cnn"))
    route = f"/models/digits-cnn/versions/{artifact.version}/golden"
    for number, golden in enumerate(artifact.golden):
        answer = shipped.get(f"{route}/{number}")
        assert answer.headers["content-type"] == "image/png"
        assert answer.content == SHIPPED.read_file(artifact, golden.path)
    for wrong in (str(len(artifact.golden)), "-1", "x", "%C2%B2", "9" * 50):
        assert_error(shipped.get(f"{route}/{wrong}"), 404, "golden image")


@pytest.mark.parametrize("name", ["cifar10-cnn", "digits-cnn"])
def test_pixels_are_those_that_decoding_gives(shipped: RunningServer, name: str) -> None:
    """A small PNG, and a photograph that a thread decodes; plain and compressed."""
    spec = SHIPPED.load(*SHIPPED.resolve(name)).image
    small = encode_png(random_images(1)[0])
    for encoded in (small, jpeg(PICTURE)):
        for coding, body in (("identity", encoded), ("gzip", gzip.compress(encoded))):
            headers = {"Content-Encoding": coding}
            answer = httpx.post(
                f"{shipped.url}/models/{name}/pixels", content=body, headers=headers, timeout=60
            )
            assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
            seen = np.asarray(Image.open(io.BytesIO(answer.content)))
            expected = decode(encoded, spec)
            np.testing.assert_array_equal(seen.reshape(expected.shape), expected)


def test_pixels_are_bounded_as_predictions_are(two_wires: RunningServer) -> None:
    def post(body: bytes, path: str = "/pixels", **headers: str) -> httpx.Response:
        return httpx.post(f"{two_wires.url}{path}", content=body, headers=headers, timeout=60)

    many = encode_png(np.zeros((200, 200, 1), np.uint8))
    assert_error(post(many), 413, "expected at most 10000 pixels")
    assert_error(post(b"no image"), 400, "^image: expected JPEG")
    assert_error(post(b""), 400, "^image: expected")
    assert_error(post(many, **{"content-type": "multipart/form-data; boundary=x"}), 400, "a form")
    assert_error(post(many, **{"x-request-timeout-ms": "0"}), 400, "X-Request-Timeout-Ms")
    assert_error(post(many, "/models/nobody/pixels"), 404, "nobody")
    assert_error(post(many, "/models/tiny/versions/7/pixels"), 404, "tiny:7")
    assert_error(httpx.get(f"{two_wires.url}/pixels"), 405, "expected POST with an image")
    small = encode_png(random_images(1)[0])
    before = two_wires.metric("foveal_requests_total", protocol="pixels", status="200")
    assert post(small, "/models/tiny/versions/2/pixels").status_code == 200
    after = two_wires.metric("foveal_requests_total", protocol="pixels", status="200")
    assert after == before + 1
    assert two_wires.metric("foveal_queue_rows") == 0


def test_what_is_below_models_takes_get_only(server: RunningServer) -> None:
    with Wire(server) as wire:
        for path in ("/models", "/models/tiny", "/models/tiny/versions/1"):
            assert wire.send(get(path, method="HEAD")).answer("HEAD").status == 200
            answer = wire.send(get(path, method="DELETE")).answer()
            assert_error(answer, 405, "expected GET")
        for path in ("/models/", "/models//versions/1", "/models/tiny/versions/", "/models/x/y"):
            assert_error(wire.send(get(path)).answer(), 404, "")
        answer = wire.send(get("/models/nobody")).answer()
        assert_error(answer, 404, 'model "nobody": expected one of tiny:1, tiny:2')


def test_page_is_answered_with_its_policy(server: RunningServer) -> None:
    with Wire(server) as wire:
        page = wire.send(get("/")).answer()
        assert page.status == 200 and b"<title>Foveal</title>" in page.body
        assert "script-src 'self';" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        known = wire.send(get("/", f"If-None-Match: {page.headers['etag']}")).answer()
        assert (known.status, known.body) == (304, b"")
        assert known.headers["content-length"] == str(len(page.body))
        assert wire.send(get("/docs")).answer().status == 200  # the connection goes on
        assert_error(wire.send(get("/page/nothing.js")).answer(), 404, "no such route")
