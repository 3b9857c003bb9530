"""URLs: files behind them, opened and fetched by fsspec, many at once, each within a stated time.

fsspec, from the ``remote`` extra, opens ``https://``, ``s3://``, ``gs://``, ``hdfs://``,
``memory://``… All its work is done on its own event loop or on threads that may be abandoned, so
that a service that does not answer holds nothing. Knows nothing about images.
"""

import asyncio
import io
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NoResult
from functools import cache, partial
from threading import Thread
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

from models.installation import how_to_add, how_to_install
from scoring.rows import LostError, ScoreError

try:  # the `remote` extra; only URLs need it
    import fsspec
    import fsspec.asyn
except ImportError:
    fsspec = None

# Seconds that a file behind a URL, or a piece of an archive or a table, may take with all tries.
LIMIT_S = 60.0
# Requests at once: at 50 ms each, 640 images a second.
IN_FLIGHT = 32
# The same service did not answer so many requests, and no other did: it is gone.
_LOST = 16
# Tries of a service that has not answered once; one that has is tried until the limit.
_TRIES = 3
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
# Files that are fetched and not decoded yet; beyond it, only the oldest goes on.
_HELD_BYTES = 256 << 20
_PIECE_BYTES = 1 << 20
# Keys under which file systems give the date or the tag of a file's last change.
_DATES = ("mtime", "ETag", "etag", "LastModified", "last_modified", "modificationTime", "created")
# HTTP: too early, too slow or too many requests; other statuses of 4xx are answers.
_TRY_AGAIN = frozenset({408, 425, 429})
# What fsspec opens the URLs of a cloud with.
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
}
_ANSWERS = (
    *(FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError),
    *(NotImplementedError, ValueError),
)

_T = TypeVar("_T")


def is_url(path: str) -> bool:
    """Whether a path is a URL, to be opened by fsspec."""
    return "://" in path


def is_http(url: str) -> bool:
    """Whether a URL is one of a web server, which has no folders."""
    return url[:8].lower().startswith(("http://", "https://"))


def check_scheme(url: str) -> None:
    """Check that URLs of this kind can be opened, without opening one.

    Raises:
        ScoreError: fsspec, or its package for this kind of URL, is missing.
    """
    if fsspec is None:
        raise ScoreError(f"{url}: expected fsspec for a URL, got none; {how_to_add('remote')}")
    reason = "" if "::" in url else _unknown(url.partition("://")[0])
    if reason:
        package = _PACKAGES.get(url.partition("://")[0].lower())
        how = f"; {how_to_install(package)}" if package else ""
        raise ScoreError(f"{url}: expected a URL that fsspec opens, got: {reason}{how}")


@cache
def _unknown(scheme: str) -> str:
    """Return why URLs of a scheme cannot be opened; "" if they can."""
    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        return _line(error)
    return ""


def file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL and the path in it.

    Raises:
        ScoreError: fsspec, or its package for this kind of URL, is missing.
    """
    check_scheme(url)
    try:
        system, inner = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ScoreError(f"{url}: expected a URL that fsspec opens, got: {error}") from None
    return system, inner


class url_errors:
    """Turn any exception of a remote file system within a block into a ScoreError.

    Args:
        url: Its name in the error.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        """Do nothing yet."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Raise ScoreError in place of the exception."""
        if isinstance(error, Exception) and not isinstance(error, ScoreError):
            raise ScoreError(
                f"{self._url}: expected a readable file, got: {_line(error)}"
            ) from None


def within_limit(url: str, work: Callable[[], _T]) -> _T:
    """Do a piece of work on a thread that is abandoned after ``LIMIT_S``.

    Args:
        url: What it is about, for the message.
        work: Reads or lists.

    Raises:
        LostError: It took longer.
    """
    return _wait(url, _begin(work))


def _wait(url: str, done: "Future[_T]") -> _T:
    try:
        return done.result(LIMIT_S)
    except NoResult:
        if done.done():  # the work's own
            raise
        raise LostError(
            f"{url}: expected an answer within {LIMIT_S:g} s, got none; check the network, then go "
            "on with --resume"
        ) from None


def dates(urls: Sequence[str]) -> list[str]:
    """Return size and date, or tag, of files behind URLs; asks for ``IN_FLIGHT`` at once.

    Raises:
        LostError: One does not answer in time.
        ScoreError: One cannot be asked for.
    """
    found: list[str] = []
    for begin in range(0, len(urls), IN_FLIGHT):
        some = [(url, *file_system(url)) for url in urls[begin : begin + IN_FLIGHT]]
        asked = [(url, _begin(partial(system.info, inner))) for url, system, inner in some]
        for url, future in asked:
            with url_errors(url):
                found.append(_date(url, future))
    return found


