"""``foveal doctor`` and ``foveal init``."""

import socket
from pathlib import Path
from typing import Any

import pytest

from models.repository import ModelRepository
from tests.server import free_port
from tests.shell import Shell


@pytest.fixture(autouse=True)
def ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else runs on this machine."""
    monkeypatch.setenv("FOVEAL_GRPC_PORT", str(free_port()))


def checks(document: Any) -> dict[str, Any]:
    return {check["name"]: check for check in document["checks"]}


def test_it_finds_all_that_a_start_needs(shell: Shell) -> None:
    said = shell("doctor", "--port", 0, "--json")
    assert said.code == 0 and said.document["is_ok"]
    found = checks(said.document)
    assert not any(check["wrong"] for check in found.values())
    assert found["models"]["found"].startswith("2 versions of 1 models in ")
    assert "CPU" in found["onnxruntime"]["found"]
    assert "cores may be used" in found["processor"]["found"]
    assert found["resampler"]["found"] in ("avx2", "plain", "pillow")
    assert found["device"]["found"].startswith(("cpu, ", "cuda, "))
    text = shell("doctor", "--port", 0).out
    assert all(f"\n{name} " in f"\n{text}" for name in found)
    assert text.endswith("nothing would stop a start: foveal serve\n")


def test_it_says_what_would_stop_a_start(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = shell("doctor", "--port", taken.getsockname()[1], "--json")
        assert (said.code, said.document["is_ok"]) == (1, False)
        assert "choose others with --host" in checks(said.document)["port of HTTP"]["wrong"]
    said = shell("doctor", "--port", 0, models=tmp_path)
    assert said.code == 1
    assert f"wrong: models: {tmp_path}: expected a folder of <name>/<version>/" in said.out
    monkeypatch.setenv("FOVEAL_MODLES", "x")
    said = shell("doctor", "--port", 0)
    assert said.code == 1
    assert "wrong: settings: FOVEAL_MODLES: expected the name of a setting" in said.out
    monkeypatch.delenv("FOVEAL_MODLES")
    monkeypatch.setenv("FOVEAL_DEFAULT_MODEL", "none")
    said = shell("doctor", "--port", 0)
    assert said.code == 1 and "wrong: settings: FOVEAL_DEFAULT_MODEL: expected one of" in said.out


def test_a_variable_is_the_host_that_a_start_takes(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEAL_HOST", "203.0.113.1")
    said = shell("doctor", "--json")
    assert "203.0.113.1:3000: expected a free" in checks(said.document)["port of HTTP"]["wrong"]
    assert not checks(said.document)["settings"]["wrong"]
    said = shell("serve")
    assert said.code == 1 and said.error.startswith("203.0.113.1:3000: expected a free port")


def test_init_makes_a_folder_that_serves_and_writes_over_nothing(
    shell: Shell, tmp_path: Path
) -> None:
    folder = tmp_path / "shop"
    said = shell.plain("init", folder, "--model", "digits-cnn", "--json")
    assert said.code == 0
    assert said.document["files"] == ["models", "foveal.env", "example.png", "README.md"]
    assert ModelRepository(folder / "models").default_model() == "digits-cnn"
    assert shell.plain("models", "verify", "--models", folder / "models").code == 0
    said = shell.plain("predict", folder / "example.png", "--models", folder / "models")
    assert said.code == 0
    assert "curl --data-binary @example.png http://127.0.0.1:3000/" in (
        (folder / "README.md").read_text()
    )
    (folder / "README.md").write_text("mine")
    (folder / "models").rename(folder / "moved")
    spaced = shell.plain("init", tmp_path / "my shop")
    assert f"next: cd '{tmp_path}/my shop' && foveal serve" in spaced.out
    said = shell.plain("init", folder)
    assert said.code == 1 and "nothing was written" in said.error
    assert (folder / "README.md").read_text() == "mine" and not (folder / "models").exists()
