"""The last lines of a start's log."""

import shlex
from pathlib import Path

import pytest

from models.repository import ModelRepository
from service.rollout.welcome import is_open_to_all, welcome
from tests.tiny import publish_tiny


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    publish_tiny(tmp_path, "one")
    return ModelRepository(tmp_path)


def test_it_ends_with_a_request_that_fits(repository: ModelRepository) -> None:
    (line,) = welcome(repository, "", ("127.0.0.1", 3123))
    said, _, command = line.partition("; to try it: ")
    assert said == "listening on 127.0.0.1:3123"
    image, url = shlex.split(command)[2:]
    assert Path(image.removeprefix("@")).is_file() and Path(image[1:]).is_absolute()
    assert url == "http://127.0.0.1:3123/predict"
    publish_tiny(repository.root, "two")
    (line,) = welcome(repository, "", ("127.0.0.1", 3123))
    assert line.endswith("http://127.0.0.1:3123/models/one/predict"), "no default model"
    (line,) = welcome(repository, "two", ("127.0.0.1", 3123))
    assert line.endswith("/predict") and "/two/" in line


def test_it_names_keys_and_tls(repository: ModelRepository) -> None:
    *_, line = welcome(repository, "", ("::1", 3123), is_tls=True, has_keys=True)
    assert "--header 'Authorization: Bearer KEY' --insecure 'https://[::1]:3123/predict'" in line


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_open_address_without_keys_is_one_line(repository: ModelRepository, host: str) -> None:
    open_, line = welcome(repository, "", (host, 3123))
    assert open_.startswith(f"{host} is open to other machines without API keys: ")
    assert len([*welcome(repository, "", (host, 3123), has_keys=True)]) == 1
    reached = {"0.0.0.0": "http://127.0.0.1:3123/", "::": "http://[::1]:3123/"}
    assert reached.get(host, f"http://{host}:3123/") in line


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_loop_is_open_to_nobody(host: str) -> None:
    assert not is_open_to_all(host)


def test_nothing_to_try_is_no_error(tmp_path: Path) -> None:
    assert [*welcome(ModelRepository(tmp_path / "none"), "", ("127.0.0.1", 1))] == [
        "listening on 127.0.0.1:1: http://127.0.0.1:1"
    ]
