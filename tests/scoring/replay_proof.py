"""100,000 requests, recorded by a real service and asked again: are all answers equal to the bit?

    python -m tests.scoring.replay_proof --into scoring/replay.md

Digits with noise, each another picture, one image a request, over HTTP in batches as they happen to
be; recorded whole, then replayed through the same version by ``foveal replay``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from loadtest.calls import Call
from loadtest.engines import Traffic, send
from loadtest.machine import machine_line
from loadtest.samples import RIGHT
from loadtest.serving import free_port, is_answered, running
from models.image import decode, encode_png
from models.repository import ModelRepository
from service.record.reading import read

ROOT = Path(__file__).resolve().parents[2]
MODEL = "digits-cnn"
# Requests/s. Below what the service and the recorder's one thread keep up with beside others.
_RATE = 1000.0
_FOVEAL = [sys.executable, str(ROOT / "foveal.py")]


def make_calls(count: int) -> list[Call]:
    """Return requests for golden images of the model, each with noise of its own."""
    repository = ModelRepository(ROOT / "models")
    artifact = repository.load(*repository.resolve(MODEL))
    pictures = [
        decode(repository.read_file(artifact, golden.path), artifact.image).astype(np.int16)
        for golden in artifact.golden
    ]
    rng = np.random.default_rng(2026)
    calls = []
    for number in range(count):
        noisy = pictures[number % len(pictures)] + rng.integers(-60, 61, pictures[0].shape)
        body = encode_png(noisy.clip(0, 255).astype(np.uint8))
        headers = (("Content-Type", "image/png"),)
        calls.append(Call("raw", f"/models/{MODEL}/predict", headers, body, (), "any"))
    return calls


def record(folder: Path, count: int, rate: float) -> int:
    """Serve, send, record; return the requests that were answered with 200."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {
        "FOVEAL_RECORD": "1",
        "FOVEAL_RECORD_FOLDER": str(folder / "recording"),
        "FOVEAL_GRPC_PORT": "0",
        "BENTOML_HOME": str(folder / "home"),
    }
    words = [*_FOVEAL, "serve", "--host", "127.0.0.1", "--port", str(port)]
    moments = tuple((number / rate, number) for number in range(count))
    length_s = count / rate + 1
    traffic = Traffic(
        ((0.0, rate),), True, length_s, processes=1, connections=64, timeout_s=60, moments=moments
    )
    ready = f"{url}/readyz"
    with running(words, folder / "log", lambda: is_answered(ready), variables=variables):
        samples = send(url, make_calls(count), traffic)
    return samples.count(RIGHT)


def main() -> None:
    """Run it and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=_RATE)
    parser.add_argument("--into", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        answered = record(folder, asked.requests, asked.rate)
        recording = folder / "recording"
        sizes = [entry.sample.document["batch_rows"] for entry in read(recording)]
        begun = time.monotonic()
        words = ["replay", str(recording), "--candidate", MODEL, "--json"]
        done = subprocess.run([*_FOVEAL, *words], capture_output=True, text=True, check=False)
        seconds = time.monotonic() - begun
        found = json.loads(done.stdout)
    alone = found["bit_equal_alone"]
    text = f"""# Replay of {asked.requests:,} requests

{machine_line()}, {datetime.now(UTC):%Y-%m-%d}; `make replay-proof`. {MODEL}, one image a request,
each another picture, at {asked.rate:,.0f} requests/s; batches had 1 to {max(sizes)}
rows, {np.mean(sizes):.1f} on average.

| | |
|---|---|
| answered with 200 | {answered:,} |
| recorded | {len(sizes):,} |
| replayed, the same version | {found["rows"]:,} |
| equal to the last bit | {found["bit_equal"]:,}, {alone:,} of them only in a batch of their own |
| largest difference | {found["largest_difference"]:g} |
| labels changed | {found["flipped"]:,} |
| seconds of the replay | {seconds:.0f} |
"""
    print(text)
    if asked.into is not None:
        asked.into.write_text(text)
    sys.exit(found["bit_equal"] != asked.requests)


if __name__ == "__main__":
    main()
