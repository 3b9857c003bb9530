"""/predict and its forms, as clients use them."""

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from models.image import encode_png
from tests.server import Answer, RunningServer, Wire, assert_error, post, running_server
from tests.tiny import LABELS, SIDE, assert_own_result, random_images

pytestmark = pytest.mark.e2e

IMAGES = random_images(64, seed=2)
PNGS = [encode_png(image) for image in IMAGES]


@pytest.fixture(scope="module")
def narrow(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server whose rows are held back, with small limits."""
    with running_server(
        tiny_repository,
        tmp_path_factory.mktemp("narrow"),
        max_queue_delay_ms=1000,
        max_request_rows=3,
        max_image_pixels=10_000,
    ) as running:
        yield running


def rotten() -> bytes:
    """A JPEG whose decoder warns of damage and then gives up: it answered with what came before."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    good = file.getvalue()
    middle = len(good) // 2
    return good[:middle] + b"\xff\xf5" + good[middle + 2 :]


def files(*contents: bytes) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("file", (f"{i}.png", content, "image/png")) for i, content in enumerate(contents)]


def at_once(server: RunningServer, requests: list[bytes]) -> list[Answer]:
    """Send each request on its own connection, all at the same moment."""
    barrier = threading.Barrier(len(requests))

    def send(request: bytes) -> Answer:
        with Wire(server) as wire:
            barrier.wait()
            return wire.send(request).answer()

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(send, requests))


# Forms of a request


