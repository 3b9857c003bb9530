"""The examples of README.md and of docs/ on protocols, clients and serving, run as they stand.

Programs run in an environment that has only what the page says to install.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import onnx
import pytest

from models.repository import ModelRepository
from tests.only_installed import make_python
from tests.server import ROOT, RunningServer

pytestmark = pytest.mark.e2e

SECTION = (ROOT / "docs" / "protocols.md").read_text().split("## Open Inference Protocol V2\n")[1]
SECTION = SECTION.split("\n## Routes\n")[0]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", SECTION, re.DOTALL)
PROGRAMS = [code for language, code in BLOCKS if language == "python"]
RECIPES = dict(
    re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "clients.md").read_text(), re.DOTALL)
)
PRINTED = ["[9 2 1 4 6 5 7 3]", "Sandal", "probabilities (2, 10)"]
SERVE = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "serve.md").read_text(), re.DOTALL)
Environment = Callable[..., str]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Make an environment of what ``pip install`` is given, once each."""
    made: dict[tuple[str, ...], str] = {}

    def make(*requirements: str) -> str:
        if requirements not in made:
            folder = tmp_path_factory.mktemp("environment") / "venv"
            made[requirements] = str(make_python(folder, requirements))
        return made[requirements]

    return make


def installed(text: str) -> list[str]:
    """What the last ``pip install`` of a text installs."""
    (*_, line) = re.findall(r"`pip install ([^`]+)`", text)
    return [word.strip("'") for word in line.split()]


