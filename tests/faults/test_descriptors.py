"""No descriptors left: new connections are closed, old ones answered, and nothing spins."""

import contextlib
import resource
import socket
import time
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from models.image import encode_png
from tests.faults.test_workers import wait_until
from tests.server import Wire, post, running_server
from tests.tiny import random_images

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux sets limits from outside"),
]
PNG = encode_png(random_images(1)[0])


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_descriptors(tiny_repository: Path, tmp_path: Path) -> None:
    with running_server(tiny_repository, tmp_path) as server, Wire(server) as wire:
        assert wire.send(post("/predict", PNG)).answer().status == 200
        (worker,) = psutil.Process(server.process.pid).children()
        limit = worker.num_fds() + 5
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (limit, limit))
        with contextlib.ExitStack() as stack:
            opened = [
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                for _ in range(50)
            ]
            wait_until(lambda: sum(map(is_closed, opened)) >= 40, 10, "connections are shed")
            before = sum(worker.cpu_times()[:2])
            time.sleep(2)
            assert sum(worker.cpu_times()[:2]) - before < 0.5, "it spins"
            assert wire.send(post("/predict", PNG)).answer().status == 200
        assert worker.is_running()
        time.sleep(0.3)
        assert httpx.post(f"{server.url}/predict", content=PNG).status_code == 200
