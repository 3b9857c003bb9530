"""A web server of images on loopback that answers late, trickles, dies or refuses, as told."""

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web(ThreadingHTTPServer):
    """Answers ``/0``, ``/1``… with its images, in a circle.

    Attributes:
        delay_s: Before each answer.
        requests: Number of requests so far.
        most_at_once: Most requests that were open at the same time.
        dies_after: Requests that are answered; later ones never are. None: all.
        fails: Status of the first answer to each path; 0: none fails.
    """

    request_queue_size = 256
    daemon_threads = True
    delay_s = 0.0
    dies_after: int | None = None
    fails = 0

    def __init__(self, images: list[bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.images = images
        self.requests = self.most_at_once = self.open = 0
        self.failed: set[str] = set()
        self.lock = threading.Lock()
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        web = self.server
        with web.lock:
            web.requests += 1
            web.open += 1
            web.most_at_once = max(web.most_at_once, web.open)
            is_dead = web.dies_after is not None and web.requests > web.dies_after
            is_refused = bool(web.fails) and self.path not in web.failed
            web.failed.add(self.path)
        try:
            if is_dead:
                web.ended.wait()
                self.close_connection = True
                return
            time.sleep(web.delay_s)
            self._answer(is_refused=is_refused)
        finally:
            with web.lock:
                web.open -= 1

    def _answer(self, *, is_refused: bool) -> None:
        name = self.path.rpartition("/")[2].partition(".")[0]
        if is_refused:
            self.send_error(self.server.fails)
        elif name == "trickle":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            while not self.server.ended.wait(0.05):
                self.wfile.write(b"x")
        elif name == "endless":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            while not self.server.ended.is_set():
                self.wfile.write(bytes(1 << 20))
        elif not name.isdecimal():
            self.send_error(404)
        else:
            content = self.server.images[int(name) % len(self.server.images)]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, ValueError):  # the client left
            super().handle()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def serving(images: list[bytes]) -> Iterator[Web]:
    with Web(images) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield web
        finally:
            web.ended.set()
            web.shutdown()
            thread.join()
