"""256 connections that ask for photographs without a pause: every one is answered, in its turn."""

import asyncio
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from PIL import Image

from models.jpeg_scan import can_scan
from tests.server import RunningServer, running_server

pytestmark = pytest.mark.e2e

CONNECTIONS, ROUNDS, DIFFERENT = 256, 3, 16


@pytest.fixture(scope="module", params=["off", "rehearse"])
def server(
    request: pytest.FixtureRequest, tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Decoded by threads, or by a stand-in for a card; no wait is too long for a busy machine."""
    if request.param == "rehearse" and not can_scan():
        pytest.skip("needs the compiled scan")
    folder = tmp_path_factory.mktemp(request.param)
    with running_server(
        tiny_repository,
        folder,
        gpu_decode=request.param,
        max_wait_ms=120_000,
        request_timeout_s=120,
    ) as running:
        yield running


def photograph(seed: int) -> bytes:
    """More pixels than are decoded on the loop."""
    few = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(few).resize((240, 180), Image.Resampling.BICUBIC).save(encoded, "JPEG")
    return encoded.getvalue()


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
) -> tuple[int, bytes]:
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    length = answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return int(answer.split()[1]), await reader.readexactly(int(length))


async def ask_all(port: int, photographs: list[bytes]) -> list[tuple[int, int, bytes]]:
    """Return connection, status and answer of each request, as they were answered."""
    answered: list[tuple[int, int, bytes]] = []
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]

    async def work(number: int) -> None:
        reader, writer = connections[number]
        for _ in range(ROUNDS):
            status, answer = await ask(reader, writer, photographs[number % DIFFERENT])
            answered.append((number, status, answer))
        writer.close()

    await asyncio.gather(*map(work, range(CONNECTIONS)))
    return answered


def test_every_connection_is_answered_in_its_turn(server: RunningServer) -> None:
    """Some used to wait for seconds while others were answered again and again."""
    photographs = [photograph(seed) for seed in range(DIFFERENT)]
    answered = asyncio.run(ask_all(server.port, photographs))
    assert Counter(status for _, status, _ in answered) == {200: CONNECTIONS * ROUNDS}
    results = {
        number % DIFFERENT: orjson.loads(answer)["results"] for number, _, answer in answered
    }
    for number, _, answer in answered:
        assert orjson.loads(answer)["results"] == results[number % DIFFERENT]
    assert len({str(each) for each in results.values()}) > DIFFERENT // 2
    before_last: set[int] = set()
    times: Counter[int] = Counter()
    for number, _, _ in answered:
        times[number] += 1
        if times[number] == ROUNDS:
            break
        before_last.add(number)
    assert len(before_last) == CONNECTIONS, "none gets its last answer before each has its first"
