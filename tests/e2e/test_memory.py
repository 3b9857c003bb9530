"""The memory of a worker after photographs, bodies and paths, each on connections of their own."""

import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from PIL import Image

from tests.server import RunningServer, Wire, chunked, post, running_server

pytestmark = pytest.mark.e2e

MIB = 1 << 20
# What may be left of anything: arenas of threads, a heap with gaps.
LEFT_MIB = 20


def photograph(height: int = 1200, width: int = 1600) -> bytes:
    """A JPEG of noise, as photographs are to an encoder: 2 MB of 2 megapixels."""
    pixels_HWC = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    with io.BytesIO() as encoded:
        Image.fromarray(pixels_HWC).save(encoded, "JPEG", quality=92)
        return encoded.getvalue()


PHOTOGRAPH = photograph()


@pytest.fixture(scope="module")
def fresh(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    with running_server(
        tiny_repository, tmp_path_factory.mktemp("fresh"), decode_threads=2
    ) as running:
        yield running


def used_mib(server: RunningServer) -> float:
    """Memory of the server's processes, MiB."""
    main = psutil.Process(server.process.pid)
    family = (main, *main.children(recursive=True))
    return sum(float(process.memory_info().rss) for process in family) / MIB


def ask(server: RunningServer, request: bytes, status: int) -> None:
    with Wire(server) as wire:
        assert wire.send(request).answer().status == status


@contextlib.contextmanager
def nothing_left(
    server: RunningServer, warm: bytes, status: int, warm_ups: int = 10
) -> Iterator[None]:
    """Assert that the memory is as before, once the same kind of request has been answered."""
    for _ in range(warm_ups):
        ask(server, warm, status)
    before = used_mib(server)
    yield
    deadline = time.monotonic() + 5
    while (left := used_mib(server) - before) > LEFT_MIB:
        assert time.monotonic() < deadline, f"{left:.0f} MiB more than before"
        time.sleep(0.2)


BAD = PHOTOGRAPH[: len(PHOTOGRAPH) // 2]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post("/predict", PHOTOGRAPH), 200),
        (chunked("/predict", PHOTOGRAPH), 200),
        (post("/predict", BAD), 400),
        (post("/v2/models/tiny/infer", PHOTOGRAPH), 400),
        (post("/models/none/predict", PHOTOGRAPH), 404),
    ],
    ids=["good", "chunked", "cut", "v2", "no-model"],
)
def test_a_photograph_a_connection(fresh: RunningServer, request_bytes: bytes, status: int) -> None:
    with nothing_left(fresh, request_bytes, status):
        for _ in range(30):  # 60 MB
            ask(fresh, request_bytes, status)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_100_000_photographs_each_on_its_own_connection(fresh: RunningServer) -> None:
    """Nine of ten are of a web page's size, as a large one takes ten times as long."""
    large, small = post("/predict", PHOTOGRAPH), post("/predict", photograph(427, 640))
    with nothing_left(fresh, large, 200):
        for i in range(100_000):
            ask(fresh, small if i % 10 else large, 200)


def test_idle_connections_hold_no_body(fresh: RunningServer) -> None:
    large = post("/predict", b"\xff\xd8" + bytes(32 * MIB - 2))
    with contextlib.ExitStack() as stack, nothing_left(fresh, large, 400, 3):
        for _ in range(6):
            wire = stack.enter_context(Wire(fresh))
            assert wire.send(large).answer().status == 400


def test_idle_connections_hold_no_head(fresh: RunningServer) -> None:
    long = post("/predict?" + "q" * 30_000, b"", "A: " + "v" * 30_000)
    with contextlib.ExitStack() as stack, nothing_left(fresh, long, 400):
        for _ in range(600):
            wire = stack.enter_context(Wire(fresh))
            assert wire.send(long).answer().status == 400


def test_a_body_in_pieces_of_two_bytes(fresh: RunningServer) -> None:
    """2 MB in a million objects would take 50."""
    with Wire(fresh) as wire, nothing_left(fresh, post("/predict", bytes(MIB)), 400):
        wire.send(chunked("/predict", end=b""))
        for _ in range(128):
            wire.send(b"2\r\nab\r\n" * 8192)
        wire.send(b"1\r\n")


def test_long_paths_cost_nothing(fresh: RunningServer) -> None:
    def requests(i: int) -> tuple[bytes, ...]:
        name = f"{i}{'x' * 60_000}"
        return (
            post(f"/models/{name}/predict", b""),
            post(f"/v2/models/{name}/infer", b""),
            post(f"/v2/{name}", b""),
        )

    with nothing_left(fresh, requests(0)[0], 404):
        for i in range(300):
            for request in requests(i):
                ask(fresh, request, 404)
