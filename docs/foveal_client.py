"""A client for Foveal in one file: copy it beside your program. Needs Python 3.11 and httpx.

    with Client("http://localhost:3000") as client:
        print(client.predict("boot.png", model="fashion-cnn").label)
        for result in client.predict_many(Path("photos").glob("*.jpg")):
            print(result.image, result.label or result.error)

``AsyncClient`` has the same methods, to be awaited. A call has one deadline for all of its tries,
and the service knows it: what comes too late is not computed. Refusals (429, 503) and connections
that break are tried again when ``Retry-After`` says, or after short waits, each twice the last.
"""

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx

Image = str | os.PathLike[str] | bytes
# Another try may be answered; an answer of any other status is final.
_TRY_AGAIN = frozenset({429, 502, 503})
# About the images. Of a form they are about all of it, and each part is asked by itself.
_IMAGES_REFUSED = frozenset({400, 413, 415})


class FovealError(Exception):
    """A call without an answer.

    Attributes:
        status: Of HTTP; 0: the service was not reached, or did not answer in time.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Prediction:
    """A label, its index among the model's labels, and its probability, 0 to 1."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Result:
    """What is said about one image.

    Attributes:
        image: Its path; of bytes their position, from 0.
        model: Name of the model that answered; empty with an error.
        version: Its version; 0 with an error.
        predictions: The most probable labels, the best first; none with an error.
        labels: Of a multi-label model: all labels that the image gets, perhaps none; else None.
        abstained: Whether the model does not answer, as no label is probable enough.
        error: Why the image has no answer; empty if it has one.
    """

    image: str
    model: str = ""
    version: int = 0
    predictions: tuple[Prediction, ...] = ()
    labels: tuple[str, ...] | None = None
    abstained: bool = False
    error: str = ""

    @property
    def label(self) -> str | None:
        """The answer; None with an error, if the model abstained, or if it is multi-label."""
        has_none = self.error or self.abstained or self.labels is not None
        return None if has_none or not self.predictions else self.predictions[0].label


@dataclass(frozen=True)
class _File:
    name: str
    content: bytes = b""
    error: str = ""


@dataclass(frozen=True)
class _Question:
    """What a call asks, and how long it may try."""

    path: str
    top: int
    timeout_s: float
    retries: int


# A call is a generator, which both clients run: it yields a request of httpx or seconds to wait,
# and gets the response or the error of a request.
_Answer = httpx.Response | httpx.HTTPError | None
_Steps = Generator[dict[str, Any] | float, _Answer, Any]


def _ask(question: _Question, files: list[_File]) -> _Steps:
    """Return the results of some files, or raise ``FovealError``."""
    give_up_at = time.monotonic() + question.timeout_s
    for attempt in range(question.retries + 1):
        left_s = give_up_at - time.monotonic()
        answer = yield _request(question, files, max(left_s, 0.001))
        wait_s = None
        if isinstance(answer, httpx.Response):
            if answer.status_code == 200:
                return _results(answer, files)
            error = FovealError(_said(answer), answer.status_code)
            is_final = answer.status_code not in _TRY_AGAIN
            wait_s = _retry_after_s(answer.headers.get("retry-after", ""))
        else:
            error = FovealError(_why(question, answer))
            is_final = not isinstance(answer, httpx.NetworkError | httpx.RemoteProtocolError)
        if wait_s is None:
            wait_s = min(0.1 * 2**attempt, 5.0)
        wait_s *= random.uniform(1.0, 1.2)  # others were refused at the same moment
        is_last = attempt == question.retries or time.monotonic() + wait_s >= give_up_at
        if is_final or is_last:
            raise error
        yield wait_s


def _classify(question: _Question, batch: list[_File]) -> _Steps:
    """Return the results of a batch, one for each file; a bad one gets its own error."""
    files = [file for file in batch if not file.error]
    answered = iter((yield from _halve(question, files)) if files else ())
    return [Result(f.name, error=f.error) if f.error else next(answered) for f in batch]


