"""/classify: the same engine as a method of BentoML's."""

from pathlib import Path
from typing import Any

import bentoml
import httpx
import orjson
import pytest

from models.image import encode_png
from tests.server import RunningServer, assert_error
from tests.tiny import assert_own_result, random_images

pytestmark = pytest.mark.e2e

IMAGES = random_images(64, seed=2)
PNGS = [encode_png(image) for image in IMAGES]


@pytest.fixture
def image_path(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(PNGS[8])
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_classify_with_bentomls_client(server: RunningServer, image_path: Path) -> None:
    with bentoml.SyncHTTPClient(server.url) as client:
        said: dict[str, Any] = client.classify(image=image_path)
        assert_own_result(said["results"][0], IMAGES[8])
        said = client.classify(image=image_path, model="tiny", version=2, top=2)
        assert said["version"] == 2
        assert_own_result(said["results"][0], IMAGES[8], gain=2.0, top=2)
        client._temp_dir.cleanup()  # left to the collector, its warning would hit another test


def test_classify_and_predict_agree(client: httpx.Client) -> None:
    classified = client.post("/classify", files={"image": ("i.png", PNGS[9], "image/png")})
    predicted = client.post("/predict", content=PNGS[9])
    assert classified.status_code == 200, classified.text
    assert orjson.loads(classified.content) == orjson.loads(predicted.content)


@pytest.mark.parametrize(
    ("content", "fields", "status", "match"),
    [
        (b"no image", {}, 400, "expected JPEG, PNG, WebP, GIF"),
        (b"", {}, 400, "empty body"),
        (PNGS[0], {"model": "large"}, 404, "expected one of tiny:1"),
        (PNGS[0], {"model": "a/b"}, 404, "a/b"),
        (PNGS[0], {"model": "tiny", "version": "7"}, 404, "expected one of tiny:1"),
        (PNGS[0], {"version": "7"}, 404, "tiny:7"),
        (PNGS[0], {"top": "0"}, 400, "top: expected a whole number"),
        (PNGS[0], {"top": "many"}, 400, "top"),
    ],
)
def test_classify_errors(
    client: httpx.Client, content: bytes, fields: dict[str, str], status: int, match: str
) -> None:
    response = client.post(
        "/classify", data=fields, files={"image": ("i.png", content, "image/png")}
    )
    assert_error(response, status, match)


def test_classify_without_an_image(client: httpx.Client) -> None:
    assert_error(client.post("/classify", data={"top": "1"}), 400, "image")
    assert_error(client.post("/classify", json={}), 400, "image")
    assert_error(
        client.post("/classify", content=b"{", headers={"content-type": "application/json"}),
        400,
        "JSON",
    )
    assert_error(client.get("/classify"), 405, "method not allowed")
