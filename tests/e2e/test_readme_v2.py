"""The examples of docs/protocols.md and docs/clients.md, run as they stand on shipped models."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def run(server: RunningServer, words: list[str], code: str) -> str:
    code = code.replace(":3000", f":{server.port}").replace(":8001", f":{server.grpc_port}")
    done = subprocess.run(
        [*words, code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("code", "printed"), list(zip(PROGRAMS, PRINTED, strict=True)))
def test_program(shipped: RunningServer, code: str, printed: str) -> None:
    assert printed in run(shipped, [sys.executable, "-W", "error", "-c"], code)


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
    shipped: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "docs" / "foveal_client.py", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    printed = run(shipped, [sys.executable, "-W", "error", "-c"], RECIPES["python"]).splitlines()
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
