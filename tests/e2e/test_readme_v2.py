"""The V2 examples of docs/protocols.md, run as they stand against the shipped models."""

import json
import re
import subprocess
import sys

import pytest

from tests.server import ROOT, RunningServer

pytestmark = pytest.mark.e2e

SECTION = (ROOT / "docs" / "protocols.md").read_text().split("## Open Inference Protocol V2\n")[1]
SECTION = SECTION.split("\n## Routes\n")[0]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", SECTION, re.DOTALL)
PROGRAMS = [code for language, code in BLOCKS if language == "python"]
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
