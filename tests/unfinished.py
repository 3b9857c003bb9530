"""gRPC calls whose message never ends, as raw HTTP/2: gRPC's own client cannot send one."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from types import TracebackType

_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_ACK, _END_HEADERS = 1, 4
# RFC 9113, 3.4; then an empty SETTINGS frame.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# What gRPC's server lets a new connection send before it has read anything.
WINDOW_BYTES = 3 << 20


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


def _head(path: str) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "a",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )


class Unfinished:
    """One connection with calls whose message of 30 MB has begun.

    Args:
        address: ``host:port`` of gRPC.
        path: Of the method.
        calls: Calls on the connection.
        sent_bytes: Sent of each message; all together at most ``WINDOW_BYTES``.
    """

    def __init__(self, address: str, path: str, calls: int = 1, sent_bytes: int = 0) -> None:
        assert calls * (sent_bytes + 5) <= WINDOW_BYTES
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b""))
        # The server's settings open its windows once they are acknowledged.
        self.received = self._socket.recv(1 << 16)
        self._socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        begun = b"\0" + struct.pack(">I", 24_000_000) + bytes(sent_bytes)
        for number in range(calls):
            stream = 2 * number + 1
            self._socket.sendall(_frame(_HEADERS, _END_HEADERS, stream, _head(path)))
            for start in range(0, len(begun), 1 << 14):
                self._socket.sendall(_frame(_DATA, 0, stream, begun[start : start + (1 << 14)]))
        self._socket.setblocking(False)

    def __enter__(self) -> "Unfinished":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def count(self, text: bytes) -> int:
        """Count a text in all that the server has sent."""
        with contextlib.suppress(BlockingIOError):
            self.received += self._socket.recv(1 << 20)
        return self.received.count(text)


@contextlib.contextmanager
def unfinished(
    address: str, path: str, connections: int, sent_bytes: int
) -> Iterator[list[Unfinished]]:
    """Open connections with one unfinished call each."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(Unfinished(address, path, sent_bytes=sent_bytes))
            for _ in range(connections)
        ]
