"""A service with keys, cross-origin rules, TLS and a port for its metrics."""

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx

from tests.server import ROOT, RunningServer

ADMIN = "the-admin-token"
PAGE = "https://page.example"
IMAGE = next((ROOT / "models").glob("fashion-fcnn/*/golden/0.png")).read_bytes()
PREFLIGHT = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}


@dataclass
class Guarded:
    """A service of two workers with everything that restricts access."""

    server: RunningServer
    folder: Path
    free: str  # a key without a limit
    slow: str  # one of 2 requests/s
    metrics_port: int

    def request(self, method: str, path: str, key: str = "", **options: Any) -> httpx.Response:
        trusted = ssl.create_default_context(cafile=self.server.certificate)
        headers = options.pop("headers", {}) | ({"Authorization": f"Bearer {key}"} if key else {})
        return httpx.request(
            method, f"{self.server.url}{path}", verify=trusted, headers=headers, **options
        )

    def predict(self, key: str = "", **options: Any) -> httpx.Response:
        return self.request("POST", "/predict", key, content=IMAGE, **options)

    def metrics(self) -> httpx.Response:
        trusted = ssl.create_default_context(cafile=self.server.certificate)
        return httpx.get(f"https://127.0.0.1:{self.metrics_port}/metrics", verify=trusted)

    def channel(self) -> grpc.Channel:
        trusted = Path(self.server.certificate).read_bytes()
        return grpc.secure_channel(
            f"localhost:{self.server.grpc_port}",
            grpc.ssl_channel_credentials(trusted),
            [("grpc.use_local_subchannel_pool", 1)],
        )

    def served_name(self, port: int) -> str:
        """Return the name in the certificate that a port serves now."""
        context = ssl.create_default_context(cafile=self.server.certificate)
        with (
            socket.create_connection(("127.0.0.1", port), 5) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            subject: Any = (wrapped.getpeercert() or {})["subject"]
        return str(subject[0][0][1])


def until(is_true: Callable[[], bool], what: str, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