def _halve(question: _Question, files: list[_File]) -> _Steps:
    try:
        return (yield from _ask(question, files))
    except FovealError as error:
        if error.status not in _IMAGES_REFUSED:
            raise
        if len(files) == 1:
            return [Result(files[0].name, error=str(error))]
    middle = len(files) // 2
    first = yield from _halve(question, files[:middle])
    return first + (yield from _halve(question, files[middle:]))


def _request(question: _Question, files: list[_File], left_s: float) -> dict[str, Any]:
    headers = {"X-Request-Timeout-Ms": f"{min(left_s * 1e3, 86_400_000):.0f}"}
    body: dict[str, Any]
    if len(files) == 1:
        headers["Content-Type"] = "application/octet-stream"
        body = {"content": files[0].content}
    else:
        body = {"files": [("image", (str(n), file.content)) for n, file in enumerate(files)]}
    query = {"top": question.top}
    return {"url": question.path, "params": query, "headers": headers, "timeout": left_s, **body}


def _results(answer: httpx.Response, files: list[_File]) -> list[Result]:
    try:
        document = answer.json()
        model, version = document["model"], document["version"]
        pairs = zip(files, document["results"], strict=True)
        return [_result(file.name, model, version, found) for file, found in pairs]
    except (ValueError, KeyError, TypeError) as error:
        raise FovealError(
            f"{answer.url}: expected {len(files)} results of Foveal, got {answer.text[:80]!r}; "
            "check the address"
        ) from error


def _result(name: str, model: str, version: int, found: dict[str, Any]) -> Result:
    if "error" in found:
        return Result(name, error=found["error"])
    predictions = tuple(
        Prediction(each["label"], each["index"], each["probability"])
        for each in found["predictions"]
    )
    labels = tuple(found["labels"]) if "labels" in found else None
    return Result(name, model, version, predictions, labels, found.get("abstained", False))


def _said(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.url}: status {answer.status_code}: {answer.text[:80]!r}"


def _why(question: _Question, error: _Answer) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no answer in {question.timeout_s:g} s"
    return f"no answer: {error or type(error).__name__}"


