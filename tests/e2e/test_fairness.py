"""Small requests to one model beside crowds that ask another: docs/serve.md states the policy.

A ratio to the same requests alone, a moment before. Other work on the machine adds to what is
measured, so the best of a few rounds counts. On two busy cores, without the policy: 17 to 59 times
for half of the requests beside the burst, 66 to 350 for pictures that need a thread beside
photographs.
"""

import pytest

from models.repository import ModelRepository
from tests.fairness import crowd, latencies_ms, photograph, small, tiniest
from tests.server import ROOT, RunningServer, post

pytestmark = pytest.mark.e2e

MOST = 3.0
# Of the median beside a burst: on a machine that does other things, a request waits for a processor
# as often as the loop does; the best of five rounds is 1 to 4.
MOST_BESIDE_BURST = 8.0
ROUNDS = 15
P50, P99 = 0, 1
# Two versions are two models to the service.
ASKED, OTHER = "/models/tiny/versions/1/predict", "/models/tiny/versions/2/predict"


def assert_fair(
    server: RunningServer,
    asked: bytes,
    crowded: bytes,
    connections: int,
    percentile: int = P99,
    most: float = MOST,
) -> None:
    ratios = []
    for _ in range(ROUNDS):
        alone_ms = latencies_ms(server, asked, 200)[percentile]
        with crowd(server, crowded, connections):
            beside_ms = latencies_ms(server, asked, 200)[percentile]
        ratios.append(round(beside_ms / alone_ms, 1))
        if ratios[-1] <= most:
            return
    raise AssertionError(f"expected at most {most} times alone, got {ratios}")


def test_a_burst_does_not_delay_another_model(server: RunningServer) -> None:
    asked, burst = tiniest(ASKED), tiniest(OTHER)
    assert_fair(server, asked, burst, 128)
    assert_fair(server, asked, burst, 128, P50, MOST_BESIDE_BURST)


@pytest.mark.thorough
def test_photographs_do_not_delay_another_model(server: RunningServer) -> None:
    photographs = photograph(OTHER, 4000, 3000)
    assert_fair(server, small(ASKED), photographs, 8)
    assert_fair(server, photograph(ASKED, 320, 240), photographs, 8, P50)


@pytest.mark.thorough
def test_a_slow_model_does_not_delay_another(shipped: RunningServer) -> None:
    repository = ModelRepository(ROOT / "models")
    slow = repository.load(*repository.resolve("cifar10-cnn"))
    image = repository.read_file(slow, slow.golden[0].path)
    asked = small("/models/fashion-fcnn/predict")
    assert_fair(shipped, asked, post(f"/models/{slow.name}/predict", image), 16)
