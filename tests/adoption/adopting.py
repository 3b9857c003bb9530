"""From a user's project to HTTP: train, adopt, serve, ask, compare.

    photographs -> user/project.py in the user's environment -> foveal adopt -> a server -> rows

Legend: N photographs, K labels.
"""

import contextlib
import http.client
import io
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import foveal
from tests.models.photographs import KINDS, photograph
from tests.server import RunningServer

HERE = Path(__file__).resolve().parent
PAIRS: dict[str, dict[str, Any]] = tomllib.loads((HERE / "pairs.toml").read_text())
# What the user's own answers must hold, and a wrong filter or crop must change in them: else equal
# labels show nothing.
LEAST_LABELS, LEAST_CHANGED = 20, 3
# Of a probability, as adoption allows it.
TOLERANCE = 1e-3
_ENDINGS = {"JPEG": "jpg", "TIFF": "tif"}
# One in so many photographs may be as large as is asked; most are small, as decoding takes seconds.
_LARGE_ONES = 8
_MOST_OF_OTHERS = 800
# Formats that hardly compress stay within the largest request body.
_MOST_RAW = 1600
_CLIENTS = 4

Adopt = Callable[[Sequence[str]], str]
"""Run the command line; return its last line of errors, empty if it succeeded."""


@dataclass(frozen=True)
class Row:
    """What became of one pair.

    Attributes:
        name: Its name.
        refused: Why it was not adopted; empty: it was.
        labels: How many labels the user's own answers hold.
        margin: Least difference between a photograph's first and second probability.
        wrong_filter: How many labels another filter changes in the user's own pipeline.
        wrong_crop: How many labels another crop changes.
        photographs: How many were asked.
        same: How many got the user's own label over HTTP.
        difference: Largest difference of a probability.
        exporter: Which of torch's exporters wrote the graph.
    """

    name: str
    refused: str = ""
    labels: int = 0
    margin: float = 0.0
    wrong_filter: int = 0
    wrong_crop: int = 0
    photographs: int = 0
    same: int = 0
    difference: float = 1.0
    exporter: str = ""

    def failures(self) -> list[str]:
        """Return what falls short, in words."""
        if self.refused:
            return [f"{self.name}: {self.refused}"]
        failed = {
            f"{self.labels} labels": self.labels < LEAST_LABELS,
            f"a wrong filter changes {self.wrong_filter}": self.wrong_filter < LEAST_CHANGED,
            f"a wrong crop changes {self.wrong_crop}": self.wrong_crop < LEAST_CHANGED,
            f"{self.same} of {self.photographs} labels over HTTP": self.same < self.photographs,
            f"a difference of {self.difference}": not self.difference <= TOLERANCE,
            "no photographs": not self.photographs,
        }
        return [f"{self.name}: {text}" for text, is_short in failed.items() if is_short]


def write_photographs(folder: Path, count: int, most: int) -> None:
    """Write photographs of 20 pixels a side to ``most``, of every kind."""
    folder.mkdir()
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)].split(",")[0]
        largest = most if number % _LARGE_ONES == 0 else min(most, _MOST_OF_OTHERS)
        if kind not in ("JPEG", "PNG"):
            largest = min(largest, _MOST_RAW)
        ending = _ENDINGS.get(kind, kind.lower())
        (folder / f"{number:03}.{ending}").write_bytes(photograph(number, 20, largest)[1])


def copy_project(folder: Path) -> Path:
    """Give the user a folder with the project."""
    folder.mkdir()
    for file in (HERE / "user" / "project.py", HERE / "pairs.toml"):
        shutil.copy(file, folder)
    return folder


def train(python: Path, project: Path, photographs: Path, names: Sequence[str]) -> None:
    """Let the user train some pairs and record the answers to the photographs."""
    words = [str(python), str(project / "project.py"), str(photographs), *names]
    done = subprocess.run(words, env=one_thread(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def one_thread() -> dict[str, str]:
    """Return the environment of a process that computes on one core."""
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def adopt(
    run: Adopt, python: Path, project: Path, photographs: Path, models: Path, name: str
) -> str:
    """Adopt a trained pair by the command line.

    Returns:
        Why it is refused; empty: it is published.
    """
    given = json.loads((project / f"{name}.json").read_text())["adopt"]
    words = ["adopt", *given, "--name", name, "--images", str(photographs)]
    if PAIRS[name]["way"] in ("make", "folder", "timm:NAME", ".pt", ".pt2"):
        words += ["--python", str(python)]
    return run([*words, "--models", str(models)])


def adopt_here(words: Sequence[str]) -> str:
    """Run the command line in this process."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            foveal.main(list(words))
        except SystemExit as ended:
            return errors.getvalue() if ended.code else ""
    return ""


def adopt_apart(words: Sequence[str]) -> str:
    """Run the command line as a user does."""
    command = [str(Path(sys.executable).with_name("foveal")), *words]
    done = subprocess.run(command, env=one_thread(), capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def ask(server: RunningServer, name: str, files: Sequence[Path]) -> NDArray[np.float32]:
    """Post files over some connections; return the probabilities, float32 [N, K]."""
    with ThreadPoolExecutor(_CLIENTS) as pool:
        parts = list(pool.map(lambda i: _ask(server, name, files[i::_CLIENTS]), range(_CLIENTS)))
    answers_NK = np.zeros((len(files), parts[0].shape[1]), np.float32)
    for number, part in enumerate(parts):
        answers_NK[number::_CLIENTS] = part
    return answers_NK


def _ask(server: RunningServer, name: str, files: Sequence[Path]) -> NDArray[np.float32]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    rows = []
    for file in files:
        connection.request("POST", f"/models/{name}/predict?top=100", file.read_bytes())
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, f"{name}, {file.name}: {response.status} {body!r}"
        (result,) = json.loads(body)["results"]
        told = {each["index"]: each["probability"] for each in result["predictions"]}
        rows.append([told[index] for index in range(len(told))])
    connection.close()
    return np.array(rows, np.float32)


def compare(project: Path, name: str, models: Path, got_NK: NDArray[np.float32]) -> Row:
    """Compare answers over HTTP with the user's own."""
    figures = json.loads((project / f"{name}.json").read_text())
    expected_NK = np.load(project / f"{name}.npy")
    return Row(
        name,
        labels=figures["labels"],
        margin=figures["margin"],
        wrong_filter=figures["wrong_filter"],
        wrong_crop=figures["wrong_crop"],
        photographs=len(got_NK),
        same=int((got_NK.argmax(axis=1) == expected_NK.argmax(axis=1)).sum()),
        difference=float(np.abs(got_NK - expected_NK).max()),
        exporter=exporter_of(models / name / "1" / "model.onnx"),
    )


def exporter_of(file: Path) -> str:
    """Tell which of torch's exporters wrote a graph: the older one names nodes by paths."""
    graph = onnx.load(file, load_external_data=False).graph
    is_older = any("//" in node.name for node in graph.node)  # the prefix of adoption ends in one
    return "torchscript" if is_older else "dynamo"
