"""The service, watched by a Prometheus while it is loaded: made once for all tests of a file."""

from collections.abc import Iterator

import pytest

from tests.deploy.watched import Watched, watched_service


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched_service(tmp_path_factory.mktemp("watched")) as watched:
        yield watched
