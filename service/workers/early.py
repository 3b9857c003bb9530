"""Answers on the service's port while the supervisor imports what the service is made of.

Live, not ready: the imports take seconds on a busy machine, and a port that refuses connections
looks like a service that is gone. One thread reads the head of one request a connection, answers
it and closes. The socket then becomes the workers' as it is: a connection is answered here, or by
a worker. Not for TLS, whose connections wait for a worker.
"""

import contextlib
import os
import re
import select
import socket
import threading
import time
from collections import deque
from typing import Any

from service.lane.request_ids import RequestIds, fit

_LIVE = frozenset({b"/livez", b"/healthz", b"/v2/health/live"})
_NOT_READY = b'{"error":"not ready: loading the service; retry"}'
LOADING_PAGE = (
    b'<!doctype html><html lang="en"><meta charset="utf-8"><title>Foveal is starting</title>'
    b'<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="1">'
    b"<h1>Foveal is starting</h1><p>It loads its models; this page opens by itself.</p></html>"
)
"""What a browser gets until models are loaded."""

_HEAD = (
    b"HTTP/1.1 %s\r\nx-request-id: %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n"
    b"%sconnection: close\r\n\r\n"
)
_ID = re.compile(rb"\nx-request-id:[ \t]*([!-~]+)[ \t]*\r\n", re.IGNORECASE)
_HTML = re.compile(rb"^accept:.*text/html", re.IGNORECASE | re.MULTILINE)
_READ_BYTES = 1 << 16
_BACKLOG = 2048  # BentoML's default
_TURN_S = 0.05
# An answered connection stays open so long, or while there are fewer: closed with bytes of a body
# unread, it would be reset, and the answer lost.
_LINGER_S = 1.0
_MOST_LINGERING = 256


class EarlyAnswers:
    """The socket of the service before it has workers, and the thread that answers there.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0: a free one.

    Attributes:
        port: The one that it listens on.

    Raises:
        OSError: The address cannot be listened on.
    """

    def __init__(self, host: str, port: int) -> None:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._listener = socket.socket(family, kind)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind(address)
        except OSError:
            self._listener.close()
            raise
        self.port: int = self._listener.getsockname()[1]
        self._defer(1)
        self._listener.setblocking(False)
        self._listener.listen(_BACKLOG)
        self._is_over = False
        self._has_answered = threading.Event()  # all that it has accepted
        threading.Thread(target=self._run, name="early", daemon=True).start()

    def hand_over(self, listener: Any) -> None:
        """Stop answering; make a socket of circus this one, bound and listening.

        What was answered lingers on: the thread then only sleeps and closes, also while workers
        are forked, which have neither the thread nor its connections.
        """
        self._is_over = True
        self._has_answered.wait()
        self._defer(0)
        os.dup2(self._listener.fileno(), listener.fileno())
        self._listener.close()
        listener.setblocking(False)
        listener.bind_and_listen = lambda: None

    def _defer(self, seconds: int) -> None:
        """Have the kernel keep connections until their first bytes are there, where it can.

        A silent one is then not accepted here, but later by a worker, as any other.
        """
        if hasattr(socket, "TCP_DEFER_ACCEPT"):
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, seconds)

    def _run(self) -> None:
        lingering: deque[tuple[float, socket.socket]] = deque()
        while not self._is_over:
            if select.select([self._listener], [], [], _TURN_S)[0]:
                with contextlib.suppress(OSError):  # the client is gone
                    connection, _address = self._listener.accept()
                    lingering.append((time.monotonic() + _LINGER_S, connection))
                    connection.settimeout(_TURN_S)
                    connection.send(answer(connection.recv(_READ_BYTES)))
                    connection.shutdown(socket.SHUT_WR)
            while lingering and (
                lingering[0][0] < time.monotonic() or len(lingering) > _MOST_LINGERING
            ):
                lingering.popleft()[1].close()
        self._has_answered.set()
        for until, connection in lingering:
            time.sleep(max(0.0, until - time.monotonic()))
            connection.close()


_ids = RequestIds()


def answer(head: bytes) -> bytes:
    """Return the answer to a request.

    Args:
        head: It, or at least its first line; of the others the id and what is accepted are read.
    """
    line, _, lines = head.partition(b"\r\n\r\n")[0].partition(b"\r\n")
    found = _ID.search(b"\n" + lines + b"\r\n")
    request_id = (fit(found[1]) if found else b"") or _ids.make()
    method, _, rest = line.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if method in (b"GET", b"HEAD") and path in _LIVE:
        body, start = b"\n", _HEAD % (b"200 OK", request_id, b"text/plain; charset=utf-8", 1, b"")
    else:
        body, kind, status = _NOT_READY, b"application/json", b"503 Service Unavailable"
        if path == b"/" and _HTML.search(lines):
            body, kind = LOADING_PAGE, b"text/html; charset=utf-8"
        start = _HEAD % (status, request_id, kind, len(body), b"retry-after: 1\r\n")
    return start if method == b"HEAD" else start + body


_early: list[EarlyAnswers] = []  # this process', until its supervisor takes their socket


def begin(host: str, port: int) -> int:
    """Listen on the service's port and answer until ``end``; return the port.

    Raises:
        OSError: The address cannot be listened on.
    """
    _early.append(EarlyAnswers(host, port))
    return _early[-1].port


def end(listener: Any) -> None:
    """Give the socket to circus in place of its own, if there is one."""
    while _early:
        _early.pop().hand_over(listener)
