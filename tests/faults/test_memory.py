"""A batch that finds no memory runs once more in two halves; then it is an error of ours."""

from collections.abc import Iterator

import httpx
import pytest

from models.image import encode_png
from tests.faults.hungry import publish_hungry, white_images
from tests.server import RunningServer, assert_error, running_server
from tests.tiny import assert_own_result, random_images

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", params=[1, 2], ids=["on the loop", "on threads"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("hungry")
    publish_hungry(folder / "models")
    with running_server(folder / "models", folder, instances=request.param) as running:
        yield running


def post_form(server: RunningServer, count: int) -> tuple[httpx.Response, list[object]]:
    """Send so many hungry images in one request, which is one batch."""
    images = white_images(count)
    files = [("image", (f"{i}.png", encode_png(image))) for i, image in enumerate(images)]
    return httpx.post(f"{server.url}/predict", files=files, timeout=10), list(images)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_halves_fit(server: RunningServer, count: int) -> None:
    """Every row gets its own answer, in order."""
    answer, images = post_form(server, count)
    assert answer.status_code == 200, answer.text
    for result, image in zip(answer.json()["results"], images, strict=True):
        assert_own_result(result, image)  # type: ignore[arg-type]
    if count > 2:
        assert f"run of batch ({count}, 8, 8, 1) failed" in server.log
        assert "it runs again in two halves" in server.log


def test_halves_do_not_fit(server: RunningServer) -> None:
    """An error without details; the next request is answered."""
    answer, _ = post_form(server, 8)
    assert_error(answer, 500, "inference failed; see the server's log")
    image = random_images(1, seed=12)[0]
    said = httpx.post(f"{server.url}/predict", content=encode_png(image)).json()
    assert_own_result(said["results"][0], image)
