"""Servers that several files share: both wires, two workers, tiny models and shipped ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.repository import ModelRepository
from tests.guarded import ADMIN, until
from tests.server import ROOT, START_S, RunningServer, free_port, running_server
from tests.tiny import publish_tiny


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
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Two workers on both wires, which poll a repository of their own: ``models`` beside the log.

    /predict is for ``tiny``, version 1; tests bring models of other names.
    """
    folder = tmp_path_factory.mktemp("two-workers")
    publish_tiny(folder / "models")
    ModelRepository(folder / "models").set_default("tiny")
    with running_server(
        folder / "models",
        folder,
        workers=2,
        reload_s=1,
        admin_token=ADMIN,
        grpc_port=free_port(),
    ) as running:
        line = "Service foveal initialized"  # of each worker: one of them answered /readyz
        until(lambda: running.log.count(line) == 2, line, START_S)
        yield running
    assert "[ERROR]" not in running.log, "a stop is no error"


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The shipped models over HTTP and gRPC, in batches that take little to warm up."""
    with running_server(
        ROOT / "models",
        tmp_path_factory.mktemp("shipped"),
        grpc_port=free_port(),
        max_batch_size=16,
    ) as running:
        yield running
