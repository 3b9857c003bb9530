"""Forms as browsers send them, and bodies with a content coding, on /predict and /classify."""

import base64
import gzip
import zlib
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from models.image import encode_png
from tests.server import RunningServer, Wire, assert_error
from tests.tiny import assert_own_result, random_images

pytestmark = pytest.mark.e2e

IMAGE = random_images(1, seed=2)[0]
PNG = encode_png(IMAGE)
LARGE = encode_png(np.random.default_rng(3).integers(0, 256, (400, 400, 1), dtype=np.uint8))
PATHS = ["/predict", "/classify"]


def raw_deflate(body: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-15)
    return encoder.compress(body) + encoder.flush()


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "X-GZip": gzip.compress,
    "deflate": zlib.compress,
    "DEFLATE": raw_deflate,
    "identity": bytes,
    "": bytes,
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_text_field_named_filename_is_no_file(
    client: httpx.Client, path: str, is_first: bool
) -> None:
    parts = [("filename", (None, b"boot.png")), ("image", ("boot.png", PNG))]
    answer = client.post(path, files=parts if is_first else parts[::-1])
    (result,) = answer.json()["results"]
    assert_own_result(result, IMAGE)


@pytest.mark.parametrize("path", PATHS)
def test_an_empty_file_input_is_passed_over(client: httpx.Client, path: str) -> None:
    """Chromium and Firefox send this for ``<input type=file>`` in which nothing was chosen."""
    headers = {"content-type": "multipart/form-data; boundary=b"}
    empty = (
        b'--b\r\nContent-Disposition: form-data; name="%s"; filename=""\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n\r\n"
    )
    image = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="i.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + PNG + b"\r\n"
    )
    body = empty % b"image" + image + empty % b"other" + b"--b--\r\n"
    (result,) = client.post(path, content=body, headers=headers).json()["results"]
    assert_own_result(result, IMAGE)
    answer = client.post(path, content=empty % b"image" + b"--b--\r\n", headers=headers)
    assert_error(answer, 400, "expected (at least one|a) file, got none")


def form_of(client: httpx.Client, image: bytes) -> tuple[bytes, dict[str, str]]:
    form = client.build_request("POST", "/", files={"image": ("i.png", image)})
    return form.read(), {"content-type": form.headers["content-type"]}


@pytest.mark.parametrize("image", [PNG, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("path", ["/predict", "/classify", "form"])
def test_a_coded_body_has_the_answer_of_the_plain_one(
    client: httpx.Client, path: str, coding: str, image: bytes
) -> None:
    body, headers = form_of(client, image)
    if path == "/predict":
        body, headers = image, {}
    url = path.replace("form", "/predict")
    wanted = client.post(url, content=body, headers=headers)
    headers["content-encoding"] = coding
    for _ in range(3):  # a head that is known by now
        answer = client.post(url, content=CODINGS[coding](body), headers=headers)
        assert (answer.status_code, answer.content) == (200, wanted.content)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("coding", "body", "status", "match"),
    [
        ("br", PNG, 415, "content-encoding: expected gzip or deflate, got 'br'"),
        ("zstd", PNG, 415, "expected gzip or deflate, got 'zstd'"),
        ("gzip, gzip", gzip.compress(gzip.compress(PNG)), 415, "expected gzip or deflate"),
        ("gzip", PNG, 400, "expected gzip data, as content-encoding says, got .*PNG"),
        ("gzip", b"\x1f\x8b" + bytes(30), 400, "expected gzip data"),
        ("gzip", b"", 400, "expected gzip data"),
        ("gzip", gzip.compress(PNG) + gzip.compress(PNG), 400, "behind it"),
        ("deflate", zlib.compress(PNG)[:-5], 400, "complete deflate data"),
        ("deflate", b"\xff" * 99, 400, "expected deflate data"),
        ("gzip", gzip.compress(bytes(40 << 20), 1), 413, "FOVEAL_MAX_BODY_BYTES"),
        ("deflate", zlib.compress(bytes(40 << 20), 1), 413, "FOVEAL_MAX_BODY_BYTES"),
        ("gzip", gzip.compress(b"no image"), 400, ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_coded_body_is_refused(
    client: httpx.Client, path: str, coding: str, body: bytes, status: int, match: str
) -> None:
    answer = client.post(path, content=body, headers={"content-encoding": coding})
    assert_error(answer, status, match)
    assert client.post("/predict", content=PNG).status_code == 200


def test_two_lines_of_codings_are_two_codings(server: RunningServer) -> None:
    """The last one alone would be undone, and the rest taken for a broken image."""
    body = gzip.compress(zlib.compress(PNG))
    lines = b"Content-Encoding: deflate\r\nContent-Encoding: gzip\r\n"
    request = b"POST /predict HTTP/1.1\r\nHost: a\r\n%sContent-Length: %d\r\n\r\n%s"
    wire = Wire(server)
    answer = wire.send(request % (lines, len(body), body)).answer()
    wire.close()
    assert_error(answer, 415, "got 'deflate, gzip'")


def test_a_large_form_to_classify_is_read_on_a_thread(client: httpx.Client) -> None:
    body = form_of(client, bytes(3 << 20))
    assert_error(client.post("/classify", content=body[0], headers=body[1]), 400, "expected JPEG")
    padded = LARGE + bytes(3 << 20)  # a PNG ends at its last chunk
    wanted = client.post("/predict", content=LARGE)
    answer = client.post("/classify", files={"image": ("i.png", padded)})
    assert (answer.status_code, answer.content) == (200, wanted.content)
    cut, headers = form_of(client, padded)
    assert_error(client.post("/classify", content=cut[:-9], headers=headers), 400, "closing")


@pytest.mark.parametrize("start", ["", "data:image/png;base64,"])
def test_an_image_as_text_is_named(client: httpx.Client, start: str) -> None:
    """As scripts send what they would put into JSON, and pages a canvas's URL."""
    text = start.encode() + base64.b64encode(PNG)
    answer = client.post("/predict", content=text, headers={"content-type": "image/png"})
    assert_error(answer, 400, "image: expected JPEG.*; it is text in base64: send the bytes$")
    answer = client.post("/predict", json={"image": text.decode()})
    assert_error(answer, 415, "got 'application/json'; send the image's bytes as the body$")


def test_a_content_type_without_a_value_is_none(server: RunningServer) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type:\r\nContent-Length: %d\r\n\r\n"
    with Wire(server) as wire:
        answer = wire.send(head % len(PNG) + PNG).answer()
    (result,) = answer.json()["results"]
    assert_own_result(result, IMAGE)