def _date(url: str, asked: "Future[dict[str, Any]]") -> str:
    try:
        about = _wait(url, asked)
    except (FileNotFoundError, PermissionError):  # an error of its row, later
        return "unreadable"
    written = next((str(about[key]) for key in _DATES if about.get(key)), "")
    return f"{about.get('size')} {written}"


def _begin(work: Callable[[], _T]) -> "Future[_T]":
    done: Future[_T] = Future()
    Thread(target=_do, args=(work, done), name="url", daemon=True).start()
    return done


def _do(work: Callable[[], _T], done: "Future[_T]") -> None:
    try:
        done.set_result(work())
    except BaseException as error:
        done.set_exception(error)


def open_url(url: str) -> BinaryIO:
    """Open a file behind a URL for reading; no read of it lasts longer than ``LIMIT_S``.

    Raises:
        LostError: It does not answer in time.
        ScoreError: It cannot be opened.
    """
    with url_errors(url):
        system, inner = file_system(url)
        file = within_limit(url, partial(system.open, inner, "rb"))
        return cast(BinaryIO, io.BufferedReader(_Limited(url, file), _PIECE_BYTES))


class _Limited(io.RawIOBase):
    """A file behind a URL, each read of which has a limit of time.

    Args:
        url: Its name in errors.
        file: The file.
    """

    def __init__(self, url: str, file: Any) -> None:
        self._url = url
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        try:
            piece = within_limit(self._url, partial(self._file.read, len(buffer)))
        except OSError as error:
            raise LostError(
                f"{self._url}: expected a file that can be read to its end, got: {_line(error)}; "
                "check the network, then go on with --resume"
            ) from error
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class Fetched:
    """A file that is on its way; ``read`` waits for it."""

    def __init__(self, future: "Future[bytes]", give: Callable[[int], None]) -> None:
        self._future = future
        self._give = give

    def read(self) -> bytes:
        """Return the whole file; only once.

        Raises:
            LostError: The service does not answer any more, or the job ends.
            ScoreError: It is missing, unreadable or too long.
        """
        try:
            content = self._future.result()
        except CancelledError:
            raise LostError("file: expected to be read, got a job that ends") from None
        self._give(len(content))
        return content


