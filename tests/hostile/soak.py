"""Soak a service of two workers: good, bad, aborting clients and photographs for half an hour.

Run ``make soak``, or ``python -m tests.hostile.soak --minutes 30 --out FOLDER``. Every few seconds
it notes the memory, descriptors and threads of all processes and the p99 of small good images. They
are flat if the medians of the last third exceed those of the second by no more than ``MAX_GROWTH``.
"""

import argparse
import asyncio
import io
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path

import numpy as np
from PIL import Image

from models.machine import cpu_name
from report.plots import BLUE, GREEN, ORANGE, PURPLE, new_figure, to_png
from tests.hostile.corpus import bombs, flipped, good, polyglots
from tests.server import RunningServer, post, running_server

ROOT = Path(__file__).resolve().parents[2]
SAMPLE_S = 5.0
# Absolute growth of memory in MiB, descriptors and threads; growth of the p99 as a share of it.
MAX_GROWTH = {"rss_mib": 20.0, "descriptors": 8.0, "threads": 2.0}
MAX_P99_RATIO = 1.5
PATHS = {"small": "/models/fashion-fcnn/predict", "photo": "/models/cifar10-cnn/predict"}


@dataclass
class Sample:
    """The service at one moment."""

    at_s: float
    rss_mib: float
    descriptors: int
    threads: int
    p99_ms: float | None


@dataclass
class Load:
    """What the clients send, and what they hear."""

    port: int
    answers: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def exchange(self, kind: str, image: bytes, path: str) -> None:
        """Send one image over a connection of its own and read the answer."""
        started = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(post(path, image, "Connection: close"))
        try:
            answer = await asyncio.wait_for(reader.read(), 40)
        except (OSError, TimeoutError) as error:
            answer = repr(error).encode()
        finally:
            writer.close()
        status = answer[9:12].decode("ascii", "replace")
        self.answers[f"{kind} {status}"] += 1
        if kind == "good":
            self.latencies_ms.append((time.monotonic() - started) * 1e3)
        expected = ("200", "429") if kind in ("good", "photo") else ("200", "400", "413", "429")
        if status not in expected:
            self.failures.append(f"{kind}: {answer[:200]!r}")

    async def abort(self, image: bytes, path: str, chance: random.Random) -> None:
        """Send a part of a request, or all of it, and leave without reading."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        request = post(path, image)
        whole = chance.random() < 0.5
        writer.write(request if whole else request[: chance.randrange(1, len(request))])
        await asyncio.sleep(chance.random() * 0.02)
        writer.transport.abort()
        self.answers["aborted"] += 1


def photograph(side: int) -> bytes:
    """Return a JPEG of side x side * 3 / 4 pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return file.getvalue()


async def _forever(ends_at: float, pause_s: float, work: Callable[[], Awaitable[None]]) -> None:
    while time.monotonic() < ends_at:
        await work()
        await asyncio.sleep(pause_s)


async def load(load: Load, seconds: float, note: Callable[[], None]) -> None:
    """Run all clients for a time, and ``note`` every ``SAMPLE_S``."""
    chance = random.Random(0)
    picture = good()["png-grey"]
    bad = itertools.cycle([data for _, data in (*bombs(1), *polyglots(), *flipped(2))])
    photos = itertools.cycle([photograph(side) for side in (1600, 2400, 4000)])
    ends_at = time.monotonic() + seconds

    async def sample() -> None:
        note()

    clients = [
        *(
            _forever(ends_at, 0.005, lambda: load.exchange("good", picture, PATHS["small"]))
            for _ in range(4)
        ),
        _forever(ends_at, 0.01, lambda: load.exchange("bad", next(bad), PATHS["small"])),
        _forever(ends_at, 0.02, lambda: load.abort(picture, PATHS["small"], chance)),
        _forever(ends_at, 0.1, lambda: load.abort(next(photos), PATHS["photo"], chance)),
        _forever(ends_at, 0.1, lambda: load.exchange("photo", next(photos), PATHS["photo"])),
        _forever(ends_at, SAMPLE_S, sample),
    ]
    await asyncio.gather(*clients)


