"""docs/foveal_client.py on the real service and on sockets that refuse, break or stay silent."""

import ast
import asyncio
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest

from docs import foveal_client
from docs.foveal_client import AsyncClient, Client, FovealError, Result
from models.image import encode_png
from tests.server import RunningServer
from tests.tiny import random_images

pytestmark = pytest.mark.e2e

PNGS = [encode_png(image) for image in random_images(40, seed=29)]
GOOD = (
    b'{"model":"m","version":3,"results":[{"predictions":[{"label":"a","index":0,'
    b'"probability":0.5}],"labels":[],"abstained":false}]}'
)
Ask = Callable[..., Any]


def ask_and_wait(url: str, *words: Any, **options: Any) -> Result:
    with Client(url, **options) as client:
        return client.predict(*words)


def ask_and_await(url: str, *words: Any, **options: Any) -> Result:
    async def ask() -> Result:
        async with AsyncClient(url, **options) as client:
            return await client.predict(*words)

    return asyncio.run(ask())


ASKS: list[Ask] = [ask_and_wait, ask_and_await]
EACH_CLIENT = pytest.mark.parametrize("ask", ASKS)


class Both:
    """Calls a method of the client by name, and of the asynchronous one; both must agree."""

    def __init__(self, url: str, **options: Any) -> None:
        self._url, self._options = url, options

    def predict(self, *words: Any, **options: Any) -> Result:
        async def ask() -> Result:
            async with AsyncClient(self._url, **self._options) as client:
                return await client.predict(*words, **options)

        with Client(self._url, **self._options) as client:
            result = client.predict(*words, **options)
        assert asyncio.run(ask()) == result
        return result

    def predict_many(self, images: Iterable[Any], *words: Any, **options: Any) -> list[Result]:
        images = list(images)

        async def ask() -> list[Result]:
            async with AsyncClient(self._url, **self._options) as client:
                answers = client.predict_many(iter(images), *words, **options)
                return [result async for result in answers]

        with Client(self._url, **self._options) as client:
            results = list(client.predict_many(iter(images), *words, **options))
        assert asyncio.run(ask()) == results
        return results


def test_needs_nothing_but_httpx() -> None:
    tree = ast.parse(Path(foveal_client.__file__).read_text())
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    assert names - set(sys.stdlib_module_names) == {"httpx"}


def test_one_image(server: RunningServer, tmp_path: Path) -> None:
    path = tmp_path / "ünicode name.png"
    path.write_bytes(PNGS[0])
    said = httpx.post(f"{server.url}/predict?top=2", content=PNGS[0]).json()
    result = Both(server.url).predict(path, top=2)
    assert (result.image, result.model, result.version) == (str(path), "tiny", 1)
    assert [vars(each) for each in result.predictions] == said["results"][0]["predictions"]
    assert result.label == said["results"][0]["predictions"][0]["label"]
    assert (result.labels, result.abstained, result.error) == (None, False, "")
    other = Both(server.url + "/").predict(PNGS[0], "tiny:2")
    assert (other.version, len(other.predictions)) == (2, 4)


@pytest.mark.parametrize(
    ("image", "model", "status", "match"),
    [
        (b"none", "", 400, "image"),
        (PNGS[0], "none", 404, "none"),
        (PNGS[0], "tiny:9", 404, "tiny"),
        (PNGS[0], "../v2", 404, "/models/..%2Fv2/predict"),
    ],
)
def test_errors_are_the_services(
    server: RunningServer, image: bytes, model: str, status: int, match: str
) -> None:
    for ask in ASKS:
        with pytest.raises(FovealError, match=re.escape(match)) as caught:
            ask(server.url, image, model)
        assert caught.value.status == status


@pytest.mark.parametrize(("batch", "batch_bytes"), [(32, 1 << 20), (3, 1 << 20), (32, 1), (1, 9)])
def test_many_images_keep_their_order(
    server: RunningServer, tmp_path: Path, batch: int, batch_bytes: int
) -> None:
    images: list[Any] = [*PNGS, b"none", b"", b"none", tmp_path / "gone.png", tmp_path, *PNGS[:2]]
    results = Both(server.url).predict_many(
        images, "tiny", top=1, batch=batch, batch_bytes=batch_bytes
    )
    said = httpx.post(
        f"{server.url}/predict?top=1", files=[("f", (str(n), png)) for n, png in enumerate(PNGS)]
    ).json()
    wanted = [each["predictions"][0]["label"] for each in said["results"]]
    assert len(set(wanted)) > 1
    assert [result.label for result in results] == [*wanted, *[None] * 5, *wanted[:2]]
    assert [result.image for result in results[:3]] == ["0", "1", "2"]
    assert all("image" in result.error for result in results[40:43])
    assert [r.error for r in results[43:45]] == [
        f"{tmp_path}/gone.png: No such file or directory",
        f"{tmp_path}: Is a directory",
    ]