class Fetches:
    """Files behind URLs, fetched at once and in order: ``IN_FLIGHT`` of them, within a memory.

    A file whose service does not answer is tried again until ``LIMIT_S``. Then it is a row with an
    error, if other files came meanwhile; if none did, the service is gone and the job ends.

    Args:
        check_size: Raises ScoreError for a size that is too large.
    """

    def __init__(self, check_size: Callable[[int], None]) -> None:
        self._check_size = check_size
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._held_bytes = 0
        self._waiting_for_room: list[asyncio.Future[None]] = []
        self._number = 0
        # Numbers of the files that are being fetched, and those that wait for a verdict.
        self._active: set[int] = set()
        self._failed: list[tuple[str, asyncio.Future[bool]]] = []
        self._known: set[str] = set()
        self._futures: set[Future[bytes]] = set()

    def begin(self, url: str) -> "Fetched | ScoreError":
        """Fetch a file when its turn comes; one thread calls this, in the order of reading."""
        try:
            system, inner = file_system(url)
        except ScoreError as error:
            return ScoreError(f"file: {error}")
        self._loop = self._loop or fsspec.asyn.get_loop()
        self._number += 1
        coroutine = self._fetch(self._number, url, system, inner)
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return Fetched(future, self._give_later)

    def close(self) -> None:
        """End all that is on its way; those who wait for it get a LostError."""
        for future in list(self._futures):
            future.cancel()

    async def _fetch(self, number: int, url: str, system: Any, inner: str) -> bytes:
        async with self._slots:
            self._active.add(number)
            try:
                return await self._try(number, url, system, inner)
            finally:
                self._active.discard(number)
                self._judge()
                self._wake()

    async def _try(self, number: int, url: str, system: Any, inner: str) -> bytes:
        loop = asyncio.get_running_loop()
        service = urlsplit(url)[:2]
        host, pause, tries = f"{service[0]}://{service[1]}", _PAUSE_S, 0
        deadline = asyncio.timeout_at(loop.time() + LIMIT_S)
        reason = "no answer"
        try:
            async with deadline:
                while True:
                    body = _Body(self, number, deadline)
                    try:
                        content = await self._get(body, url, system, inner)
                    except Exception as error:
                        body.forget()
                        if _is_answer(error):
                            self._answered(host)
                            raise
                        reason = _line(error)
                    else:
                        self._answered(host)
                        return content
                    tries += 1
                    if tries >= _TRIES and host not in self._known:
                        break
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_S)
        except TimeoutError:
            body.forget()
            reason = f"nothing whole within {LIMIT_S:g} s ({reason})"
        except ScoreError:
            raise
        except Exception as error:
            raise ScoreError(f"file: expected a readable file, got: {_line(error)}") from None
        self._active.discard(number)
        self._wake()
        if await self._verdict(host):
            raise LostError(
                f"{host}: expected answers, got none to {_LOST} requests; the last: {reason}; "
                "check the network, then go on with --resume"
            )
        raise ScoreError(f"file: expected a readable file, got: {reason}")

    async def _get(self, body: "_Body", url: str, system: Any, inner: str) -> bytes:
        if is_http(url):
            session = await system.set_session()
            async with session.get(system.encode_url(inner), **system.kwargs) as response:
                system._raise_not_found_for_status(response, url)
                self._check_size(response.content_length or 0)
                async for piece in response.content.iter_chunked(_PIECE_BYTES):
                    await body.add(piece)
                    self._check_size(body.size)
            return body.content()
        info = system._info if system.async_impl else partial(_on_thread, system.info)
        cat = system._cat_file if system.async_impl else partial(_on_thread, system.cat_file)
        size = (await info(inner)).get("size")
        if size is None:
            raise ScoreError("file: expected a file whose size is known, got another")
        self._check_size(size)
        await body.take(size)
        return cast(bytes, await cat(inner))

    def _answered(self, host: str) -> None:
        self._known.add(host)
        for _, verdict in self._failed:
            if not verdict.done():
                verdict.set_result(False)
        self._failed.clear()

    async def _verdict(self, host: str) -> bool:
        """Return whether the service is gone, as soon as that is clear."""
        verdict = asyncio.get_running_loop().create_future()
        self._failed.append((host, verdict))
        self._judge()
        return bool(await verdict)

    def _judge(self) -> None:
        failed = len(self._failed)
        if not failed or (self._active and failed < _LOST):
            return
        is_lost = failed >= _LOST and len({host for host, _ in self._failed}) == 1
        for _, verdict in self._failed:
            if not verdict.done():
                verdict.set_result(is_lost)
        self._failed.clear()

    async def take(self, number: int, size: int) -> None:
        """Wait until a file may take more memory; the oldest may at once, as all wait for it."""
        while self._held_bytes + size > _HELD_BYTES and number != min(self._active):
            room = asyncio.get_running_loop().create_future()
            self._waiting_for_room.append(room)
            await room
        self._held_bytes += size

    def give(self, size: int) -> None:
        """Give back memory; on the loop."""
        self._held_bytes -= size
        self._wake()

    def _wake(self) -> None:
        for room in self._waiting_for_room:
            if not room.done():
                room.set_result(None)
        self._waiting_for_room.clear()

    def _give_later(self, size: int) -> None:
        assert self._loop is not None, "nothing was begun; this is a bug"
        self._loop.call_soon_threadsafe(self.give, size)


class _Body:
    """The bytes of one try, and the memory that they take.

    Args:
        fetches: Gives memory.
        number: Of the file.
        deadline: Of the file; moves on while it waits for memory.
    """

    def __init__(self, fetches: Fetches, number: int, deadline: asyncio.Timeout) -> None:
        self._fetches = fetches
        self._number = number
        self._deadline = deadline
        self._pieces: list[bytes] = []
        self.size = 0

    async def add(self, piece: bytes) -> None:
        """Add a piece that has come."""
        await self.take(len(piece))
        self._pieces.append(piece)

    async def take(self, size: int) -> None:
        """Take memory; waiting for it does not count against the limit."""
        loop = asyncio.get_running_loop()
        began, when = loop.time(), self._deadline.when()
        self._deadline.reschedule(None)
        await self._fetches.take(self._number, size)
        self.size += size
        self._deadline.reschedule(None if when is None else when + loop.time() - began)

    def content(self) -> bytes:
        """Return the whole body."""
        return b"".join(self._pieces)

    def forget(self) -> None:
        """Give its memory back."""
        self._pieces.clear()
        self._fetches.give(self.size)
        self.size = 0


async def _on_thread(work: Callable[[str], _T], path: str) -> _T:
    """Do a file system's work that is not asynchronous, on a thread that may be abandoned."""
    return await asyncio.wrap_future(_begin(partial(work, path)))


def _is_answer(error: Exception) -> bool:
    """Whether a service has answered, so that another try would get the same."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in _TRY_AGAIN
    return isinstance(error, _ANSWERS)


def _line(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
