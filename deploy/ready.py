"""End with 0 once the service is ready: a container's health check, systemd's wait at the start.

    python deploy/ready.py [--port 3000] [--wait SECONDS] [--pid PROCESS]

Asks ``/readyz`` of this machine over a plain socket: nothing but the standard library, and little
of that, since a health check starts a process every few seconds. With a process it does not wait
for what has ended. Where FOVEAL_TLS_CERT is set, the service speaks TLS; whose certificate it has
is not checked here, as nothing is sent but this question, to this machine.
"""

import os
import socket
import sys
import time

HAS_TLS = bool(os.environ.get("FOVEAL_TLS_CERT"))
if HAS_TLS:  # it takes longer to import than all the rest
    import ssl

ANSWER_S = 2.0
PAUSE_S = 0.1


def is_ready(port: int) -> bool:
    """Ask once."""
    try:
        with _connect(port) as connection:
            connection.sendall(
                b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            with connection.makefile("rb") as answer:
                return answer.readline().split()[1:2] == [b"200"]
    except OSError:
        return False


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), ANSWER_S)
    connection.settimeout(ANSWER_S)
    if not HAS_TLS:
        return connection
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connection)


def is_gone(pid: int) -> bool:
    """Return whether a process has ended; 0 means no process."""
    try:
        if pid:
            os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's, and there
        pass
    return False


def main(words: list[str]) -> int:
    """Return the exit code: 0 ready, 1 not in time, 2 wrong usage."""
    options = {"--port": 3000.0, "--wait": 0.0, "--pid": 0.0}
    try:
        for name, value in zip(words[::2], words[1::2], strict=True):
            if name not in options:
                raise ValueError(name)
            options[name] = float(value)
    except ValueError:
        print(__doc__, file=sys.stderr)
        return 2
    port = int(options["--port"])
    until = time.monotonic() + options["--wait"]
    while not is_ready(port):
        if time.monotonic() > until or is_gone(int(options["--pid"])):
            print(f"127.0.0.1:{port}: expected a ready service, got none", file=sys.stderr)
            return 1
        time.sleep(PAUSE_S)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
