"""Servers of the Open Inference Protocol's tests: both wires, tiny models and shipped ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.access.keys import add_key
from tests.certificates import make_certificate
from tests.guarded import ADMIN, PAGE, Guarded
from tests.server import ROOT, RunningServer, free_port, running_server


@pytest.fixture(scope="session")
def two_wires(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """The tiny models over HTTP and gRPC; few rows a request, rows held back a little."""
    with running_server(
        tiny_repository,
        tmp_path_factory.mktemp("two-wires"),
        grpc_port=free_port(),
        max_request_rows=70,
        max_body_bytes=1 << 20,
        max_image_pixels=10_000,
    ) as running:
        yield running


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The shipped models over HTTP and gRPC."""
    with running_server(
        ROOT / "models", tmp_path_factory.mktemp("shipped"), grpc_port=free_port()
    ) as running:
        yield running


@pytest.fixture(scope="session")
def guarded(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A guarded service of two workers; a key without a limit, and one of 2 requests/s."""
    folder = tmp_path_factory.mktemp("guarded")
    keys, metrics_port = folder / "keys.toml", free_port()
    free, slow = add_key(keys, "free"), add_key(keys, "slow", 2, 4)
    certificate, key = make_certificate(folder, "first")
    with running_server(
        tiny_repository,
        folder,
        grpc_port=free_port(),
        workers=2,
        api_keys_file=keys,
        admin_token=ADMIN,
        cors_origins=f"{PAGE}, http://localhost:5173",
        tls_cert=certificate,
        tls_key=key,
        metrics_port=metrics_port,
        metrics_host="127.0.0.1",
    ) as server:
        yield Guarded(server, folder, free, slow, metrics_port)
        for secret in (free, slow, ADMIN):
            assert secret not in server.log
