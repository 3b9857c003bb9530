"""Servers with settings that make the lane's limits quick to reach."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import RunningServer, running_server
from tests.service.lane.lane_client import MAX_BODY_BYTES, QUEUE_DELAY_MS


@pytest.fixture(scope="session")
def strict(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server with a short patience and a small limit on bodies."""
    with running_server(
        tiny_repository,
        tmp_path_factory.mktemp("strict"),
        receive_timeout_s=1,
        keep_alive_s=1,
        max_body_bytes=MAX_BODY_BYTES,
    ) as running:
        yield running


@pytest.fixture(scope="session")
def slow(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server that holds every row back for a while, so that requests can be met waiting."""
    with running_server(
        tiny_repository,
        tmp_path_factory.mktemp("slow"),
        max_queue_delay_ms=QUEUE_DELAY_MS,
        max_body_bytes=MAX_BODY_BYTES,
    ) as running:
        yield running
