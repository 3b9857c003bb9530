"""The reports, each made as its command makes it; tuning's from measurements that are kept."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loadtest.tune.journal import Journal
from loadtest.tune.points import Served
from loadtest.tune.report import Story, write_report
from loadtest.tune.search import Outcome, Wish
from models.image import encode_png
from models.machine import Machine
from tests.recordings import load as load_model
from tests.recordings import record
from tests.server import ROOT

TUNED = ROOT / "loadtest" / "bench" / "results" / "tune_2026-11-21_digits-cnn"


def run(*arguments: object) -> None:
    command = [sys.executable, str(ROOT / "foveal.py"), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def training(folder: Path, options: Sequence[object] = ()) -> Path:
    run("train", "--dataset", "digits", *options, "--run", folder / "run")
    return folder / "run" / "report.html"


def load(folder: Path, options: Sequence[object] = ()) -> Path:
    run("loadtest", "--start", *options, "--out", folder / "load")
    return folder / "load" / "report.html"


def tuning(folder: Path) -> Path:
    folder = folder / "tune"
    folder.mkdir()
    text = without_settings_gone((TUNED / "measurements.jsonl").read_text())
    (folder / "measurements.jsonl").write_text(text)
    about = json.loads(text.splitlines()[0])["about"]
    kept = json.loads(without_settings_gone((TUNED / "tune.json").read_text()))
    outcome = kept["outcome"]
    for name in ("best", "default"):
        trail = tuple(map(tuple, outcome[name]["trail"]))
        outcome[name] = Served(**outcome[name] | {"trail": trail})
    return write_report(
        folder,
        Journal(folder, about),
        Story(
            kept["model"],
            Machine(**kept["machine"]),
            Wish(**kept["wish"]),
            Outcome(**outcome),
            kept["verdict"],
            kept["command"],
        ),
    )


def without_settings_gone(text: str) -> str:
    """Leave out what a later service chooses by itself."""
    return re.sub(r',\s*"(?:max_queue_delay_ms|buckets)": (?:[\d.]+|\[\])', "", text)


def replay(folder: Path) -> Path:
    """Golden images with noise, answered by fashion-cnn, then by fashion-fcnn."""
    model = load_model(ROOT / "models", "fashion-cnn")
    versions = ROOT / "models" / "fashion-cnn" / "2" / "golden"
    files = [file.read_bytes() for file in sorted(versions.glob("*.png"))]
    rng, images, truths = np.random.default_rng(0), [], ["id,index"]
    for number in range(80):
        golden = number % len(files)
        pixels_HWC = model.decode(files[golden])
        noisy_HWC = pixels_HWC + rng.integers(-50, 51, pixels_HWC.shape)
        images.append(encode_png(noisy_HWC.clip(0, 255).astype(np.uint8)))
        label = model.artifact.golden[golden].label
        truths.append(f"id-{number},{model.artifact.labels.index(label)}")
    record(folder / "recording", model, images)
    (folder / "truth.csv").write_text("\n".join(truths))
    candidate = ("--candidate", "fashion-fcnn", "--model", "fashion-cnn")
    truth = ("--labels", folder / "truth.csv")
    run("replay", folder / "recording", *candidate, *truth, "--out", folder / "replay")
    return folder / "replay" / "replay.html"
