"""A row whose answer is no number is an error of that row, whatever the protocol; it is counted."""

import httpx
import numpy as np
import pytest

from models.image import encode_png
from scoring.remote import RemoteModel
from tests.e2e.test_swap import WORKERS, wait_for
from tests.e2e.triton import WIRES, triton
from tests.server import RunningServer
from tests.tiny import assert_own_result, model_without_black, publish_tiny, random_images

pytestmark = pytest.mark.e2e

BLACK = np.zeros((8, 8, 1), np.uint8)
IMAGE = random_images(1, seed=5)[0]
ERROR = "probability: expected a number, got nan"
NAME = "tiny-black"


@pytest.fixture(scope="module")
def url(two_workers: RunningServer) -> str:
    """Address of a model without an answer for black pixels."""
    publish_tiny(two_workers.log_path.parent / "models", NAME, model=model_without_black())
    line = f"{NAME}:1 answers"
    wait_for(lambda: two_workers.log.count(line) == WORKERS, two_workers, "it is not served")
    return f"{two_workers.url}/models/{NAME}"


def test_an_image_without_an_answer_is_our_error(url: str, two_workers: RunningServer) -> None:
    rows = two_workers.metric("foveal_not_finite_rows_total", model=NAME)
    failed = two_workers.metric("foveal_requests_total", model=NAME, status="500")
    black, image = encode_png(BLACK), encode_png(IMAGE)
    said = httpx.post(f"{url}/predict", content=black)
    assert (said.status_code, said.json()) == (500, {"error": ERROR})
    said = httpx.post(f"{url}/predict", content=image)
    assert_own_result(said.json()["results"][0], IMAGE)
    files = [("image", (f"{i}.png", each)) for i, each in enumerate((image, black, b"x", image))]
    said = httpx.post(f"{url}/predict", files=files)
    assert said.status_code == 200
    first, second, third, last = said.json()["results"]
    assert_own_result(first, IMAGE)
    assert_own_result(last, IMAGE)
    assert second == {"error": ERROR}
    assert "expected JPEG" in third["error"]
    said = httpx.post(f"{url}/predict", files=[files[1], files[1]])
    assert (said.status_code, said.json()) == (500, {"error": ERROR})
    form = {"model": NAME}
    said = httpx.post(f"{two_workers.url}/classify", files={"image": black}, data=form)
    assert (said.status_code, said.json()) == (500, {"error": ERROR})

    def counted() -> tuple[float, float]:
        server = two_workers
        requests = server.metric("foveal_requests_total", model=NAME, status="500")
        return server.metric("foveal_not_finite_rows_total", model=NAME) - rows, requests - failed

    wait_for(lambda: counted() == (5, 3), two_workers, "not all rows are counted")


def test_a_command_that_asks_the_service_goes_on(url: str, two_workers: RunningServer) -> None:
    assert url
    images = [encode_png(each) for each in (IMAGE, BLACK, IMAGE)]
    first, second, third = RemoteModel(two_workers.url, NAME).predict(images, 4)["results"]
    assert second == {"error": ERROR}
    assert first == third
    assert_own_result(dict(first), IMAGE)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_a_tensor_with_a_row_without_an_answer_is_our_error(
    wire: str, output: str, url: str, two_workers: RunningServer
) -> None:
    assert url
    with triton(two_workers, wire) as client:
        outputs = [client.output(output)]
        good = client.infer(NAME, [client.input(np.stack([IMAGE, IMAGE]))], outputs=outputs)
        assert np.isfinite(good.as_numpy(output)).all()
        bad = client.input(np.stack([IMAGE, BLACK]))
        with pytest.raises(Exception, match=rf'input "images" \[1\]: {ERROR}'):
            client.infer(NAME, [bad], outputs=outputs)
