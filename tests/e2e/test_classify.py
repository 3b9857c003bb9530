"""/classify: the lane answers it, for BentoML's client and any form."""

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bentoml
import httpx
import numpy as np
import orjson
import pytest
from bentoml.exceptions import BentoMLException

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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_classify_with_bentomls_asynchronous_client(
    server: RunningServer, image_path: Path
) -> None:
    async def ask() -> None:
        async with bentoml.AsyncHTTPClient(server.url) as client:
            said = await client.classify(image=image_path, model="tiny", version=2, top=2)
            assert said["version"] == 2
            assert_own_result(said["results"][0], IMAGES[8], gain=2.0, top=2)
            with pytest.raises(BentoMLException, match="expected one of tiny:1"):
                await client.classify(image=image_path, model="large")
            client._temp_dir.cleanup()

    asyncio.run(ask())


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
    assert_error(client.get("/classify"), 405, "expected POST")


def test_classify_a_photograph_and_within_a_deadline(client: httpx.Client) -> None:
    photograph = encode_png(np.zeros((1500, 1500, 1), np.uint8))  # decoded on a thread
    files = {"image": ("i.png", photograph, "image/png")}
    predicted = client.post("/predict", content=photograph)
    classified = client.post("/classify", files=files)
    assert (classified.status_code, classified.json()) == (200, predicted.json())
    late = client.post("/classify", files=files, headers={"x-request-timeout-ms": "x"})
    assert_error(late, 400, "X-Request-Timeout-Ms")


@pytest.fixture
def bait() -> Iterator[tuple[str, list[str]]]:
    """A web server on this machine, and the paths that it was asked for."""
    asked: list[str] = []

    class Bait(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PNGS[0])

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bait) as web:
        threading.Thread(target=web.serve_forever).start()
        yield f"http://127.0.0.1:{web.server_port}/image.png", asked
        web.shutdown()


def test_classify_fetches_and_opens_nothing(
    client: httpx.Client, bait: tuple[str, list[str]], image_path: Path
) -> None:
    """GHSA-mrmq-3q62-6cc8: a form's text, a JSON value and a body that is a URL were fetched."""
    url, asked = bait
    assert httpx.get(url).content == PNGS[0]  # it could be
    for value in (
        url,
        json.dumps(url),
        f"  {url}",
        str(image_path),
        image_path.as_uri(),
        "/dev/zero",
    ):
        for answer in (
            client.post("/classify", files={"image": (None, value)}),
            client.post("/classify", files={"image": (None, value), "top": (None, "1")}),
            client.post("/classify", data={"image": value}),
            client.post("/classify", json={"image": value}),
        ):
            assert_error(answer, 400, "expected a file|with a file")
        assert_error(
            client.post("/classify", files={"image": ("url", value)}), 400, "expected JPEG"
        )
        assert client.post("/classify", content=value).status_code == 400
    assert asked == ["/image.png"]
