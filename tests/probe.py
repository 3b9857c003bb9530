"""A probe: `python -m tests.probe PORT [CLOCK]` asks a server for its health, again and again.

A process of its own: a thread would wait for whoever loads the server from beside it, and take that
for the server. Ends when its standard input does, with the longest answer in seconds. CLOCK is a
file of Linux' schedstat: of each answer the shorter counts, its time or what that thread computed.
"""

import select
import socket
import sys
import time
from pathlib import Path

REQUEST = b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n"


def computed_s(path: Path) -> float:
    """Return the processor time of a thread, seconds: schedstat's first number, in nanoseconds."""
    return int(path.read_text().split()[0]) / 1e9


def main(port: int, path: Path | None) -> None:
    """Ask until standard input ends."""
    longest_s = 0.0
    connection = socket.create_connection(("127.0.0.1", port), timeout=120)
    print("asking", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        started, before_s = time.monotonic(), computed_s(path) if path else 0.0
        connection.sendall(REQUEST)
        answer = connection.recv(1 << 16)  # it comes in one piece
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        answer_s = time.monotonic() - started
        longest_s = max(longest_s, min(answer_s, computed_s(path) - before_s) if path else answer_s)
    print(longest_s)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