def test_what_is_no_address_and_no_list_is_said() -> None:
    with pytest.raises(FovealError, match="url: expected http://host:port, got 'localhost:3000'"):
        Client("localhost:3000")
    for one in ("a.png", b"bytes", Path("a.png")):
        with pytest.raises(TypeError, match="images: expected several, got one: predict"):
            next(Client("http://localhost:3000").predict_many(one))  # type: ignore[arg-type]


def test_requests_that_are_too_large_go_in_halves(server: RunningServer) -> None:
    results = Both(server.url).predict_many(PNGS * 15, batch=600)  # 512 files are the most
    assert len(results) == 600 and all(result.label for result in results)
    assert results[:40] == [Result(str(n), *_rest(r)) for n, r in enumerate(results[40:80])]
    assert Both(server.url).predict_many([]) == []
    assert [r.error != "" for r in Both(server.url).predict_many([b"x"] * 5)] == [True] * 5


def _rest(result: Result) -> tuple[Any, ...]:
    return tuple(value for name, value in vars(result).items() if name != "image")


def test_many_end_with_the_error_of_the_service(server: RunningServer) -> None:
    with Client(server.url) as client:
        with pytest.raises(FovealError, match="expected one of tiny"):
            list(client.predict_many(PNGS, "none"))
        for result in client.predict_many(PNGS * 10, batch=4):
            assert result.label
            break  # the rest is not sent


class Front:
    """Answers each connection with the next of some answers; None: with nothing, for ever."""

    def __init__(self, answers: list[bytes | None]) -> None:
        self._answers, self.heads = answers, list[bytes]()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for answer in self._answers:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._open.append(connection)
            head = b""
            while b"\r\n\r\nimage" not in head:
                head += connection.recv(65536)
            self.heads.append(head.lower())
            if answer is not None:
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
        self._socket.close()

    def close(self) -> None:
        for each in (self._socket, *self._open):
            each.close()


@pytest.fixture
def front() -> Iterator[Callable[..., Front]]:
    made: list[Front] = []

    def make(*answers: bytes | None) -> Front:
        made.append(Front(list(answers)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def answer(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


BUSY, GIVEN = b'{"error":"busy"}', answer(200, GOOD)


@EACH_CLIENT
def test_tries_again_when_the_service_says(front: Callable[..., Front], ask: Ask) -> None:
    date = formatdate(time.time() + 1.9, usegmt=True)  # whole seconds: 0.9 to 1.9 s from now
    for refusal, least_s in (
        (answer(429, BUSY, "Retry-After: 1"), 1.0),
        (answer(503, BUSY, f"Retry-After: {date}"), 0.0),
        (answer(503, BUSY, "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"), 0.0),
        (answer(502, b"<html>", "Retry-After: soon"), 0.1),
        (b"", 0.1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", 0.1),
    ):
        service = front(refusal, GIVEN)
        started = time.monotonic()
        result = ask(service.url, b"image", timeout_s=8)
        assert least_s <= time.monotonic() - started < 7
        assert (result.version, result.labels, result.label) == (3, (), None)
        assert result.predictions[0].probability == 0.5


@EACH_CLIENT
def test_gives_up_at_the_deadline(front: Callable[..., Front], ask: Ask) -> None:
    late = front(answer(429, BUSY, "Retry-After: 60"))
    started = time.monotonic()
    with pytest.raises(FovealError, match=r"^busy$") as caught:
        ask(late.url, b"image", timeout_s=5)
    assert caught.value.status == 429
    assert time.monotonic() - started < 4, "a wait beyond the deadline is not begun"
    silent = front(None)
    with pytest.raises(FovealError, match=r"no answer in 0\.4 s") as caught:
        ask(silent.url, b"image", timeout_s=0.4, key="secret")
    assert caught.value.status == 0
    (head,) = silent.heads
    assert b"\r\nx-request-timeout-ms: 400\r\n" in head or b"-ms: 39" in head
    assert b"\r\nauthorization: bearer secret\r\n" in head
    often = front(*[answer(503, BUSY, "Retry-After: 0")] * 4)
    with pytest.raises(FovealError, match="busy"):
        ask(often.url, b"image", retries=2)
    assert len(often.heads) == 3


@EACH_CLIENT
def test_what_is_no_service_is_one_error(front: Callable[..., Front], ask: Ask) -> None:
    for said, match in (
        (answer(200, b"<html>hello"), "expected 1 results of Foveal, got '<html>hello'"),
        (answer(200, b"[]"), "check the address"),
        (answer(200, GOOD.replace(b'"results":[', b'"results":[{"error":"x"},')), "1 results"),
        (answer(500, b"oops"), "status 500: 'oops'"),
    ):
        with pytest.raises(FovealError, match=match):
            ask(front(said).url, b"image")
    with pytest.raises(FovealError, match="no answer: "):
        ask("http://127.0.0.1:9", b"image", retries=1, timeout_s=5)
    with pytest.raises(
        FovealError, match=r"url: expected http://host:port, got 'ftp://127\.0\.0\.1'"
    ):
        ask("ftp://127.0.0.1", b"image", timeout_s=5)
