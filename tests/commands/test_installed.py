"""Foveal among the packages of an environment, as pip, pipx and uv install it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models import installation
from models.installation import how_to_add
from models.repository import ModelRepository
from tests.server import ROOT, free_port
from tests.shell import Shell

PACKAGES = ("commands", "models", "report", "scoring", "service")

# What an installed Foveal runs as: site-packages is the folder that its packages are in.
AS_INSTALLED = """
import sys, sysconfig
home, paths = sys.argv.pop(1), sysconfig.get_paths()
sysconfig.get_path = lambda name, *_: home if name in ("purelib", "platlib") else paths[name]
sys.path.insert(0, home)
import foveal
foveal.main(sys.argv[1:])
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FOVEAL_")}
    folders = {"XDG_DATA_HOME": str(tmp_path / "data"), "HOME": str(tmp_path)}
    return kept | folders | {"FOVEAL_GRPC_PORT": str(free_port())}


@pytest.mark.skipif(sys.platform != "linux", reason="the folder has another name")
def test_models_are_a_copy_in_the_users_folder(environment: dict[str, str], tmp_path: Path) -> None:
    def run(*words: object) -> str:
        return subprocess.run(
            [sys.executable, "-c", AS_INSTALLED, str(ROOT), *map(str, words)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    home = tmp_path / "data" / "foveal" / "models"
    assert str(home) in run("doctor", "--port", 0)
    copy, shipped = ModelRepository(home), ModelRepository(ROOT / "models")
    assert copy.names() == [name for name in shipped.names() if copy.versions(name)]
    assert copy.names() and copy.default_model() == shipped.default_model()
    assert not list(home.glob("*.py")) and not list(home.parent.glob(".models-*"))
    before = (ROOT / "models" / "repository.json").read_text()
    run("models", "default", "digits-cnn")
    assert copy.default_model() == "digits-cnn"
    assert (ROOT / "models" / "repository.json").read_text() == before
    assert "digits-cnn" in run("models", "list"), "the copy is made once"
    assert copy.default_model() == "digits-cnn"


@pytest.mark.parametrize("name", PACKAGES)
def test_somebody_elses_package_is_one_line(
    name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(1, {str(ROOT)!r}); import foveal"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        f"foveal: expected its own package {name} in {ROOT}, got {tmp_path / name}; start in "
        "another folder, without PYTHONPATH\n"
    )


def test_an_extra_is_added_where_it_runs(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert how_to_add("train") == "make install-train"
    makefile = (ROOT / "Makefile").read_text()
    assert "\ninstall-%: " in makefile and "-e '.[cpu,$*]'" in makefile
    monkeypatch.setattr(installation, "HOME", tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    wanted = "'foveal[train]'"
    assert how_to_add("train") == f"{sys.executable} -m pip install {wanted}"
    (tmp_path / "pipx_metadata.json").touch()
    assert how_to_add("train") == f"pipx runpip foveal install {wanted}"
    (tmp_path / "pipx_metadata.json").unlink()
    said = shell.plain("bench", "start")
    assert (said.code, said.out) == (1, "")
    assert said.error.startswith(f"bench: expected a checkout of Foveal, got {tmp_path}: ")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert how_to_add("train") == f"uv pip install --python {sys.executable} {wanted}"
