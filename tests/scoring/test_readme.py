"""The examples of docs/score.md run as they stand there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from models.image import decode
from models.repository import ModelRepository
from tests.scoring.containers import as_csv, as_npz, as_parquet, as_tar, as_zip, read
from tests.server import ROOT

EXAMPLES = [
    line
    for line in (ROOT / "docs" / "score.md").read_text().splitlines()
    if "foveal score " in line and not line.startswith("`")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples are run: the golden images in every container that they name."""
    import numpy as np

    folder = tmp_path_factory.mktemp("readme")
    repository = ModelRepository(ROOT / "models")
    artifact = repository.verify(*repository.resolve("fashion-cnn"))
    golden = repository.path(artifact.name, artifact.version)
    files = []
    for each in artifact.golden:
        # "T-shirt/top" is a label that no folder can be called.
        place = folder / "photos" / each.label.replace("/", "-")
        place.mkdir(parents=True, exist_ok=True)
        files.append(place / Path(each.path).name)
        files[-1].write_bytes((golden / each.path).read_bytes())
    labels = [each.label for each in artifact.golden]
    (folder / "shards").mkdir()
    as_tar(folder / "shards" / "0.tar", files[:4])
    as_tar(folder / "shards" / "1.tar", files[4:])
    as_zip(folder / "photos.zip", files)
    as_parquet(folder / "images.parquet", files, label=labels)
    as_csv(folder / "images.csv", files)
    pixels = np.stack([decode(file.read_bytes(), artifact.image) for file in files])
    as_npz(folder / "arrays.npz", pixels, np.array(labels))
    return folder


def test_there_are_five() -> None:
    assert len(EXAMPLES) == 5


@pytest.mark.slow
@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_runs(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOVEAL_MODELS", raising=False)  # `serve` in this process sets it
    if "--engine ray" in line:
        pytest.importorskip("ray", reason="the ray extra")
    command = line.replace(".venv/bin/foveal", f"{sys.executable} {ROOT / 'foveal.py'}")
    ended = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False
    )
    # Ray's own core says one line about its log.
    said = [text for text in ended.stderr.splitlines() if "logging.cc" not in text]
    assert (ended.returncode, said) == (0, []), ended
    found = re.search(r"--out (\S+)", line)
    assert found
    rows = read(folder / found[1])
    (folder / found[1]).unlink()
    assert len(rows) % 8 == 0
    assert rows
    assert {row["error"] for row in rows} == {None}
    if "--json" in line:
        assert json.loads(ended.stdout)["rows"] == len(rows)
    else:
        assert ended.stdout.startswith(f"{found[1]}: {len(rows)} rows by fashion-cnn:2, 0 with")
    if "--label-column" in line or "photos -" in line:  # the folder, not the archive
        assert "accuracy" in ended.stdout
