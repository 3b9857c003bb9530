"""Photographs by the card through a real server, a stand-in for the card: no answer is another."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.image import decode_pixels, encode_png
from models.jpeg_scan import can_scan
from models.pixels import Decoding
from service.session.gpu.stand_in import FAILS, REFUSED
from tests.models.pictures import large_jpeg
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
        (large_jpeg(1), "card", ""),
        (large_jpeg(2, subsampling=0, quality=30), "card", ""),
        (large_jpeg(3, "L"), "card", ""),
        (large_jpeg(4, restart_marker_blocks=5), "card", ""),
        (large_jpeg(5, progressive=True), "cpu", "progressive"),
        (large_jpeg(6, "CMYK"), "cpu", "colours"),
        (large_jpeg(7) + b"more", "cpu", "unusual"),
        (large_jpeg(8, comment=REFUSED), "cpu", "refused"),
        (large_jpeg(9, comment=FAILS), "cpu", "refused"),
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
    cut = large_jpeg(10)[:-200]
    answer = httpx.post(f"{server.url}/predict", content=cut)
    assert_error(answer, 400, "expected a complete JPEG file")


def test_damage_within_a_file_is_the_cpus(server: RunningServer) -> None:
    encoded = bytearray(large_jpeg(11))
    encoded[len(encoded) * 2 // 3] ^= 0x55
    before = counted(server, "card", "")
    answer = httpx.post(f"{server.url}/predict", content=bytes(encoded))
    assert answer.status_code == 200
    assert counted(server, "card", "") + counted(server, "cpu", "damaged") > before


def test_a_form_comes_back_in_order(server: RunningServer) -> None:
    images = [
        large_jpeg(20),
        large_jpeg(21, progressive=True),
        b"no image",
        large_jpeg(22, comment=REFUSED),
        large_jpeg(23),
    ]
    files = [("file", (f"{at}.jpg", encoded)) for at, encoded in enumerate(images)]
    answer = results(httpx.post(f"{server.url}/predict", files=files))
    assert "error" in answer[2]
    for at in (0, 1, 3, 4):
        assert answer[at]["predictions"] == by_cpu(server, images[at])[0]["predictions"]


def test_many_at_once_get_their_own_answers(server: RunningServer) -> None:
    images = [large_jpeg(100 + at) for at in range(TOGETHER)]
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
        failing = large_jpeg(200 + seed, comment=FAILS)
        assert results(httpx.post(f"{server.url}/predict", content=failing))
    got = results(httpx.post(f"{server.url}/predict", content=large_jpeg(203)))
    assert got == by_cpu(server, large_jpeg(203))
    assert counted(server, "cpu", "off") == 1
    assert "no JPEG goes there any more" in server.log