@pytest.mark.parametrize(
    "content_type", ["image/png", "IMAGE/PNG", "image/*", "application/octet-stream", None]
)
def test_body_is_one_image(client: httpx.Client, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = client.post("/predict", content=PNGS[0], headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    said = response.json()
    assert list(said) == ["model", "version", "results"]
    assert (said["model"], said["version"]) == ("tiny", 1)
    (result,) = said["results"]
    assert list(result) == ["predictions"]
    assert list(result["predictions"][0]) == ["label", "index", "probability"]
    assert_own_result(result, IMAGES[0])


def test_curl_data_binary_is_read_as_an_image(client: httpx.Client) -> None:
    """`curl --data-binary @image.png` claims to send a form."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    response = client.post("/predict", content=PNGS[0], headers=headers)
    assert_own_result(response.json()["results"][0], IMAGES[0])


@pytest.mark.parametrize("count", [1, 2, 64, 100])
def test_multipart(client: httpx.Client, count: int) -> None:
    contents = [PNGS[i % 64] for i in range(count)]
    response = client.post("/predict", files=files(*contents))
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert len(results) == count
    for i, result in enumerate(results):
        assert_own_result(result, IMAGES[i % 64])


def test_a_bad_file_of_a_multipart_gets_its_own_error(client: httpx.Client) -> None:
    contents = [PNGS[0], PNGS[1][:60], PNGS[2], b"", b"no image", PNGS[3]]
    response = client.post("/predict", files=files(*contents))
    assert response.status_code == 200
    results = response.json()["results"]
    for position, i in ((0, 0), (2, 2), (5, 3)):
        assert_own_result(results[position], IMAGES[i])
    for position, words in ((1, "truncated"), (3, "empty"), (4, "expected JPEG, PNG, WebP")):
        assert list(results[position]) == ["error"]
        assert words in results[position]["error"]


def test_multipart_without_a_good_file_is_refused(client: httpx.Client) -> None:
    response = client.post("/predict", files=files(b"no image", b""))
    assert_error(response, 400, "expected JPEG, PNG, WebP, GIF")


def test_other_fields_of_a_form_are_passed_over(client: httpx.Client) -> None:
    response = client.post("/predict", data={"comment": "hello"}, files=files(PNGS[0]))
    (result,) = response.json()["results"]
    assert_own_result(result, IMAGES[0])


@pytest.mark.parametrize(
    ("content_type", "body", "match"),
    [
        ("multipart/form-data", b"x", "expected a boundary"),
        ("multipart/form-data; boundary=b", b"", "closing boundary"),
        ("multipart/form-data; boundary=b", b"no parts", "whole parts"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\nhalf',
            "closing boundary",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\ntext\r\n--b--\r\n',
            "at least one file",
        ),
    ],
)
def test_broken_multipart(client: httpx.Client, content_type: str, body: bytes, match: str) -> None:
    response = client.post("/predict", content=body, headers={"content-type": content_type})
    assert_error(response, 400, match)


@pytest.mark.parametrize("top", [1, 2, 4])
def test_top(client: httpx.Client, top: int) -> None:
    response = client.post(f"/predict?top={top}", content=PNGS[5])
    assert_own_result(response.json()["results"][0], IMAGES[5], top=top)


def test_top_beyond_the_labels_gives_all(client: httpx.Client) -> None:
    response = client.post("/predict?top=99999999999999999999", content=PNGS[5])
    assert_own_result(response.json()["results"][0], IMAGES[5], top=len(LABELS))


@pytest.mark.parametrize("path", ["/predict", "/models/tiny/predict"])
@pytest.mark.parametrize("name", ["model", "version"])
def test_a_model_in_the_query_is_refused(client: httpx.Client, path: str, name: str) -> None:
    """Passed over, another model would answer."""
    response = client.post(f"{path}?{name}=2", content=PNGS[5])
    match = f"query: expected no {name}, got '2'; name it in the path: /models/NAME/versions/V/pre"
    assert_error(response, 400, match)


@pytest.mark.parametrize("top", ["0", "-1", "two", "", "1.5", "1e3", "%00", "%D9%A2"])
def test_wrong_top(client: httpx.Client, top: str) -> None:
    response = client.post(f"/predict?top={top}", content=PNGS[5])
    assert_error(response, 400, r"top: expected a whole number above 0 \(more than 4 gives all")


@pytest.mark.parametrize(
    ("path", "version", "gain"),
    [
        ("/predict", 1, 1.0),
        ("/models/tiny/predict", 1, 1.0),
        ("/models/tiny/versions/1/predict", 1, 1.0),
        ("/models/tiny/versions/2/predict", 2, 2.0),
        ("/models/t%69ny/predict", 1, 1.0),
    ],
)
def test_models_and_versions(client: httpx.Client, path: str, version: int, gain: float) -> None:
    said = client.post(path, content=PNGS[6]).json()
    assert said["version"] == version, said
    assert_own_result(said["results"][0], IMAGES[6], gain)


@pytest.mark.parametrize(
    "path",
    [
        "/models/large/predict",
        "/models/tiny/versions/3/predict",
        "/models/tiny/versions/0/predict",
        "/models/tiny/versions/-1/predict",
        "/models/tiny/versions/one/predict",
        "/models/tiny/versions/%31%00/predict",
        "/models/tiny/versions/" + "9" * 5000 + "/predict",
        "/models/" + "x" * 5000 + "/predict",
        "/models/%F0%9F%98%80/predict",
        "/models/../predict",
    ],
)
def test_unknown_models_and_versions(server: RunningServer, path: str) -> None:
    with Wire(server) as wire:  # httpx would normalise some
        answer = wire.send(post(path, PNGS[0])).answer()
        assert_error(answer, 404, "expected one of tiny:1, tiny:2")


@pytest.mark.parametrize("path", ["/models//predict", "/models/tiny/versions//predict"])
def test_an_empty_name_is_no_model(server: RunningServer, path: str) -> None:
    """An empty variable in a client's URL must not be answered by some other model."""
    with Wire(server) as wire:  # httpx would normalise the path
        answer = wire.send(post(path, PNGS[6])).answer()
    assert answer.status == 404
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "video/mp4", "x"])
def test_wrong_content_type(client: httpx.Client, content_type: str) -> None:
    response = client.post("/predict", content=PNGS[0], headers={"content-type": content_type})
    assert_error(response, 415, "content-type: expected image/")


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"", "empty body"),
        (b"hello", "expected JPEG, PNG, WebP, GIF"),
        (b"GIF89a" + bytes(50), "expected a complete GIF"),
        (b"%PDF-1.7" + bytes(50), "expected JPEG, PNG, WebP, GIF"),
        (PNGS[0][:20], "complete PNG header"),
        (PNGS[0][:-30], "truncated or corrupt"),
        (b"\xff\xd8\xff" + bytes(50), "JPEG"),
        (rotten(), "expected a complete JPEG file"),
    ],
)
def test_bad_image(client: httpx.Client, body: bytes, match: str) -> None:
    assert_error(client.post("/predict", content=body), 400, match)


@pytest.mark.parametrize("value", ["0", "-5", "soon", "nan", "inf", "1e99", ""])
def test_wrong_deadline(client: httpx.Client, value: str) -> None:
    headers = {"X-Request-Timeout-Ms": value}
    response = client.post("/predict", content=PNGS[0], headers=headers)
    assert_error(response, 400, "X-Request-Timeout-Ms: expected milliseconds")


