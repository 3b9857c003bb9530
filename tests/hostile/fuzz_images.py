"""Fuzz the decode stage: mutated images of each format, decoded as the service decodes them.

Run ``make fuzz``, or ``python -m tests.hostile.fuzz_images --count 1000000``. Each format has a
process of its own, which notes what it decodes next: a crash names its input, and the run goes on
behind it. A failure is a crash, an error that is not the client's, an answer later than
``DEADLINE_S``, or memory that grows.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from models.repository import ModelRepository
from service.errors import ServiceError
from service.pipeline.decode import DecodeStage
from service.pipeline.decode_queue import DecodeQueue
from service.rollout.loading import LoadOptions, load
from service.workers import memory
from tests.hostile.corpus import good
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
MAX_SEED_BYTES = 64 << 10
DEADLINE_S = 30.0
GROWTH_MIB = 50
WARM_UP = 2000  # images before memory is read for the first time


@dataclass
class Tally:
    """What became of the images of one format; sizes are in MiB."""

    kind: str
    seeds: int
    images: int = 0
    decoded: int = 0
    refused: int = 0
    slowest_ms: float = 0.0
    rss_before: float = 0.0
    rss_after: float = 0.0
    failures: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def grown(self) -> float:
        """Return by how much memory grew after the warm-up."""
        return self.rss_after - self.rss_before


def seeds_of(folder: Path | None) -> dict[str, list[bytes]]:
    """Return the images to mutate by format: our own, and small ones of a folder."""
    found: dict[str, list[bytes]] = {kind: [] for kind in FORMATS}
    for name, data in good().items():
        kind = "ppm" if name in ("pgm", "pbm") else name.partition("-")[0]
        found[kind].append(data)
    paths = sorted(folder.rglob("*")) if folder else []
    for path in paths:
        if path.is_file() and path.stat().st_size <= MAX_SEED_BYTES:
            data = path.read_bytes()
            for magic, kind in MAGIC.items():
                if data.startswith(magic):
                    found[kind].append(data)
    return found


def image(seed: int, kind: str, number: int, seeds: list[bytes]) -> bytes:
    """Return one mutated image; the same arguments give the same bytes."""
    chance = random.Random(f"{seed}/{kind}/{number}")
    return mutate(chance, chance.choice(seeds), chance.choice(seeds))


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

        deadline = time.monotonic() + DEADLINE_S
        self._stage.decode([encoded], deadline, take)
        return await asyncio.wait_for(taken, 2 * DEADLINE_S)


async def _fuzz(tally: Tally, seeds: list[bytes], span: range, seed: int, now: Any) -> None:
    memory.return_large_blocks()  # as a worker does
    process = psutil.Process()
    with ThreadPoolExecutor(1) as threads:
        desks = [_Desk(threads, name) for name in ("cifar10-cnn", "fashion-cnn")]
        for number in span:
            now.value = number
            encoded = image(seed, tally.kind, number, seeds)
            started = time.monotonic()
            try:
                error = await desks[number % 2].error(encoded)
            except ServiceError as refusal:
                error = refusal
            except Exception as bug:
                tally.failures.append(f"{number}: {type(bug).__name__}: {bug}")
                continue
            spent_ms = (time.monotonic() - started) * 1e3
            tally.slowest_ms = max(tally.slowest_ms, spent_ms)
            tally.images += 1
            if error is None:
                tally.decoded += 1
            else:
                tally.refused += 1
                tally.reasons[type(error).__name__] += 1
                if error.status >= 500:
                    tally.failures.append(f"{number}: {error.status}: {error.message}")
            if spent_ms > DEADLINE_S * 1e3:
                tally.failures.append(f"{number}: answered after {spent_ms:.0f} ms")
            if tally.images == min(WARM_UP, len(span) // 2):
                tally.rss_before = process.memory_info().rss / 2**20
        tally.rss_after = process.memory_info().rss / 2**20


def _child(tally: Tally, seeds: list[bytes], span: range, seed: int, now: Any, pipe: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders print from C
    asyncio.run(_fuzz(tally, seeds, span, seed, now))
    pipe.send(tally)


def fuzz(kind: str, seeds: list[bytes], count: int, seed: int) -> Tally:
    """Decode ``count`` mutated images of one format; a crash is a failure and is passed over."""
    context = multiprocessing.get_context("spawn")
    total, start = Tally(kind, len(seeds)), 0
    while start < count:
        now: Synchronized[int] = context.Value("q", start)
        receiver, sender = context.Pipe(duplex=False)
        part = Tally(kind, len(seeds))
        arguments = (part, seeds, range(start, count), seed, now, sender)
        process = context.Process(target=_child, args=arguments)
        process.start()
        sender.close()
        try:
            part = receiver.recv()
            start = count
        except EOFError:
            process.join()
            part.images = now.value - start + 1
            start = now.value + 1
            part.failures.append(f"{now.value}: the process ended with {process.exitcode}")
        process.join()
        _add(total, part)
    if total.grown > GROWTH_MIB:
        total.failures.append(f"memory grew by {total.grown:.0f} MiB")
    return total


def _add(total: Tally, part: Tally) -> None:
    total.images += part.images
    total.decoded += part.decoded
    total.refused += part.refused
    total.slowest_ms = max(total.slowest_ms, part.slowest_ms)
    total.rss_before, total.rss_after = part.rss_before, part.rss_after
    total.failures += part.failures
    total.reasons.update(part.reasons)


def table(tallies: list[Tally]) -> str:
    """Return a Markdown table, a row for each format."""
    rows = [
        "| format | seeds | images | decoded | refused | slowest, ms | grew, MiB | failures |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {tally.kind} | {tally.seeds} | {tally.images:,} | {tally.decoded:,} | "
        f"{tally.refused:,} | {tally.slowest_ms:.0f} | {tally.grown:.1f} | {len(tally.failures)} |"
        for tally in tallies
    ]
    return "\n".join(rows) + "\n"


def main() -> None:
    """Run the command line; the exit code is 1 after a failure."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--count", type=int, default=1_000_000, help="images of each format")
    parser.add_argument("--seed", type=int, default=0, help="first number of every image's seed")
    parser.add_argument("--seeds", type=Path, help="folder with further images to mutate")
    parser.add_argument("--formats", default=",".join(FORMATS), help="formats, with commas")
    parser.add_argument("--json", type=Path, help="file for all figures and failures")
    given = parser.parse_args()
    seeds = seeds_of(given.seeds)
    tallies = []
    for kind in given.formats.split(","):
        tally = fuzz(kind, seeds[kind], given.count, given.seed)
        print("\n".join([*tally.failures[:20], table([tally]).splitlines()[2]]), flush=True)
        tallies.append(tally)
    print(table(tallies))
    if given.json:
        given.json.write_text(json.dumps([asdict(tally) for tally in tallies], indent=1) + "\n")
    sys.exit(any(tally.failures for tally in tallies))


if __name__ == "__main__":
    main()
