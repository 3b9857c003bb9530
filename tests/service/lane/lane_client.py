"""What the tests of the lane share: images, the servers' odd settings, and their assertions."""

from models.image import encode_png
from tests.server import Answer, RunningServer, Wire, post
from tests.tiny import assert_own_result, random_images

IMAGES = random_images(64, seed=1)
PNGS = [encode_png(image) for image in IMAGES]
PREDICT = post("/predict", PNGS[0])
# Of the servers in conftest; small, so that tests are short.
MAX_BODY_BYTES = 50_000
QUEUE_DELAY_MS = 300


def assert_answers(answer: Answer, i: int) -> None:
    """Assert the closed form of image i."""
    assert answer.status == 200, answer.body
    (result,) = answer.json()["results"]
    assert_own_result(result, IMAGES[i])


def assert_alive(server: RunningServer) -> None:
    with Wire(server) as wire:
        assert_answers(wire.send(PREDICT).answer(), 0)
