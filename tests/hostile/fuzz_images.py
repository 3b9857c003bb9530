"""Fuzz the decode stage: mutated images of each format, decoded as the service decodes them.

Run ``make fuzz``, or ``python -m tests.hostile.fuzz_images --count 1000000``. A process a core
decodes them, and notes what it decodes next: a crash names its input, and the run goes on behind
it. A failure is a crash, an error that is not the client's, ``DEADLINE_S`` of the processor for
one image, or memory that grows.
"""

import argparse
import asyncio
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from models.image import ImageError, read_size
from models.machine import available_cpus
from models.repository import ModelRepository
from service.errors import ServiceError
from service.pipeline.decode import DecodeStage
from service.pipeline.decode_queue import DecodeQueue
from service.rollout.loading import LoadOptions, load
from service.workers import memory
from tests.hostile.corpus import good
from tests.hostile.fuzz_report import Tally, report, row
from tests.hostile.mutate import mutate

MODELS = Path(__file__).resolve().parents[2] / "models"
FORMATS = ("jpeg", "png", "webp", "bmp", "gif", "tiff", "ppm")
MAGIC = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG": "png",
    b"RIFF": "webp",
    b"BM": "bmp",
    b"GIF8": "gif",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    **{b"P%d" % kind: "ppm" for kind in range(1, 7)},
}
# Small files and pictures are mutated most: they reach the same code in a hundredth of the time.
MAX_SEED_BYTES = 64 << 10
SMALL_BYTES, SMALL_PIXELS = 8 << 10, 1 << 14
LARGE_SHARE = 1 / 32
DEADLINE_S = 30.0
WARM_UP = 2000  # images before memory is read for the first time
BATCH = 20_000  # images that a process is asked for at once


@dataclass
class Seeds:
    """The images of one format that are mutated."""

    small: list[bytes]
    large: list[bytes]

    def __len__(self) -> int:
        return len(self.small) + len(self.large)

    def choose(self, chance: random.Random) -> bytes:
        """Return one of them, mostly a small one."""
        is_large = self.large and chance.random() < LARGE_SHARE
        return chance.choice(self.large if is_large else self.small)


def seeds_of(folder: Path | None) -> dict[str, Seeds]:
    """Return the images to mutate by format: our own, and those of up to 64 KiB in a folder."""
    found = {kind: Seeds([], []) for kind in FORMATS}
    for name, data in good().items():
        kind = "ppm" if name in ("pgm", "pbm") else name.partition("-")[0]
        found[kind].small.append(data)
    paths = sorted(folder.rglob("*")) if folder else []
    for path in paths:
        if path.is_file() and path.stat().st_size <= MAX_SEED_BYTES:
            data = path.read_bytes()
            for magic, kind in MAGIC.items():
                if data.startswith(magic):
                    seeds = found[kind]
                    (seeds.small if _is_small(data) else seeds.large).append(data)
    return found


def _is_small(encoded: bytes) -> bool:
    try:
        width, height = read_size(encoded)
    except ImageError:
        width = height = 0
    return len(encoded) <= SMALL_BYTES and width * height <= SMALL_PIXELS


def image(seed: int, kind: str, number: int, seeds: Seeds) -> bytes:
    """Return one mutated image; the same arguments give the same bytes."""
    chance = random.Random(f"{seed}/{kind}/{number}")
    return mutate(chance, seeds.choose(chance), seeds.choose(chance))


class _Desk:
    """The decode stage of a shipped model, and the answer to one image at a time."""

    def __init__(self, threads: ThreadPoolExecutor, model: str) -> None:
        self._loop = asyncio.get_running_loop()
        repository = ModelRepository(MODELS)
        version = repository.versions(model)[-1]
        classifier = load(repository, model, version, LoadOptions(threads=1))
        classifier.start(self._loop)
        queue = DecodeQueue(threads, 1, self._loop)
        self._stage = DecodeStage(classifier, queue, lambda _seconds: None)

    async def error(self, encoded: bytes) -> ServiceError | None:
        """Decode one image; return its error, None if it is a row."""
        taken: asyncio.Future[ServiceError | None] = self._loop.create_future()

        def take(_rows: list[Any], errors: list[ServiceError | None]) -> None:
            taken.set_result(errors[0])

        self._stage.decode([encoded], time.monotonic() + DEADLINE_S, take)
        if taken.done():
            return taken.result()
        return await asyncio.wait_for(taken, 2 * DEADLINE_S)