def _retry_after_s(text: str) -> float | None:
    """Return the seconds of a ``Retry-After``, a number or a date; None if it is neither."""
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    # All dates of HTTP are GMT, whether or not they say so.
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _batches(images: Iterable[Image], most: int, most_bytes: int) -> Iterator[list[_File]]:
    """Read images into batches of at most so many images and bytes; a larger one goes alone."""
    if isinstance(images, str | bytes | os.PathLike):
        raise TypeError(f"images: expected several, got one: predict({images!r:.80})")
    batch: list[_File] = []
    size = 0
    for position, image in enumerate(images):
        file = _open(image, str(position))
        if batch and (len(batch) == most or size + len(file.content) > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += len(file.content)
    if batch:
        yield batch


def _open(image: Image, name: str) -> _File:
    try:
        return _read(image, name)
    except OSError as error:
        path = os.fspath(image)
        return _File(str(path), error=f"{path!s}: {error.strerror}")


def _read(image: Image, name: str) -> _File:
    if isinstance(image, bytes):
        return _File(name, image)
    with open(image, "rb") as file:  # noqa: PTH123 - of any path-like object
        return _File(os.fspath(image), file.read())


class _Service:
    """A service and how it is asked.

    Args:
        url: ``http://host:port``, or ``https://``, with a path if the service is behind one.
        key: API key; None: the variable FOVEAL_API_KEY, if it is set.
        timeout_s: Deadline of a call with all of its tries, seconds.
        retries: Most tries after the first one.
        verify: An ``ssl.SSLContext`` that trusts the service; True: the system's certificates.
    """

    _kind: Any

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = 30.0,
        retries: int = 4,
        verify: Any = True,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise FovealError(f"url: expected http://host:port, got {url!r}")
        key = os.environ.get("FOVEAL_API_KEY", "") if key is None else key
        self._timeout_s, self._retries = timeout_s, retries
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = self._kind(base_url=url, verify=verify, headers=headers)

    def _question(self, model: str, top: int) -> _Question:
        name, _, version = model.partition(":")
        path = f"/models/{quote(name, safe='')}" if name else ""
        path += f"/versions/{quote(version, safe='')}" if version else ""
        return _Question(f"{path}/predict", top, self._timeout_s, self._retries)


class Client(_Service):
    """Asks a service and waits for the answer; threads may share one."""

    _kind = httpx.Client

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(self, image: Image, model: str = "", *, top: int = 5) -> Result:
        """Classify one image.

        Args:
            image: Path, or encoded bytes.
            model: ``name`` or ``name:version``; empty: the service's default.
            top: Number of predictions.

        Raises:
            FovealError: There is no answer; of a bad image, too.
            OSError: The file cannot be read.
        """
        file = _read(image, "0")
        (result,) = self._run(_ask(self._question(model, top), [file]))
        return result  # type: ignore[no-any-return]

    def predict_many(
        self,
        images: Iterable[Image],
        model: str = "",
        *,
        top: int = 5,
        batch: int = 32,
        batch_bytes: int = 4 << 20,
        parallel: int = 4,
    ) -> Iterator[Result]:
        """Classify any number of images, a request for each batch, and yield results in order.

        A bad or unreadable image gets a result with an error.

        Args:
            images: Paths, or encoded bytes; read as they are needed.
            model: As in ``predict``.
            top: As in ``predict``.
            batch: Most images in one request.
            batch_bytes: Most bytes in one request; a larger image goes alone.
            parallel: Requests that are out at once.

        Raises:
            FovealError: A request has no answer; results before it were yielded.
        """
        question = self._question(model, top)
        waiting: deque[Future[list[Result]]] = deque()
        pool = ThreadPoolExecutor(parallel)
        try:
            for files in _batches(images, batch, batch_bytes):
                waiting.append(pool.submit(self._run, _classify(question, files)))
                if len(waiting) > parallel:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _run(self, steps: _Steps) -> Any:
        answer: _Answer = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return end.value
            answer = None
            if isinstance(step, float):
                time.sleep(step)
                continue
            try:
                answer = self._http.post(**step)
            except httpx.HTTPError as error:
                answer = error


class AsyncClient(_Service):
    """Asks a service from an event loop; ``Client`` says what the methods do."""

    _kind = httpx.AsyncClient

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def predict(self, image: Image, model: str = "", *, top: int = 5) -> Result:
        """Classify one image."""
        file = await asyncio.to_thread(_read, image, "0")
        (result,) = await self._run(_ask(self._question(model, top), [file]))
        return result  # type: ignore[no-any-return]

    async def predict_many(
        self,
        images: Iterable[Image],
        model: str = "",
        *,
        top: int = 5,
        batch: int = 32,
        batch_bytes: int = 4 << 20,
        parallel: int = 4,
    ) -> AsyncIterator[Result]:
        """Classify any number of images, a request for each batch, and yield results in order."""
        question = self._question(model, top)
        batches = _batches(images, batch, batch_bytes)
        waiting: deque[asyncio.Task[list[Result]]] = deque()
        try:
            while (files := await asyncio.to_thread(next, batches, None)) or waiting:
                if files:
                    waiting.append(asyncio.create_task(self._run(_classify(question, files))))
                if not files or len(waiting) > parallel:
                    for result in await waiting.popleft():
                        yield result
        finally:
            for task in waiting:
                task.cancel()

    async def _run(self, steps: _Steps) -> Any:
        answer: _Answer = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return end.value
            answer = None
            if isinstance(step, float):
                await asyncio.sleep(step)
                continue
            try:
                answer = await self._http.post(**step)
            except httpx.HTTPError as error:
                answer = error
