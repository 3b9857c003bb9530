"""V2 over HTTP: what the server reports about itself and its repository."""

from typing import Any

import httpx
import pytest

from tests.server import RunningServer, Wire, assert_error, get

pytestmark = pytest.mark.e2e


@pytest.fixture
def client(two_wires: RunningServer) -> Any:
    with httpx.Client(base_url=two_wires.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/tiny/ready", {"name": "tiny", "ready": True}),
        ("/v2/models/tiny/versions/2/ready", {"name": "tiny", "ready": True}),
    ],
)
def test_health(two_wires: RunningServer, path: str, said: dict[str, Any]) -> None:
    with Wire(two_wires) as wire:
        assert wire.send(get(path)).answer().json() == said
        assert wire.send(get(path, method="HEAD")).answer("HEAD").status == 200


def test_index_of_what_is_ready(client: httpx.Client) -> None:
    for asked in (b"", b"{}", b'{"ready":true}'):
        said = client.post("/v2/repository/index", content=asked).json()
        assert [(m["name"], m["version"], m["state"]) for m in said] == [
            ("tiny", "1", "READY"),
            ("tiny", "2", "READY"),
        ]
    response = client.post("/v2/repository/index", json={"ready": 1})
    assert_error(response, 400, "boolean")
