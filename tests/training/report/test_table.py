"""Every network on every dataset, from the data's files to an answer over HTTP, at small scale."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.repository import ModelRepository
from tests.server import RunningServer, running_server
from tests.training.files import write_cifar, write_mnist_like
from training.networks import NETWORKS
from training.report.table import BEGIN, DATASETS, END, Cell, main, measure_all, put_into, tabulate

pytestmark = pytest.mark.training

# The others are the thorough ones.
FIRST = ("digits", "neuron")
OTHERS = [
    (dataset, network)
    for dataset in DATASETS
    for network in NETWORKS
    if (dataset, network) != FIRST
]
CELLS = [FIRST, *(pytest.param(*cell, marks=pytest.mark.thorough) for cell in OTHERS)]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The cells of the tests that run, trained for one epoch on a few images and published."""
    chosen = {
        (item.callspec.params["dataset"], item.callspec.params["network"])
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    }
    folder = tmp_path_factory.mktemp("table")
    data_dirs = {
        "fashion-mnist": write_mnist_like(folder / "fashion-mnist-files"),
        "cifar10": write_cifar(folder / "cifar10-files"),
    }
    with pytest.MonkeyPatch.context() as patch:
        # A report takes as long as the training and the export here; it has its own tests.
        patch.setattr("training.pipeline.write_report", lambda *_: None)
        # A few steps on noise: some cells have one answer for all images.
        patch.setattr("training.pipeline.check_answers", lambda *_: None)
        for dataset, network in sorted(chosen | {FIRST}):
            measure_all(
                folder,
                [dataset],
                [network],
                data_dirs=data_dirs,
                epochs=1,
                batch_size=32,
                lr=1e-3,
            )
    return folder


@pytest.fixture(scope="module")
def cell_server(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    # Many models: nothing is measured that no test asks about.
    folder = tmp_path_factory.mktemp("server")
    with running_server(out / "models", folder, threads=1, max_batch_size=8) as running:
        yield running


@pytest.mark.parametrize(("dataset", "network"), CELLS)
def test_every_cell_is_published_and_proven(out: Path, dataset: str, network: str) -> None:
    found = [
        Cell(**cell)
        for cell in json.loads((out / "cells.json").read_text())
        if (cell["dataset"], cell["network"]) == (dataset, network)
    ]
    (cell,) = found
    artifact = ModelRepository(out / "models").verify(f"{dataset}-{network}", 1)
    assert artifact.parity is not None
    assert artifact.parity.label_agreement == 1
    assert cell.max_probability_difference <= 1e-5
    assert cell.onnx_bytes == artifact.files[0].size_bytes > 4 * cell.parameters * 0.9
    assert cell.multiply_adds > 0
    assert cell.images in (359, 100, 40)


@pytest.mark.e2e
@pytest.mark.parametrize(("dataset", "network"), CELLS)
def test_every_cell_answers_over_http(
    out: Path, cell_server: RunningServer, dataset: str, network: str
) -> None:
    name = f"{dataset}-{network}"
    repository = ModelRepository(out / "models")
    artifact = repository.load(name, 1)
    golden = artifact.golden[0]
    answer = httpx.post(
        f"{cell_server.url}/models/{name}/predict?top=1",
        content=repository.read_file(artifact, golden.path),
        headers={"Content-Type": "image/png"},
    )
    assert answer.status_code == 200, answer.text
    (prediction,) = answer.json()["results"][0]["predictions"]
    assert prediction["probability"] == pytest.approx(max(golden.probabilities), abs=1e-4)
    assert golden.probabilities[prediction["index"]] == pytest.approx(
        max(golden.probabilities), abs=1e-4
    )


def test_what_is_measured_is_not_measured_again(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "README.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    cells = json.loads((out / "cells.json").read_text())
    known = ["--datasets", "digits", "--networks", "neuron"]
    assert main(["--out", str(out), *known, "--into", str(document)]) == 0
    assert json.loads((out / "cells.json").read_text()) == cells
    printed = capsys.readouterr().out
    assert printed.count("\n") == 2 + len(cells)
    assert "| digits | neuron | 650 | 640 |" in printed
    assert document.read_text() == f"before\n{BEGIN}\n{printed}{END}\nafter\n"


@pytest.mark.thorough
def test_a_network_is_counted(out: Path) -> None:
    cells = [Cell(**cell) for cell in json.loads((out / "cells.json").read_text())]
    assert "| cifar10 | speednet | 2,391,586 | 136,075,776 |" in tabulate(cells)


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert main([*out, "--networks", "vgg", "--datasets", "digits"]) == 1
    assert "network: expected one of MODULE:FUNCTION, cnn, " in capsys.readouterr().err
    assert main([*out, "--datasets", "cifar10", "--data-dir", f"cifar10={tmp_path}"]) == 1
    assert "expected an official batch" in capsys.readouterr().err
    (tmp_path / "README.md").write_text("no marks")
    with pytest.raises(ValueError, match="expected the lines"):
        put_into(tmp_path / "README.md", tabulate([]))
