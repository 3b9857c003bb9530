"""An inference over HTTP whose client leaves, or whose thread meets a bug: nothing stays behind."""

import asyncio
import zlib
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from models.image import encode_png
from service.inflight import Inflight
from service.lane.exchange import JSON, Exchange
from service.protocols.v2.http_infer import HttpInfer
from tests.service.protocols.desk import Desk
from tests.service.protocols.v2.test_fuzz import INFER, valid, written

# Large enough to be decoded on a thread.
LARGE_PNG = encode_png(np.zeros((300, 300, 1), np.uint8))


def exchange_of(
    body: bytes, headers: list[tuple[str, str]], statuses: list[int] | None = None
) -> Exchange:
    said = [] if statuses is None else statuses
    sent = [(name.lower().encode(), value.encode()) for name, value in headers]
    exchange = Exchange(
        "POST", INFER.encode(), b"", sent, lambda _e, status, *_: said.append(status)
    )
    exchange.body = body
    exchange.content_coding = exchange.header(b"content-encoding")
    exchange.received_at = asyncio.get_running_loop().time()
    return exchange


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_true():
            await asyncio.sleep(0.001)


def large_images() -> tuple[bytes, list[tuple[str, str]]]:
    document, _ = valid("images")
    behind = b"".join(len(png).to_bytes(4, "little") + png for png in [LARGE_PNG] * 2)
    document["inputs"][0]["parameters"] = {"binary_data_size": len(behind)}
    return written(document, behind)


@pytest.mark.parametrize("form", ["expanded pixels", "expanded images", "images"])
@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_client_that_leaves_gives_back_what_its_request_holds(
    desk: Desk, form: str, turns: int
) -> None:
    body, headers = written(*valid("binary")) if form == "expanded pixels" else large_images()
    if form.startswith("expanded"):
        body, headers = zlib.compress(body), [*headers, ("content-encoding", "deflate")]

    async def leave() -> None:
        inflight = desk.engine.inflight = Inflight(1 << 30)
        try:
            handler = desk.http.find(INFER.encode())
            assert handler is not None
            exchange = exchange_of(body, headers)
            handler(exchange)
            assert (inflight.used > 0) == (form == "images")
            for _ in range(turns):
                await asyncio.sleep(0.002)
            exchange.disconnect()
            await asyncio.get_running_loop().run_in_executor(desk.decoders, int)
            await until(lambda: inflight.used == 0)
        finally:
            desk.engine.inflight = None

    desk.run(leave())


@pytest.mark.parametrize("step", ["expand", "compress"])
def test_a_bug_on_a_thread_is_an_answer_and_logged(
    desk: Desk, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A body that is a text stands for what nobody thought of."""
    statuses: list[int] = []

    async def run() -> None:
        exchange = exchange_of(b"", [("content-encoding", "deflate")], statuses)
        infer = HttpInfer(desk.engine, exchange, desk.engine.find("tiny", ""))
        if step == "expand":
            exchange.body = cast(Any, "text")
            infer.begin()
        else:
            nothing, text = cast(Any, None), cast(Any, "text")
            await asyncio.to_thread(infer._compress, nothing, text, b"gzip", JSON, b"")
        await until(lambda: bool(statuses))

    desk.run(run())
    assert statuses == [500]
    assert "this is a bug" in caplog.text
