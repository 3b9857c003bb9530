"""The photograph cases of ``foveal bench peers``: what is sent, what peers see, and the limit."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.bench import raw_session
from loadtest.bench.peers import table
from loadtest.bench.photo import PHOTOGRAPHS, is_large, photograph, scaled
from loadtest.bench.servers import HERE
from models.artifact import ImageSpec, Resize
from models.image import decode, read_size
from models.repository import ModelRepository
from tests.server import ROOT
from tests.tiny import publish_tiny

SMALL = PHOTOGRAPHS["640x427"]


def test_a_photograph_is_as_long_as_one_and_always_the_same() -> None:
    encoded = photograph(*SMALL)
    assert read_size(encoded) == (640, 427)
    assert 150_000 < len(encoded) < 230_000  # what websites show has 140 to 200 KB at this size
    assert encoded == photograph.__wrapped__(*SMALL)
    assert encoded != photograph(*SMALL, seed=1)


def test_peers_make_the_same_pixels_of_it(tmp_path: Path) -> None:
    """Else a lead may be that of another geometry."""
    repository = ModelRepository(ROOT / "models")
    artifact = repository.load(*repository.resolve("cifar10-cnn"))
    onnx = repository.path(artifact.name, artifact.version) / artifact.fp32.path
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(photograph(*SMALL))
    program = (
        "import sys, model\n"
        "from PIL import Image\n"
        "rows = model.rows([model.pixels(Image.open(sys.argv[1]))])\n"
        "sys.stdout.buffer.write(rows.tobytes())\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(photo)],
        cwd=HERE / "peer_servers",
        env={**os.environ, "PEER_ONNX": str(onnx), "PEER_RESIZE": "256", "PYTHONPATH": "."},
        check=True,
        capture_output=True,
    ).stdout
    ours = decode(
        photo.read_bytes(), ImageSpec("RGB", 32, 32, Resize("shorter", "bilinear", 256, 256))
    )
    np.testing.assert_array_equal(np.frombuffer(said, np.uint8).reshape(32, 32, 3), ours)


def test_the_limit_is_decode_resize_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(photograph(*SMALL))
    monkeypatch.setattr(raw_session, "_SECONDS", 0.05)
    figures = raw_session.measure(ROOT / "models", "cifar10-cnn", photo)
    best = max(figures[f"rows_per_s_{rows}"] for rows in (1, 8, 32, 64))
    limit = 1 / (figures["decode_us"] / 1e6 + 1 / best)
    assert figures["limit_per_s"] == pytest.approx(limit, abs=0.1)
    assert figures["is_resized"] == 1


def test_the_table_holds_each_core_against_the_limit() -> None:
    def figure(server: str, connections: int, rate: float) -> dict[str, Any]:
        times = {"p50_ms": 10.0, "p99_ms": 20.0, "failed": 0}
        return {
            "case": "a",
            "server": server,
            "connections": connections,
            "requests_per_s": rate,
            **times,
        }

    limit = {"rows_per_s_1": 100.0, "rows_per_s_8": 125.0, "decode_us": 2000.0}
    results: dict[str, Any] = {
        "figures": [figure("foveal", 1, 80.0), figure("foveal", 16, 180.0), figure("b", 16, 90.0)],
        "limits": {"a": {**limit, "limit_per_s": 100.0, "is_resized": 1.0}},
        "cores": 2,
    }
    results["figures"].append(figure("b", 1, 70.0))
    text = table(results)
    assert "| b | 70 | 90 |" in text and "| 2.00 | 0 |" in text
    assert "decode and resize 2,000.0 us + run 8,000.0 us a row in 8s: 100 images/s" in text
    assert "on 2 foveal answers 0.90 of it a core, and 0.72 of what one thread" in text


def test_a_choice_of_scaled_decoding_is_the_same_version_otherwise(tmp_path: Path) -> None:
    publish_tiny(tmp_path / "tiny", "tiny")
    artifact = ModelRepository(tmp_path / "tiny").load("tiny", 1)
    root = scaled(tmp_path / "tiny", artifact)
    assert root == scaled(tmp_path / "tiny", artifact)  # made once
    [copy] = ModelRepository(root).versions("tiny")
    got = ModelRepository(root).load("tiny", copy)
    assert got.image.scaled_decoding
    assert replace(got, image=artifact.image) == artifact
    assert [is_large(size) for size in PHOTOGRAPHS] == [False, True]
