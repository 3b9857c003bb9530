"""The desk: V2's handlers in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.protocols.desk import Desk


@pytest.fixture(scope="session")
def desk(tiny_repository: Path) -> Iterator[Desk]:
    opened = Desk(tiny_repository)
    yield opened
    opened.close()
