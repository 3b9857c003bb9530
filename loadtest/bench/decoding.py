"""Decoding photographs on the CPU: threads beside processes with shared memory, and the copy after.

    python -m loadtest.bench.decoding [--rounds 5] [--seconds 2]

Both decode and resize 640 x 427 pixels to a row of 224 x 224 with one worker a core. A process gets
the file through a pipe and writes the row where the parent reads it; a thread needs neither. The
copy is what puts 64 rows that were decoded one by one into the batch that runs. Rounds are
interleaved, medians are compared: other work on the machine disturbs all of them alike.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from loadtest.bench.photo import photograph
from loadtest.machine import machine_line
from models.artifact import Crop, ImageSpec, Resize
from models.image import decode

SPEC = ImageSpec("RGB", 224, 224, Resize("shorter", "bilinear", 256, 256), Crop())
_ROWS = 64
_ROW_BYTES = math.prod(SPEC.shape_HWC)


# In a decoding process: the memory that it writes into.
_attached: list[SharedMemory] = []


def _attach(name: str) -> None:
    _attached.append(SharedMemory(name))


def _decode_into(encoded: bytes, row: int) -> None:
    (memory,) = _attached
    batch = np.ndarray((_ROWS, *SPEC.shape_HWC), np.uint8, memory.buf)
    batch[row] = decode(encoded, SPEC)


def _decode(encoded: bytes, _: int) -> None:
    decode(encoded, SPEC)


def _batches(pool: Executor, work: Callable[[bytes, int], None], seconds: float) -> float:
    """Return rows/s of batches that are decoded by a pool."""
    encoded = [photograph(427, 640)] * _ROWS
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        list(pool.map(work, encoded, range(_ROWS)))
        count += _ROWS
    return count / elapsed


def _copies(seconds: float) -> float:
    """Return rows/s of the copy that the batcher makes of single rows."""
    rows = [decode(photograph(427, 640), SPEC) for _ in range(_ROWS)]
    batch = np.empty((_ROWS * SPEC.height, SPEC.width, SPEC.channels), np.uint8)
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        np.concatenate(rows, out=batch)
        count += _ROWS
    return count / elapsed


def _alone(seconds: float) -> float:
    encoded = photograph(427, 640)
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        decode(encoded, SPEC)
        count += 1
    return count / elapsed


def measure(rounds: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Measure each way ``rounds`` times in turns; yields ``what`` and ``images_per_s``, medians."""
    cores = len(os.sched_getaffinity(0))
    memory = SharedMemory(create=True, size=_ROWS * _ROW_BYTES)
    with ExitStack() as stack:
        stack.callback(memory.unlink)
        stack.callback(memory.close)
        threads = stack.enter_context(ThreadPoolExecutor(cores))
        # Spawned: a process that is forked from one with threads may hang.
        processes = stack.enter_context(
            ProcessPoolExecutor(cores, get_context("spawn"), _attach, (memory.name,))
        )
        list(processes.map(_decode_into, [photograph(427, 640)] * _ROWS, range(_ROWS)))
        ways: dict[str, Callable[[float], float]] = {
            "CPU, 1 thread": _alone,
            f"CPU, {cores} threads": partial(_batches, threads, _decode),
            f"CPU, {cores} processes, shared memory": partial(_batches, processes, _decode_into),
            f"copy of {_ROWS} rows into the batch": _copies,
        }
        found: dict[str, list[float]] = {what: [] for what in ways}
        for _ in range(rounds):
            for what, way in ways.items():
                found[what].append(way(seconds))
    for what, each in found.items():
        yield {"what": what, "images_per_s": statistics.median(each)}


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.decoding")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each figure (5)")
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement (2)")
    options = parser.parse_args()
    print(machine_line())
    for figure in measure(options.rounds, options.seconds):
        print(json.dumps(figure))


if __name__ == "__main__":
    main()
