"""A crowd: `python -m tests.crowd PORT FILE CONNECTIONS` posts one request over and over on each.

A process of its own, so that it takes no time from whoever measures beside it. Ends when its
standard input does, with a line: answers, and those that were not 200.
"""

import selectors
import socket
import sys
from pathlib import Path


def main(port: int, request: bytes, connections: int) -> None:
    """Keep one request out on each connection."""
    answers = failures = 0
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(request)
        selector.register(connection, selectors.EVENT_READ)
    print("out", flush=True)
    while True:
        for key, _ in selector.select():
            if not isinstance(key.fileobj, socket.socket):
                print(answers, failures)
                return
            answer = key.fileobj.recv(1 << 16)  # small answers come in one piece
            answers += 1
            failures += not answer.startswith(b"HTTP/1.1 200 ")
            key.fileobj.sendall(request)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]).read_bytes(), int(sys.argv[3]))
