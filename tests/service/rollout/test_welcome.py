"""The last lines of a start's log."""

import shlex
from pathlib import Path

import pytest

from models.repository import ModelRepository
from service.rollout.welcome import is_open_to_all, welcome
from service.settings import Settings
from tests.tiny import publish_tiny


def said(repository: ModelRepository, host: str, **options: str) -> list[str]:
    settings = Settings(models=repository.root, grpc_port=0, **options)  # type: ignore[arg-type]
    return [*welcome(settings, True, (host, 3123))]


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    publish_tiny(tmp_path, "one")
    return ModelRepository(tmp_path)


def test_it_ends_with_a_request_that_fits(repository: ModelRepository) -> None:
    (line,) = said(repository, "127.0.0.1")
    start, _, command = line.partition("; to try it: ")
    assert start == "listening on 127.0.0.1:3123"
    image, url = shlex.split(command)[2:]
    assert Path(image.removeprefix("@")).is_file() and Path(image[1:]).is_absolute()
    assert url == "http://127.0.0.1:3123/predict"
    publish_tiny(repository.root, "two")
    (line,) = said(repository, "127.0.0.1")
    assert line.endswith("http://127.0.0.1:3123/models/one/predict"), "no default model"
    (line,) = said(repository, "127.0.0.1", default_model="two")
    assert line.endswith("/predict") and "/two/" in line


def test_it_names_keys_and_tls(repository: ModelRepository) -> None:
    *_, line = said(repository, "::1", tls_cert="a", tls_key="b", api_keys_file="c")
    assert "--header 'Authorization: Bearer KEY' --insecure 'https://[::1]:3123/predict'" in line


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_open_address_without_keys_is_one_line(repository: ModelRepository, host: str) -> None:
    open_, line = said(repository, host)
    assert open_.startswith(f"{host} is open to other machines without API keys: ")
    assert len(said(repository, host, api_keys_file="c")) == 1
    reached = {"0.0.0.0": "http://127.0.0.1:3123/", "::": "http://[::1]:3123/"}
    assert reached.get(host, f"http://{host}:3123/") in line


def test_a_missing_extra_is_named(repository: ModelRepository) -> None:
    settings = Settings(models=repository.root)
    first, *_ = welcome(settings, False, ("127.0.0.1", 3123))
    assert first == "V2 over gRPC is off; it is added by: make install-grpc"
    assert len([*welcome(settings, True, ("127.0.0.1", 3123))]) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_loop_is_open_to_nobody(host: str) -> None:
    assert not is_open_to_all(host)


def test_nothing_to_try_is_no_error(tmp_path: Path) -> None:
    assert said(ModelRepository(tmp_path / "none"), "127.0.0.1") == [
        "listening on 127.0.0.1:3123: http://127.0.0.1:3123"
    ]
