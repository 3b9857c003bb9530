"""What small requests to one model wait beside a crowd for another: `python -m tests.fairness`.

Prints a table: milliseconds of 32 x 32 and of 320 x 240 pictures, one connection, alone and beside
each crowd, the best of some rounds, as other work on the machine only adds. One worker;
service/LOG.md keeps the results.
"""

import contextlib
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from PIL import Image

from models.image import encode_png
from models.repository import ModelRepository
from tests.faults.grafted import grafted_model
from tests.server import ROOT, RunningServer, Wire, post, running_server
from tests.tiny import publish_tiny, random_images, tiny_model

ROUNDS = 5
_HEAD_START_S = 0.3
_MOST_S = 4.0  # of one measurement


def small(path: str) -> bytes:
    """A 32 x 32 PNG: decoded on the loop."""
    return post(path, encode_png(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)))


def tiniest(path: str) -> bytes:
    """A picture of the tiny model's own size: all that a request costs is the service's."""
    return post(path, encode_png(random_images(1)[0]))


def photograph(path: str, width: int, height: int) -> bytes:
    """A JPEG of some detail."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8))
    fine = rng.integers(-12, 13, (height, width, 3), np.int16)
    pixels = (np.asarray(coarse.resize((width, height))) + fine).clip(0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=85)
    return post(path, encoded.getvalue())


def latencies_ms(server: RunningServer, request: bytes, count: int) -> tuple[float, float]:
    """p50 and p99 of one connection that waits for each answer, milliseconds."""
    times: list[float] = []
    until = time.perf_counter() + _MOST_S
    with Wire(server, 60) as wire:
        for number in range(count + 10):
            started = time.perf_counter()
            if started > until and times:
                break
            assert wire.send(request).answer().status == 200
            if number >= 10:
                times.append((time.perf_counter() - started) * 1e3)
    return float(np.percentile(times, 50)), float(np.percentile(times, 99))


@contextlib.contextmanager
def crowd(server: RunningServer, request: bytes, connections: int) -> Iterator[list[float]]:
    """Keep one request out on each connection; afterwards the list holds the answers a second."""
    rate: list[float] = []
    with tempfile.NamedTemporaryFile() as file:
        file.write(request)
        file.flush()
        words = [sys.executable, "-m", "tests.crowd", str(server.port), file.name, str(connections)]
        with subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            try:
                assert process.stdout.readline() == "out\n"
                started = time.monotonic()
                time.sleep(_HEAD_START_S)
                yield rate
                process.stdin.close()
                answers, failures = map(int, process.stdout.readline().split())
                assert not failures
                rate.append(answers / (time.monotonic() - started))
            finally:
                process.kill()


def slow_model() -> onnx.ModelProto:
    """The closed form after about 130 megaflops a row, for nothing."""
    wide, wider = np.zeros((16, 8192), np.float32), np.zeros((8192, 2000), np.float32)
    nodes = [
        helper.make_node("MatMul", ["striped", "first"], ["wide"]),
        helper.make_node("MatMul", ["wide", "second"], ["wider"]),
        helper.make_node("ReduceSum", ["wider", "last"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["scores", "nothing"], ["logits"]),
    ]
    return grafted_model({"first": wide, "second": wider}, nodes)


def main() -> None:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        root.mkdir()
        publish_tiny(root, "tiny")
        publish_tiny(root, "other")
        publish_tiny(root, "brief", tiny_model(is_slow=True))
        publish_tiny(root, "slow", slow_model())
        ModelRepository(root).set_default("tiny")
        crowds = {
            "nobody": (b"", 0),
            "64 connections, 8 x 8 pixels": (tiniest("/models/other/predict"), 64),
            "16 connections, a slow model on the loop": (tiniest("/models/brief/predict"), 16),
            "16 connections, a slow model on a thread": (tiniest("/models/slow/predict"), 16),
            "8 connections, 12 megapixels": (photograph("/models/other/predict", 4000, 3000), 8),
        }
        with running_server(root, Path(folder)) as server:
            _measure(server, crowds)


def _measure(server: RunningServer, crowds: dict[str, tuple[bytes, int]]) -> None:
    asked = small("/models/tiny/predict"), photograph("/models/tiny/predict", 320, 240)
    rounds: dict[str, list[list[float]]] = {name: [] for name in crowds}
    for _ in range(ROUNDS):
        for name, (request, connections) in crowds.items():
            with crowd(server, request, connections) as rate:
                figures = [
                    *latencies_ms(server, asked[0], 500),
                    *latencies_ms(server, asked[1], 150),
                ]
            rounds[name].append(figures + rate)
    print("| beside | 32 x 32: p50, p99, ms | 320 x 240: p50, p99, ms | the crowd's answers/s |")
    print("|---|---|---|---|")
    alone = np.min(rounds["nobody"], axis=0)
    for name, seen in rounds.items():
        m = [*np.min(seen, axis=0)[:4], np.max(seen, axis=0)[4]]
        times = m[1] / alone[1], m[3] / alone[3]
        print(
            f"| {name} | {m[0]:.2f}, {m[1]:.2f} ({times[0]:.1f} x) | "
            f"{m[2]:.2f}, {m[3]:.2f} ({times[1]:.1f} x) | {m[4]:,.0f} |"
        )


if __name__ == "__main__":
    main()
