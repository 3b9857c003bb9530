"""Servers of the Open Inference Protocol's tests: both wires, tiny models and shipped ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest

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
