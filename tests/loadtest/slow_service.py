"""A service in this process that takes its time, one request after the other, or refuses."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator


class SlowService:
    """Answers every POST with the label that its body names, ``service_s`` each, in turns.

    Args:
        service_s: Time that one request takes the one who answers.
        room: Requests that may wait; more are refused with 429.
    """

    def __init__(self, service_s: float, room: int = 1_000_000) -> None:
        self.service_s = service_s
        self.room = room
        self.retry_after = "2"
        self.waiting = 0
        self.headers: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                size = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
                body = await reader.readexactly(size)
                self.headers.append(head)
                writer.write(await self.answer(body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    async def answer(self, body: bytes) -> bytes:
        if self.waiting >= self.room:
            head = f"HTTP/1.1 429 Busy\r\nRetry-After: {self.retry_after}\r\nContent-Length: 17"
            return head.encode() + b'\r\n\r\n{"error": "busy"}'
        self.waiting += 1
        async with self.turn:
            await asyncio.sleep(self.service_s)
        self.waiting -= 1
        said = b'{"label": %s}' % body
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said)

    async def run(self, started: threading.Event) -> None:
        self.turn = asyncio.Lock()
        self.stopped = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self.stopped.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.05)  # for the transports to close


@contextlib.contextmanager
def slow_service(service_s: float, room: int = 1_000_000) -> Iterator[tuple[str, SlowService]]:
    service = SlowService(service_s, room)
    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(service.run(started)))
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{service.port}", service
    finally:
        service.loop.call_soon_threadsafe(service.stopped.set)
        thread.join(10)
