"""Photographs by the card through a real server, a stand-in for the card: no answer is another."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.image import decode_pixels, encode_png
from models.jpeg_scan import can_scan
from models.pixels import Decoding
from service.session.gpu.stand_in import FAILS, REFUSED
from tests.server import RunningServer, assert_error, running_server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not can_scan(), reason="needs the compiled scan"),
]
TOGETHER = 64


@pytest.fixture(scope="module")
def server(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("card")
    with running_server(tiny_repository, folder, gpu_decode="rehearse") as running:
        yield running


def photograph(seed: int, mode: str = "RGB", **options: Any) -> bytes:
    """More pixels than are decoded on the loop."""
    few = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    image = Image.fromarray(few).resize((240, 180), Image.Resampling.BICUBIC).convert(mode)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", **options)
    return encoded.getvalue()


def results(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def by_cpu(server: RunningServer, encoded: bytes) -> Any:
    """The answer for the same pixels in a format that no card decodes."""
    png = encode_png(decode_pixels(encoded, Decoding(mode="L")))
    return results(httpx.post(f"{server.url}/predict", content=png))


def counted(server: RunningServer, by: str, reason: str) -> float:
    return server.metric("foveal_decoded_images_total", by=by, reason=reason)


@pytest.mark.parametrize(
    ("encoded", "by", "reason"),
    [
        (photograph(1), "card", ""),
        (photograph(2, subsampling=0, quality=30), "card", ""),
        (photograph(3, "L"), "card", ""),
        (photograph(4, restart_marker_blocks=5), "card", ""),
        (photograph(5, progressive=True), "cpu", "progressive"),
        (photograph(6, "CMYK"), "cpu", "colours"),
        (photograph(7) + b"more", "cpu", "unusual"),
        (photograph(8, comment=REFUSED), "cpu", "refused"),
        (photograph(9, comment=FAILS), "cpu", "refused"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_answer_is_the_cpus(
    server: RunningServer, encoded: bytes, by: str, reason: str
) -> None:
    before = counted(server, by, reason)
    got = results(httpx.post(f"{server.url}/predict", content=encoded))
    assert counted(server, by, reason) == before + 1
    assert got == by_cpu(server, encoded)


def test_a_cut_file_is_refused_as_ever(server: RunningServer) -> None:
    cut = photograph(10)[:-200]
    answer = httpx.post(f"{server.url}/predict", content=cut)
    assert_error(answer, 400, "expected a complete JPEG file")


def test_damage_within_a_file_is_the_cpus(server: RunningServer) -> None:
    encoded = bytearray(photograph(11))
    encoded[len(encoded) * 2 // 3] ^= 0x55
    before = counted(server, "card", "")
    answer = httpx.post(f"{server.url}/predict", content=bytes(encoded))
    assert answer.status_code == 200
    assert counted(server, "card", "") + counted(server, "cpu", "damaged") > before


def test_a_form_comes_back_in_order(server: RunningServer) -> None:
    images = [
        photograph(20),
        photograph(21, progressive=True),
        b"no image",
        photograph(22, comment=REFUSED),
        photograph(23),
    ]
    files = [("file", (f"{at}.jpg", encoded)) for at, encoded in enumerate(images)]
    answer = results(httpx.post(f"{server.url}/predict", files=files))
    assert "error" in answer[2]
    for at in (0, 1, 3, 4):
        assert answer[at]["predictions"] == by_cpu(server, images[at])[0]["predictions"]


def test_many_at_once_get_their_own_answers(server: RunningServer) -> None:
    images = [photograph(100 + at) for at in range(TOGETHER)]
    before = counted(server, "card", "")

    def ask(encoded: bytes) -> Any:
        return results(httpx.post(f"{server.url}/predict", content=encoded, timeout=60))

    with ThreadPoolExecutor(TOGETHER) as threads:
        together = list(threads.map(ask, images))
    assert counted(server, "card", "") == before + TOGETHER
    assert together == [by_cpu(server, encoded) for encoded in images]


def test_what_it_decodes_is_told(server: RunningServer) -> None:
    text = httpx.get(f"{server.url}/metrics").text
    assert 'kinds="411, 420, 420 restarts, 422, 422 restarts' in text


def test_three_failures_end_it_and_nothing_is_lost(server: RunningServer) -> None:
    """The last: afterwards the card is off."""
    for seed in range(3):
        failing = photograph(200 + seed, comment=FAILS)
        assert results(httpx.post(f"{server.url}/predict", content=failing))
    got = results(httpx.post(f"{server.url}/predict", content=photograph(203)))
    assert got == by_cpu(server, photograph(203))
    assert counted(server, "cpu", "off") == 1
    assert "no JPEG goes there any more" in server.log
