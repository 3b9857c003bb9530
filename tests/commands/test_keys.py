"""``foveal keys``, and what ``foveal serve`` checks of keys and TLS before it starts."""

from pathlib import Path

import pytest

from service.access.keys import Keys
from tests.certificates import make_certificate
from tests.server import free_port
from tests.shell import Shell


def test_key_is_printed_once_and_known(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    said = shell.plain("keys", "add", "one", "--file", path, "--requests-per-s", 5, "--burst", 9)
    assert said.code == 0
    key = said.out.strip()
    found = Keys(path).check(f"Bearer {key}".encode())
    assert (found.name, found.interval_s, found.burst) == ("one", 0.2, 9)
    assert key not in said.error and key not in path.read_text()
    again = shell.plain("keys", "add", "one", "--file", path)
    assert (again.code, again.out) == (1, "")
    assert again.error.endswith(": expected a new name, got 'one'; remove its table first\n")


def test_file_comes_from_the_service_s_own_setting(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell.plain("keys", "add", "one").code == 2
    monkeypatch.setenv("FOVEAL_API_KEYS_FILE", str(tmp_path / "keys.toml"))
    assert shell.plain("keys", "add", "one").code == 0
    assert Keys(tmp_path / "keys.toml")


def test_wrong_files_are_named_before_the_start(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path, "one")
    keys = tmp_path / "keys.toml"
    keys.write_text("[one]\n")
    for variables, match in (
        ({"API_KEYS_FILE": keys}, f"{keys}: [one]: sha256: expected 64"),
        ({"API_KEYS_FILE": tmp_path / "none"}, "expected a keys file; make one with"),
        ({"TLS_CERT": certificate}, "FOVEAL_TLS_KEY: expected FOVEAL_TLS_CERT and"),
        ({"TLS_KEY": key}, "FOVEAL_TLS_KEY: expected FOVEAL_TLS_CERT and"),
        ({"TLS_CERT": key, "TLS_KEY": key}, "expected a certificate and its key"),
        ({"CORS_ORIGINS": "app.example"}, "FOVEAL_CORS_ORIGINS: expected origins as"),
        ({"CORS_ORIGINS": "https://a/b"}, "FOVEAL_CORS_ORIGINS: expected origins as"),
    ):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(f"FOVEAL_{name}", str(value))
            said = shell("serve", "--port", free_port())
        assert said.code == 1 and match in said.error and said.error.count("\n") == 1, said