def test_server_timing_names_the_stages(client: httpx.Client) -> None:
    timing = client.post("/predict", content=PNGS[0]).headers["server-timing"]
    stages = [part.split(";")[0].strip() for part in timing.split(",")]
    assert stages == ["queue", "run", "total"]
    durations = [float(part.split("dur=")[1]) for part in timing.split(",")]
    assert all(duration >= 0 for duration in durations)
    assert durations[2] >= durations[1]


def test_large_image_is_decoded_and_resized(client: httpx.Client) -> None:
    """Beyond the size that is decoded on the loop; blocks of equal pixels average to themselves."""
    large = np.kron(IMAGES[7][:, :, 0], np.ones((64, 64), np.uint8))[:, :, None]
    assert large.shape == (SIDE * 64, SIDE * 64, 1)
    response = client.post("/predict", content=encode_png(large))
    assert_own_result(response.json()["results"][0], IMAGES[7])


# Batches


def test_one_truncated_image_amid_63_good_ones(server: RunningServer) -> None:
    bodies = [*PNGS[:40], PNGS[40][:-20], *PNGS[41:]]
    answers = at_once(server, [post("/predict", body) for body in bodies])
    for i, answer in enumerate(answers):
        if i == 40:
            assert_error(answer, 400, "truncated or corrupt")
        else:
            assert answer.status == 200, answer.body
            assert_own_result(answer.json()["results"][0], IMAGES[i])


def test_concurrent_requests_share_runs(server: RunningServer) -> None:
    """One connection sends its requests in one piece, so they meet in the queue for certain."""
    runs = server.metric("foveal_run_seconds_count")
    rows = server.metric("foveal_batch_rows_sum")
    answers = [
        answer
        for _ in range(4)
        for answer in at_once(server, [post("/predict", png) for png in PNGS])
    ]
    assert [answer.status for answer in answers] == [200] * 256
    assert server.metric("foveal_batch_rows_sum") - rows == 256
    assert server.metric("foveal_run_seconds_count") - runs < 256


def test_answers_do_not_depend_on_the_batch(server: RunningServer) -> None:
    """Every batch size up to the limit gives, byte for byte, what a lone request gets."""
    with Wire(server) as wire:
        lone = [results(wire.send(post("/predict", png)).answer()) for png in PNGS]
    with httpx.Client(base_url=server.url) as client:
        for size in range(1, 65):
            response = client.post("/predict", files=files(*PNGS[:size]))
            together = response.content.partition(b'"results":')[2]
            assert together == b"[" + b",".join(lone[:size]) + b"]}", size


def results(answer: Answer) -> bytes:
    assert answer.status == 200, answer.body
    return answer.body.partition(b'"results":[')[2].removesuffix(b"]}")


# Refusals


def test_deadline_passes_while_waiting(narrow: RunningServer) -> None:
    dropped = narrow.metric("foveal_dropped_rows_total")
    with Wire(narrow) as wire:
        wire.send(post("/predict", PNGS[0], "X-Request-Timeout-Ms: 50"))
        assert_error(wire.answer(), 504, "deadline passed")
        wire.send(post("/predict", PNGS[0], "X-Request-Timeout-Ms: 5000"))
        assert wire.answer().status == 200
    assert narrow.metric("foveal_dropped_rows_total") == dropped + 1


def test_too_many_rows_in_a_request(narrow: RunningServer) -> None:
    response = httpx.post(f"{narrow.url}/predict", files=files(*PNGS[:4]))
    assert_error(response, 413, "at most 3 files; send fewer or raise FOVEAL_MAX_REQUEST_ROWS")


@pytest.mark.parametrize("path", ["/predict", "/classify"])
def test_too_many_pixels(narrow: RunningServer, path: str) -> None:
    content = encode_png(np.zeros((101, 100, 1), np.uint8))
    if path == "/predict":
        response = httpx.post(narrow.url + path, content=content)
    else:
        response = httpx.post(narrow.url + path, files={"image": ("i.png", content, "image/png")})
    assert_error(
        response,
        413,
        "expected at most 10000 pixels, got 100 x 101; .* raise FOVEAL_MAX_IMAGE_PIXELS",
    )


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_unknown_route(client: httpx.Client, method: str) -> None:
    said = "no such route; GET /docs lists all"
    assert_error(client.request(method, "/nothing"), 404, f"{method} /nothing: {said}")
    assert client.get("/docs").status_code == 200


def test_head_of_an_unknown_route(client: httpx.Client) -> None:
    response = client.head("/nothing")
    assert (response.status_code, response.content) == (404, b"")
