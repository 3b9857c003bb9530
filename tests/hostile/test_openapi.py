"""Every documented operation of the real server, asked with generated data, good and bad."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from tests.server import RunningServer, running_server

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    # Without an admin token: a generated request must not unload the model.
    with running_server(tiny_repository, tmp_path_factory.mktemp("openapi")) as running:
        yield running


@pytest.mark.thorough
def test_no_operation_blames_the_server(server: RunningServer) -> None:
    schema = schemathesis.openapi.from_dict(httpx.get(f"{server.url}/docs.json").json())
    schema.config.update(base_url=server.url)
    operations: list[Any] = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]
    assert len(operations) > 10
    for operation in operations:

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            response = case.call(timeout=30)
            # A deadline that the client sets itself may pass.
            is_late = response.status_code == 504 and "X-Request-Timeout-Ms" in case.headers
            assert is_late or response.status_code < 500, (case.as_curl_command(), response.text)
            if response.status_code >= 400:
                assert list(response.json()) == ["error"], (case.as_curl_command(), response.text)

        ask()
