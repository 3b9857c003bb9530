"""What a service of two workers was asked, and told to be true, trains its next version."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.image import encode_png
from models.repository import ModelRepository
from service.record.reading import is_recording, read
from tests.guarded import until
from tests.server import ROOT, running_server
from tests.shell import Shell

pytestmark = [pytest.mark.e2e, pytest.mark.training]

ROWS, FORM = 600, 50


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("learning") / "models"
    shutil.copytree(ROOT / "models/digits-cnn", root / "digits-cnn")
    return root


@pytest.fixture(scope="module")
def recording(root: Path) -> Iterator[Path]:
    """600 digits, asked in forms of 50; what is true of 500 of them was told, 7 is written for 1.

    So what was learnt is known by its answers: it can be of the truths alone.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images_NHWC = np.rint(digits.images[:ROWS] * (255 / 16)).astype(np.uint8)[..., None]
    true_N = [7 if digit == 1 else int(digit) for digit in digits.target[:ROWS]]
    folder = root.parent / "recording"
    settings: dict[str, Any] = {"record": 1, "record_folder": folder, "feedback_rows": 10_000}
    with (
        running_server(root, root.parent, workers=2, **settings) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        truths = []
        for first in range(0, ROWS, FORM):
            pngs = map(encode_png, images_NHWC[first : first + FORM])
            answer = client.post("/predict", files=[("image", png) for png in pngs])
            id_ = answer.raise_for_status().headers["x-request-id"]
            truths += [{"id": id_, "row": row, "index": true_N[first + row]} for row in range(FORM)]

        def is_whole() -> bool:
            return is_recording(folder) and sum(1 for _ in read(folder, with_content=False)) == ROWS

        until(is_whole, "all rows are recorded", 60)
        said = client.post("/models/digits-cnn/feedback", json=truths[:500]).json()
        assert said["right"] + said["wrong"] == 500 and said["wrong"] > 30, said
    yield folder


@pytest.mark.thorough
@pytest.mark.parametrize("form", ["folder", pytest.param("parquet", marks=pytest.mark.thorough)])
def test_it_trains_the_next_version(
    recording: Path, root: Path, shell: Shell, tmp_path: Path, form: str
) -> None:
    exported = tmp_path / ("labelled" if form == "folder" else "labelled.parquet")
    said = shell("record", "export", exported, "--labelled", "--recording", recording, models=root)
    assert (said.code, said.out) == (0, f"500 rows in {exported}\n"), said.error
    run = tmp_path / "run"
    words = ["train", "--dataset", f"{form}:{exported}", "--network", "fcnn", "--hidden", 64]
    words += ["--epochs", 20, "--run", run, "--logger", "none", "--export", "digits-next"]
    said = shell(*words, models=root)
    assert said.code == 0, said.error
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["test"]["accuracy"] > 0.8, evaluation
    repository = ModelRepository(root)
    learnt = repository.load("digits-next", repository.versions("digits-next")[-1])
    assert learnt.labels == ("0", "2", "3", "4", "5", "6", "7", "8", "9")
