"""Large and hostile pictures through a real server: memory, deadlines, refusals."""

import io
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from models.image import encode_png
from tests.server import RunningServer, assert_error, running_server
from tests.tiny import random_images

pytestmark = pytest.mark.e2e
MIB = 1 << 20


@pytest.fixture(scope="module")
def slow(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """One decode thread, and a budget of one photograph."""
    with running_server(
        tiny_repository,
        tmp_path_factory.mktemp("slow"),
        decode_threads=1,
        max_inflight_mib=64,
    ) as server:
        yield server


@pytest.fixture(scope="module")
def photograph() -> bytes:
    """Six megapixels in ten scans: half a second of a decode thread."""
    noise = np.random.default_rng(0).integers(0, 256, (2000, 3000, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(noise).save(encoded, "JPEG", progressive=True, quality=60)
    return encoded.getvalue()


def ask_together(server: RunningServer, body: bytes, count: int, timeout_ms: int) -> list[int]:
    statuses: list[int] = []

    def ask() -> None:
        headers = {"X-Request-Timeout-Ms": str(timeout_ms)}
        answer = httpx.post(f"{server.url}/predict", content=body, headers=headers, timeout=120)
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def test_a_deadline_is_answered_whatever_the_threads_do(
    slow: RunningServer, photograph: bytes
) -> None:
    started = time.monotonic()
    alone = ask_together(slow, photograph, 1, 60_000)
    one_s = time.monotonic() - started
    assert alone == [200]
    started = time.monotonic()
    statuses = ask_together(slow, photograph, 12, 100)
    took_s = time.monotonic() - started
    assert set(statuses) <= {504, 429, 200}
    assert statuses.count(504) + statuses.count(429) >= 6
    assert took_s < max(12 * one_s / 2, 2), "they were answered before all were decoded"


def test_waiting_photographs_are_no_reason_for_a_refusal(
    slow: RunningServer, photograph: bytes
) -> None:
    assert ask_together(slow, photograph, 6, 100_000) == [200] * 6


def test_small_images_are_answered_beside_photographs(
    slow: RunningServer, photograph: bytes
) -> None:
    png = encode_png(random_images(1)[0])
    crowd = threading.Thread(target=ask_together, args=(slow, photograph, 3, 60_000))
    crowd.start()
    answers = [httpx.post(f"{slow.url}/predict", content=png).status_code for _ in range(20)]
    crowd.join()
    assert set(answers) == {200}


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def test_scans_without_end_are_refused(slow: RunningServer) -> None:
    one_code = bytes([1] + [0] * 15) + b"\0"
    parts = [
        segment(0xDB, b"\0" + b"\1" * 64),
        segment(0xC2, struct.pack(">BHHB", 8, 5792, 5792, 1) + b"\1\x11\0"),
        segment(0xC4, b"\0" + one_code),
    ]
    body = b"\xff\xd8" + b"".join(parts) + segment(0xDA, b"\1\1\0\0\0\0") * 1_000 + b"\xff\xd9"
    answer = httpx.post(f"{slow.url}/predict", content=body)
    assert_error(answer, 413, "got 5792 x 5792, which counts as")


@pytest.mark.parametrize("fill", [b"\xff", b"\xff\xe0\0\2"], ids=["fill", "segments"])
def test_a_header_without_end_is_refused(slow: RunningServer, fill: bytes) -> None:
    body = b"\xff\xd8" + fill * (8 * MIB // len(fill))
    assert httpx.post(f"{slow.url}/predict", content=body, timeout=60).status_code in (400, 413)
