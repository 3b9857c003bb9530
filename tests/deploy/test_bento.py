"""The Bento: what is in it, and that it answers like the source tree."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from models.repository import ModelRepository
from tests.deploy.suite import ANSWERS, run_suite
from tests.places import BENTOML, ROOT, has_nginx, inherited
from tests.server import running_server

pytestmark = pytest.mark.e2e
SHIPPED = ModelRepository(ROOT / "models")
# A NUL in a path gets a 400 from nginx itself.
ENDS_AT_NGINX = "tests/e2e/test_predict.py::test_unknown_models_and_versions["
WITH_NUL = "versions/%31%00/predict"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BentoML home of its own with the Bento of this tree."""
    home = tmp_path_factory.mktemp("store")
    built = subprocess.run(
        [BENTOML, "build"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**inherited(), "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"},
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return home


@pytest.fixture(scope="module")
def bento(store: Path) -> Path:
    tags = store / "bentos/foveal"
    return tags / (tags / "latest").read_text().strip()


def test_it_holds_serving_and_nothing_else(bento: Path) -> None:
    assert {path.name for path in (bento / "src").iterdir()} == {
        "README.md",
        "bentofile.yaml",
        "commands",
        "foveal.py",
        "models",
        "pyproject.toml",
        "report",
        "scoring",
        "service",
    }
    assert not list(bento.rglob("*.pyc"))
    inside = ModelRepository(bento / "src/models")
    assert inside.names() == SHIPPED.names()
    for name in inside.names():
        for version in inside.versions(name):
            assert inside.verify(name, version) == SHIPPED.load(name, version)


def test_it_installs_exact_versions_and_names_no_index(bento: Path) -> None:
    needed = set((ROOT / "deploy/requirements.txt").read_text().splitlines()[1:])
    written = (bento / "env/python/requirements.txt").read_text()
    lines = {line for line in written.splitlines() if line and not line.startswith("#")}
    assert lines == needed
    assert not [line for line in lines if line.startswith(("torch", "onnx=", "pyarrow"))]
    for path in (bento / "env/python").rglob("*.*"):
        assert "://" not in path.read_text(), path


@pytest.mark.thorough
def test_it_runs_its_own_code(store: Path, tmp_path: Path) -> None:
    """In the environment of a checkout, too: nothing is imported from there."""
    program = (
        "import sys, bentoml\n"
        "bentoml.load('foveal:latest')\n"
        "ours = [n for n in sys.modules if n.split('.')[0] in ('service', 'models', 'training')]\n"
        "print(*{str(sys.modules[n].__file__) for n in ours}, sep='\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**inherited(), "BENTOML_HOME": str(store)},
    )
    assert done.returncode == 0, done.stderr
    files = done.stdout.split()
    assert len(files) > 20
    assert not [file for file in files if not file.startswith(str(store))]


@pytest.mark.thorough
def test_it_gives_the_bytes_that_the_source_tree_gives(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = []
    for place in ("source", f"bento:{store}"):
        monkeypatch.setenv("FOVEAL_TEST_PLACE", place)
        folder = tmp_path / place.partition(":")[0]
        folder.mkdir()
        with (
            running_server(ROOT / "models", folder, max_batch_size=8) as server,
            httpx.Client(base_url=server.url) as client,
        ):
            bodies.append(
                [
                    client.post(f"/models/{name}/predict?top=3", content=path.read_bytes()).content
                    for name in SHIPPED.names()
                    for path in sorted(SHIPPED.path(*SHIPPED.resolve(name)).glob("golden/*.png"))
                ]
                + [client.post(f"/models/{SHIPPED.names()[0]}/{WITH_NUL}").content]
            )
    assert len(bodies[0]) == 8 * len(SHIPPED.names()) + 1
    assert b"expected one of" in bodies[0][-1]
    assert bodies[0] == bodies[1]


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_the_suite_passes_against_it_through_nginx(store: Path, tmp_path: Path) -> None:
    """Of the Bento and of nginx' configuration at once: neither changes an answer."""
    assert "FOVEAL_TEST_PLACE" not in os.environ, "a suite inside a suite"
    kind = "nginx" if has_nginx() else "bento"
    skipped = [f"--deselect={ENDS_AT_NGINX}/models/tiny/{WITH_NUL}]"] if has_nginx() else []
    assert run_suite(f"{kind}:{store}", tmp_path, *ANSWERS, *skipped) > 300