def run(server: RunningServer, words: list[str], code: str) -> str:
    code = code.replace(":3000", f":{server.port}").replace(":8001", f":{server.grpc_port}")
    done = subprocess.run(
        [*words, code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("code", "printed"), list(zip(PROGRAMS, PRINTED, strict=True)))
def test_program(shipped: RunningServer, environment: Environment, code: str, printed: str) -> None:
    python = environment(*installed(SECTION[: SECTION.index(code)]))
    assert printed in run(shipped, [python, "-W", "error", "-c"], code)


def test_an_environment_has_only_what_was_named(environment: Environment) -> None:
    command = [
        environment("httpx"),
        "-c",
        "import httpx, anyio; print(httpx.__file__); import numpy",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'numpy'"
    assert "environment" in done.stdout


def test_serve_commands(shipped: RunningServer) -> None:
    """The first block of docs/serve.md: three requests, then two commands without a server."""
    commands = next(code for language, code in SERVE if language == "sh")
    commands = commands.replace("curl", "curl -sS -w '\\n'")
    assert ".venv/bin/foveal" in commands
    said = run(shipped, ["bash", "-ec"], at_hand(commands)).splitlines()
    one, several, digits = (json.loads(line) for line in said[:3])
    assert [len(each["results"]) for each in (one, several, digits)] == [1, 2, 1]
    assert (digits["model"], digits["version"]) == ("digits-cnn", 2)
    rest = "\n".join(said[3:])
    assert rest.count("models/fashion-cnn/2/golden/") == 8
    assert re.search(r"^digits-cnn", rest, re.MULTILINE)


def at_hand(commands: str) -> str:
    """Let `.venv/bin/foveal` be the one of the environment that the tests run in."""
    return commands.replace(".venv/bin/foveal", f"{sys.executable} {ROOT / 'foveal.py'}")


def test_bentoml_client(shipped: RunningServer, environment: Environment) -> None:
    code = next(code for language, code in SERVE if language == "python")
    assert "Ankle boot" in run(shipped, [environment("bentoml"), "-c"], code)


def publish_again(version: Path) -> None:
    """Copy a version as the next one: only its number is another."""
    number = int(version.name) + 1
    copy = version.parent / str(number)
    shutil.copytree(version, copy)
    document = json.loads((copy / "model.json").read_text()) | {"version": number}
    for file in document["files"]:
        graph = onnx.load(copy / file["path"])
        (each,) = (prop for prop in graph.metadata_props if prop.key == "foveal.version")
        each.value = str(number)
        content = graph.SerializeToString()
        (copy / file["path"]).write_bytes(content)
        file |= {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    (copy / "model.json").write_text(json.dumps(document))


def test_rollout_commands(tmp_path: Path) -> None:
    """Those of docs/serve.md: version 3 beside version 2, which serves."""
    commands = next(code for _, code in SERVE if "foveal models canary" in code)
    shutil.copytree(ROOT / "models" / "digits-cnn", tmp_path / "digits-cnn")
    publish_again(tmp_path / "digits-cnn" / "2")
    done = subprocess.run(
        ["bash", "-ec", at_hand(commands)],
        env=os.environ | {"FOVEAL_MODELS": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 5 and "0.5" in said[1] and "0.1" in said[2], said
    repository = ModelRepository(tmp_path)
    assert repository.resolve("digits-cnn") == ("digits-cnn", 3)


def test_routes_beside_the_document(shipped: RunningServer) -> None:
    """Those that docs/reference/routes.md has by hand are answered, not 404."""
    text = (ROOT / "docs" / "reference" / "routes.md").read_text().partition("Beside these")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE)
    paths = [(method, path) for method, cell in rows for path in re.findall(r"`([^`]+)`", cell)]
    assert len(paths) > 5
    for method, path in paths:
        status = httpx.request(method, shipped.url + path, timeout=30).status_code
        assert status == (200 if method == "GET" else 400), path


def test_quick_start(shipped: RunningServer) -> None:
    """README.md's first request has the answer that stands below it."""
    text = (ROOT / "README.md").read_text()
    (command,) = re.findall(r"^curl .*$", text, re.MULTILINE)
    (shown,) = (json.loads(code) for code in re.findall(r"```json\n(.*?)```", text, re.DOTALL))
    answer = json.loads(run(shipped, ["bash", "-ec"], command.replace("curl", "curl -sS")))
    got, expected = (each["results"][0].pop("predictions") for each in (answer, shown))
    assert answer == shown
    for prediction, like in zip(got, expected, strict=True):
        assert abs(prediction.pop("probability") - like.pop("probability")) < 1e-4
        assert prediction == like


def test_curl(shipped: RunningServer) -> None:
    (commands,) = (code for language, code in BLOCKS if language == "sh")
    (shown,) = (json.loads(code) for language, code in BLOCKS if language == "json")
    metadata, answer = run(
        shipped, ["bash", "-ec"], commands.replace("curl", "curl -sS -w '\\n'")
    ).splitlines()
    assert json.loads(metadata)["name"] == "fashion-cnn"
    said = json.loads(answer)
    got, expected = (document["outputs"][0].pop("data") for document in (said, shown))
    assert said == shown
    for text, like in zip(got, expected, strict=True):
        assert text.split(":")[1:] == like.split(":")[1:]
        assert abs(float(text.split(":")[0]) - float(like.split(":")[0])) < 1e-4


def test_python_client(
    shipped: RunningServer,
    environment: Environment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(ROOT / "docs" / "foveal_client.py", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    page = (ROOT / "docs" / "clients.md").read_text()
    python = environment(*installed(page[: page.index(RECIPES["python"])]))
    printed = run(shipped, [python, "-W", "error", "-c"], RECIPES["python"]).splitlines()
    assert printed[0].startswith("Ankle boot 0.9")
    assert printed[1] == "models/fashion-cnn/2/golden/0.png Ankle boot"
    assert printed[-1].startswith("400 image: ")
    assert len(printed) == 2 + len(list((ROOT / "models/fashion-cnn/2/golden").glob("*.png")))


def test_javascript_client(shipped: RunningServer) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    printed = run(shipped, [node, "--input-type=module", "-e"], RECIPES["js"])
    assert printed.startswith("Ankle boot 0.9")


def test_curl_clients(shipped: RunningServer) -> None:
    one, several = run(shipped, ["bash", "-ec"], RECIPES["sh"]).replace("}{", "}\n{").splitlines()
    assert [len(json.loads(text)["results"]) for text in (one, several)] == [1, 2]
    assert json.loads(one)["results"][0]["predictions"][0]["label"] == "Ankle boot"
