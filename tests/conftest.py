"""Fixtures that several folders share: a repository of tiny models and a server on it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.repository import ModelRepository
from tests.server import RunningServer, running_server
from tests.tiny import publish_tiny


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a closed-form model; version 1 is pinned, version 2 doubles the logits."""
    root = tmp_path_factory.mktemp("repository")
    publish_tiny(root)
    publish_tiny(root, gain=2.0)
    repository = ModelRepository(root)
    repository.set_default("tiny")
    repository.set_default("tiny", 1)
    return root


@pytest.fixture(scope="session")
def server(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """The real server, as shipped, on the tiny repository."""
    with running_server(tiny_repository, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client
