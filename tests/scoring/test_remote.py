import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from scoring.remote import RemoteError, RemoteModel


@contextmanager
def some_server(status: int, content_type: str, body: bytes) -> Iterator[str]:
    """A web server that is no foveal: it says the same to everybody."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "content_type", "body", "match"),
    [
        (200, "text/html", b"<h1>hello</h1>", "got status 200 and text/html; check the address"),
        (502, "text/plain", b"bad gateway", "got status 502 and text/plain"),
        (200, "application/json", b"[]", "got status 200 and application/json"),
        (200, "application/json", b'{"a": 1}', "got one without 'model'"),
        (200, "application/json", b'{"model": "m", "version": 1, "results": []}', "got one"),
        (404, "application/json", b'{"detail": "Not Found"}', "got status 404"),
        (503, "application/json", b'{"error": "draining"}', "^http://127.0.0.1:[0-9]+: draining$"),
    ],
)
def test_a_response_of_another_program_is_reported(
    status: int, content_type: str, body: bytes, match: str
) -> None:
    with some_server(status, content_type, body) as url, pytest.raises(RemoteError, match=match):
        RemoteModel(url).predict([b"image"], 1)


def test_a_refused_image_is_a_result() -> None:
    with some_server(400, "application/json", b'{"error": "image: no"}') as url:
        answer = RemoteModel(url, "name:3").predict([b"1", b"2"], 1)
    assert answer == {
        "model": "name",
        "version": 3,
        "results": [{"error": "image: no"}, {"error": "image: no"}],
    }


@pytest.mark.parametrize("url", ["localhost:3000", "ftp://localhost", "http://", "http://a:b", ""])
def test_an_invalid_url_is_reported(url: str) -> None:
    with pytest.raises(RemoteError, match=r"^url: expected http://host:port, got"):
        RemoteModel(url)