def measure(server: RunningServer, minutes: float) -> tuple[Load, list[Sample]]:
    """Load a service for some minutes and sample it."""
    clients, samples = Load(server.port), list[Sample]()
    started = time.monotonic()

    def note() -> None:
        processes = server.workers()
        recent, clients.latencies_ms = clients.latencies_ms, []
        p99_ms = round(statistics.quantiles(recent, n=100)[-1], 2) if len(recent) > 100 else None
        samples.append(
            Sample(
                round(time.monotonic() - started, 1),
                round(server.rss_mib(), 1),
                sum(p.num_fds() for p in processes),
                sum(p.num_threads() for p in processes),
                p99_ms,
            )
        )

    asyncio.run(load(clients, minutes * 60, note))
    return clients, samples


def _median(samples: list[Sample], name: str) -> float:
    values: list[float | None] = [getattr(sample, name) for sample in samples]
    return statistics.median(value for value in values if value is not None)


def problems(clients: Load, samples: list[Sample]) -> list[str]:
    """Return what is not flat, and the first failures."""
    found = clients.failures[:20]
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]

    def medians(name: str) -> tuple[float, float]:
        return _median(middle, name), _median(last, name)

    for name, most in MAX_GROWTH.items():
        before, after = medians(name)
        if after - before > most:
            found.append(f"{name}: {before} in the second third, {after} in the last")
    before, after = medians("p99_ms")
    if after > MAX_P99_RATIO * before:
        found.append(f"p99_ms: {before} in the second third, {after} in the last")
    return found


def draw(samples: list[Sample]) -> bytes:
    """Return the plot of all samples as PNG."""
    figure = new_figure(7.0)
    minutes = [sample.at_s / 60 for sample in samples]
    rows = (
        ("rss_mib", "memory, MiB", BLUE),
        ("descriptors", "descriptors", ORANGE),
        ("threads", "threads", GREEN),
        ("p99_ms", "p99 of small images, ms", PURPLE),
    )
    for axes, (name, label, colour) in zip(figure.subplots(4, 1, sharex=True), rows, strict=True):
        values = [getattr(sample, name) for sample in samples]
        axes.plot(minutes, [nan if value is None else value for value in values], color=colour)
        axes.set_ylabel(label, fontsize=8)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    axes.set_xlabel("minutes")
    return to_png(figure)


def table(clients: Load, samples: list[Sample], found: list[str]) -> str:
    """Return the figures as Markdown."""
    third = len(samples) // 3
    lines = ["| | second third, median | last third, median |", "|---|---|---|"]
    for name in (*MAX_GROWTH, "p99_ms"):
        parts = (samples[third : 2 * third], samples[2 * third :])
        values = [_median(part, name) for part in parts]
        lines.append(f"| {name} | {values[0]:g} | {values[1]:g} |")
    answers = ", ".join(f"{name}: {count:,}" for name, count in sorted(clients.answers.items()))
    return "\n".join([*lines, "", f"Answers: {answers}.", "", *(found or ["All flat."]), ""])


def main() -> None:
    """Run the command line; the exit code is 1 if something grew or failed."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=30, help="length of the run")
    parser.add_argument("--out", type=Path, help="folder for the plot, the table and the samples")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(ROOT / "models", Path(folder), workers=2) as server,
    ):
        clients, samples = measure(server, given.minutes)
    found = problems(clients, samples)
    text = table(clients, samples, found)
    print(text)
    if given.out:
        name = time.strftime("soak_%Y-%m-%d_%H%M")
        (given.out / f"{name}.png").write_bytes(draw(samples))
        head = (
            f"# A soak of {given.minutes:g} minutes, two workers\n\n"
            f"`make soak MINUTES={given.minutes:g}`, {name[5:15]}, {cpu_name()}, {os.cpu_count()} "
            f"cores, clients on the same.\n\n![samples]({name}.png)\n\n"
        )
        (given.out / f"{name}.md").write_text(head + text)
        figures = {"samples": [asdict(sample) for sample in samples], "answers": clients.answers}
        (given.out / f"{name}.json").write_text(json.dumps(figures) + "\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