async def _decode(
    desks: list[_Desk], tally: Tally, seeds: Seeds, span: range, seed: int, now: Any
) -> None:
    for number in span:
        now.value = number
        encoded = image(seed, tally.kind, number, seeds)
        started = time.process_time()
        try:
            error = await desks[number % len(desks)].error(encoded)
        except ServiceError as refusal:
            error = refusal
        except Exception as bug:
            tally.failures.append(f"{number}: {type(bug).__name__}: {bug}")
            continue
        spent_ms = (time.process_time() - started) * 1e3
        tally.slowest_ms = max(tally.slowest_ms, spent_ms)
        tally.count += 1
        tally.answers["decoded" if error is None else str(error.status)] += 1
        if error is not None and error.status >= 500:
            tally.failures.append(f"{number}: {error.status}: {error.message}")
        if spent_ms > DEADLINE_S * 1e3:
            tally.failures.append(f"{number}: took {spent_ms:.0f} ms of the processor")


async def _work(pipe: Any, seeds: dict[str, Seeds], seed: int, now: Any) -> None:
    """Decode one span after the other, as the parent asks."""
    memory.return_large_blocks()  # as a worker does
    process = psutil.Process()
    done: dict[str, int] = {}
    before: dict[str, float] = {}
    with ThreadPoolExecutor(1) as threads:
        desks = [_Desk(threads, name) for name in ("cifar10-cnn", "fashion-cnn")]
        while (order := pipe.recv()) is not None:
            kind, span = order
            tally = Tally(kind, len(seeds[kind]))
            warm = max(0, min(WARM_UP - done.get(kind, 0), len(span) // 2))
            await _decode(desks, tally, seeds[kind], span[:warm], seed, now)
            before.setdefault(kind, process.memory_info().rss / 2**20)
            await _decode(desks, tally, seeds[kind], span[warm:], seed, now)
            done[kind] = done.get(kind, 0) + len(span)
            tally.rss_before = before[kind]
            tally.rss_after = process.memory_info().rss / 2**20
            pipe.send(tally)


def _child(pipe: Any, seeds: dict[str, Seeds], seed: int, now: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders print from C
    asyncio.run(_work(pipe, seeds, seed, now))


class _Process:
    """A process that decodes, and is replaced when it ends."""

    def __init__(self, seeds: dict[str, Seeds], seed: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._seeds, self._seed = seeds, seed
        self._now: Synchronized[int] = self._context.Value("q", 0)
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        arguments = (theirs, self._seeds, self._seed, self._now)
        self._process = self._context.Process(target=_child, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def decode(self, kind: str, span: range) -> Iterator[Tally]:
        """Decode a span; what crashes is a failure and is passed over."""
        while span:
            try:
                self._now.value = span[0]
                self._pipe.send((kind, span))
                yield self._pipe.recv()
                return
            except (EOFError, ConnectionError):
                self._process.join()
                last = self._now.value
                part = Tally(kind, len(self._seeds[kind]), count=last - span[0] + 1)
                part.failures.append(f"{last}: the process ended with {self._process.exitcode}")
                span = range(last + 1, span[-1] + 1)
                self._start()
                yield part

    def stop(self) -> None:
        """End it."""
        self._pipe.send(None)
        self._process.join()


def fuzz(kind: str, processes: list[_Process], seeds: Seeds, count: int) -> Tally:
    """Decode ``count`` mutated images of one format."""
    total, started = Tally(kind, len(seeds)), time.monotonic()
    size = min(BATCH, -(-count // len(processes)))
    spans = iter([range(start, min(start + size, count)) for start in range(0, count, size)])

    def work(process: _Process) -> None:
        for span in spans:
            for part in process.decode(kind, span):
                total.add(part)
            if total.has_failed_often:
                return

    with ThreadPoolExecutor(len(processes)) as threads:
        list(threads.map(work, processes))
    total.seconds = time.monotonic() - started
    total.check_memory()
    return total


def main() -> None:
    """Run the command line; the exit code is 1 after a failure."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--count", type=int, default=1_000_000, help="images of each format")
    parser.add_argument("--seed", type=int, default=0, help="first number of every image's seed")
    parser.add_argument("--seeds", type=Path, help="folder with further images to mutate")
    parser.add_argument("--formats", default=",".join(FORMATS), help="formats, with commas")
    parser.add_argument("--jobs", type=int, default=available_cpus(), help="processes")
    parser.add_argument("--json", type=Path, help="file for all figures and failures")
    given = parser.parse_args()
    seeds = seeds_of(given.seeds)
    processes = [_Process(seeds, given.seed) for _ in range(given.jobs)]
    tallies = []
    for kind in given.formats.split(","):
        tally = fuzz(kind, processes, seeds[kind], given.count)
        print("\n".join([*tally.failures[:20], row(tally)]), flush=True)
        tallies.append(tally)
    for process in processes:
        process.stop()
    sys.exit(report("Images through the decode stage", tallies, given.json))


if __name__ == "__main__":
    main()
