"""nginx, as it is shipped, in front of a service whose workers end."""

import threading
import time
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from models.image import encode_png
from tests.faults.stalling import harmless_images, publish_stalling, stalling_image
from tests.faults.test_workers import wait_until
from tests.places import has_nginx, nginx
from tests.server import running_server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not has_nginx(), reason="needs Debian's nginx"),
]


def test_request_that_ends_a_worker_is_not_sent_again(tmp_path: Path) -> None:
    """The image that stalls one worker would stall the next; killed with it, it is not retried."""
    publish_stalling(tmp_path / "models")
    with (
        running_server(tmp_path / "models", tmp_path, workers=2) as server,
        nginx(server.port, 0, tmp_path) as front,
    ):
        wait_until(lambda: server.log.count("ready after") == 2, 30, "two workers")
        url = f"http://127.0.0.1:{front.port}/predict"
        statuses: list[int] = []
        harmless = encode_png(harmless_images(1)[0])
        for _ in range(4):  # nginx keeps the connections: only on a kept one does it try again
            assert httpx.post(url, content=harmless, timeout=5).status_code == 200

        def ask() -> None:
            image = encode_png(stalling_image())
            statuses.append(httpx.post(url, content=image, timeout=30).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        workers = psutil.Process(server.process.pid).children()

        def busy() -> list[psutil.Process]:
            return [w for w in workers if w.is_running() and w.cpu_percent(0.2) > 20]

        wait_until(lambda: len(busy()) == 1, 10, "one worker that stalls")
        busy()[0].kill()
        asking.join(10)
        assert statuses == [502]
        time.sleep(0.5)
        assert not busy(), "the other worker got it, too"
        assert httpx.post(url, content=harmless, timeout=5).status_code == 200
