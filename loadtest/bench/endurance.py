"""The endurance benchmark: pauses, memory, connections and workers over a long run.

One server of this checkout at a time, on one core (two for the runs with two workers), wrk on
another. Every figure is a ratio within this run; what is absolute depends on the machine.
"""

import asyncio
import os
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, cast

from loadtest.bench.photo import photograph
from loadtest.bench.servers import Probe, foveal, serving
from loadtest.bench.wrk import Figure, drive
from models.repository import ModelRepository

MODEL, PHOTO_MODEL = "fashion-fcnn", "cifar10-cnn"
# Height, width and grain: what a camera in a telephone of modest means gives.
_PHOTO = 1200, 1600, 8.0
SWEEP = (1, 4, 16, 64, 256, 512)
NEWCOMERS = 512
_CROWDS = 5
_PORT = 4190


def run(models: Path, seconds: int, requests: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything, one after the other.

    Args:
        models: Repository that holds ``fashion-fcnn``.
        seconds: Of the run that looks for pauses.
        requests: Of the run that looks at memory.
        say: Called with a line of progress after each part.

    Returns:
        ``sweep`` (requests/s by connections), ``pauses``, ``newcomers``, ``memory``, ``workers``.
    """
    repository = ModelRepository(models)
    artifact = repository.load(*repository.resolve(MODEL))
    image = repository.read_file(artifact, artifact.golden[0].path)
    results: dict[str, Any] = {}
    with tempfile.NamedTemporaryFile() as file:
        file.write(image)
        file.flush()
        body = Path(file.name)
        with _server(models, image, "0", 1) as (url, pid):
            results["sweep"] = {
                count: drive(url, count, 3, body, "image/png", "1").requests_per_s
                for count in SWEEP
            }
            say(f"sweep {results['sweep']}")
            results["newcomers"] = _newcomers(url, image)
            say(f"newcomers {results['newcomers']}")
            results["pauses"] = _pauses(url, image, body, seconds)
            say(f"pauses {results['pauses']}")
            results["photos"] = _photos(url, body)
            say(f"photos {results['photos']}")
        with _server(models, image, "0", 1) as (url, pid):
            results["memory"] = _memory(url, body, pid, requests)
            say(f"memory {results['memory']}")
        results["workers"] = {}
        for workers in (1, 2):
            cpus = "0" if workers == 1 else "0,1"
            with _server(models, image, cpus, workers) as (url, _):
                figure = drive(url, 64, 5, body, "image/png", "0-1")
                results["workers"][workers] = figure.requests_per_s
        say(f"workers {results['workers']}")
    return results


def table(results: dict[str, Any]) -> str:
    """Render the results as Markdown."""
    sweep = {int(count): rate for count, rate in results["sweep"].items()}
    workers = {int(count): rate for count, rate in results["workers"].items()}
    pauses, newcomers, memory = results["pauses"], results["newcomers"], results["memory"]
    photos = results["photos"]
    peak = max(sweep.values())
    return (
        "\n".join(
            [
                f"| connections | {' | '.join(str(count) for count in sweep)} |",
                "|---" * (len(sweep) + 1) + "|",
                f"| requests/s | {' | '.join(f'{rate:,.0f}' for rate in sweep.values())} |",
                f"| of the peak | {' | '.join(f'{rate / peak:.2f}' for rate in sweep.values())} |",
                "",
                "| what | measured |",
                "|---|---|",
                f"| {pauses['seconds']} s at 64 connections: p50, p99 of the answers to one more "
                f"client that asks every 2 ms | {pauses['p50_ms']:.2f} ms, "
                f"{pauses['p99_ms']:.2f} ms |",
                f"| longest answer to it | {pauses['max_ms']:.1f} ms |",
                f"| the same client's longest late wake-up (the machine's own pauses) | "
                f"{pauses['max_late_ms']:.1f} ms |",
                f"| {newcomers['connections']} connections opened at once, one request each: all "
                f"answered | {newcomers['wall_ms']:.0f} ms (median of {_CROWDS} crowds, the first "
                f"{newcomers['first_ms']:.0f} ms), {newcomers['failed']} failed |",
                f"| the same requests one after the other's answer over 64 open connections | "
                f"{newcomers['steady_ms']:.0f} ms |",
                f"| small images at 16 connections: p99 alone, and while 2 connections send "
                f"2-megapixel JPEGs to {PHOTO_MODEL} ({photos['photos_per_s']:.0f} a second) | "
                f"{photos['alone_p99_ms']:.2f} ms, {photos['beside_p99_ms']:.2f} ms: "
                f"{photos['beside_p99_ms'] / photos['alone_p99_ms']:.2f} times |",
                f"| resident memory after {memory['first_requests']:,} requests | "
                f"{memory['first_mib']:.1f} MiB |",
                f"| after {memory['requests']:,} | {memory['mib']:.1f} MiB, "
                f"{memory['mib'] / memory['first_mib'] - 1:+.1%} |",
                f"| two workers on two cores, wrk on the same two | {workers[2] / workers[1]:.2f} "
                "times one worker |",
            ]
        )
        + "\n"
    )


@contextmanager
def _server(models: Path, image: bytes, cpus: str, workers: int) -> Iterator[tuple[str, int]]:
    variables = {
        "FOVEAL_MODELS": str(models),
        "FOVEAL_WORKERS": str(workers),
        "FOVEAL_GRPC_PORT": "0",
    }
    url = f"http://127.0.0.1:{_PORT}/models/{MODEL}/predict"
    probe = Probe(url, image, "image/png")
    with serving(foveal(_PORT), _PORT, cpus, variables, probe) as pid:
        yield url, pid


def _request(image: bytes) -> bytes:
    return (
        b"POST /models/%s/predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (MODEL.encode(), len(image), image)
    )


def _address(url: str) -> tuple[str, int]:
    return "127.0.0.1", int(url.split(":")[2].split("/", maxsplit=1)[0])


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bool:
    """Send a request and read its answer; say whether it was 200."""
    writer.write(data)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
    await reader.readexactly(length)
    return head.startswith(b"HTTP/1.1 200")


def _newcomers(url: str, image: bytes) -> dict[str, Any]:
    """Open many connections at once, one request each; then the same number over a few.

    Plain sockets: asyncio's streams took longer to open a connection than the server to answer it.
    """
    data, address = _request(image), _address(url)

    def timed(connections: int, requests: int) -> tuple[float, int]:
        """Give the seconds until all are answered, and how many of the answers were not 200."""
        failed = 0
        with ExitStack() as stack, selectors.EpollSelector() as selector:
            sockets = [
                stack.enter_context(closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)))
                for _ in range(connections)
            ]
            started = time.perf_counter()
            for each in sockets:
                each.connect(address)  # the kernel's own backlog answers it
                each.sendall(data)
                selector.register(each, selectors.EVENT_READ)
            left = dict.fromkeys(sockets, requests)
            while left:
                ready = selector.select(10)
                if not ready:
                    failed += len(left)
                    break
                for key, _ in ready:
                    each = cast("socket.socket", key.fileobj)
                    answer = each.recv(1 << 16)  # loopback brings such a small answer whole
                    failed += not answer.startswith(b"HTTP/1.1 200")
                    left[each] -= 1
                    if left[each] and answer:
                        each.sendall(data)
                    else:
                        selector.unregister(each)
                        del left[each]
            return time.perf_counter() - started, failed

    timed(64, 8)
    crowds = [timed(NEWCOMERS, 1) for _ in range(_CROWDS)]
    steady = [timed(64, NEWCOMERS // 64) for _ in range(_CROWDS)]
    return {
        "connections": NEWCOMERS,
        "failed": sum(failed for _, failed in crowds + steady),
        "wall_ms": statistics.median(seconds for seconds, _ in crowds) * 1e3,
        "first_ms": crowds[0][0] * 1e3,
        "steady_ms": statistics.median(seconds for seconds, _ in steady) * 1e3,
    }


def _pauses(url: str, image: bytes, body: Path, seconds: int) -> dict[str, Any]:
    """Ask every 2 ms beside wrk, and note how long each answer takes."""

    async def watch() -> tuple[list[float], float]:
        reader, writer = await asyncio.open_connection(*_address(url))
        data, times, late_s = _request(image), [], 0.0
        end = time.monotonic() + seconds
        while (started := time.monotonic()) < end:
            assert await _ask(reader, writer, data), "expected 200"
            times.append(time.monotonic() - started)
            planned = time.monotonic() + 0.002
            await asyncio.sleep(0.002)
            late_s = max(late_s, time.monotonic() - planned)
        writer.close()
        return times, late_s

    async def both() -> tuple[list[float], float]:
        load = asyncio.to_thread(drive, url, 64, seconds, body, "image/png", "1")
        watched, _ = await asyncio.gather(watch(), load)
        return watched

    times, late_s = asyncio.run(both())
    times.sort()
    return {
        "seconds": seconds,
        "answers": len(times),
        "p50_ms": times[len(times) // 2] * 1e3,
        "p99_ms": times[len(times) * 99 // 100] * 1e3,
        "max_ms": times[-1] * 1e3,
        "max_late_ms": late_s * 1e3,
    }


def _photos(url: str, body: Path) -> dict[str, Any]:
    """Measure small images alone and beside a stream of photographs, twice each, in turns."""
    figures: dict[str, list[Figure]] = {"alone": [], "beside": [], "photos": []}
    with tempfile.NamedTemporaryFile() as file:
        file.write(photograph(*_PHOTO))
        file.flush()
        photo_url = url.replace(MODEL, PHOTO_MODEL)
        for _ in range(2):
            figures["alone"].append(drive(url, 16, 4, body, "image/png", "1"))
            with ThreadPoolExecutor(1) as pool:
                stream = pool.submit(drive, photo_url, 2, 6, Path(file.name), "image/jpeg", "1")
                time.sleep(1)
                figures["beside"].append(drive(url, 16, 4, body, "image/png", "1"))
                figures["photos"].append(stream.result())
    return {
        "alone_p99_ms": statistics.median(f.p99_ms for f in figures["alone"]),
        "beside_p99_ms": statistics.median(f.p99_ms for f in figures["beside"]),
        "alone_per_s": statistics.median(f.requests_per_s for f in figures["alone"]),
        "beside_per_s": statistics.median(f.requests_per_s for f in figures["beside"]),
        "photos_per_s": statistics.median(f.requests_per_s for f in figures["photos"]),
    }


def _memory(url: str, body: Path, pid: int, requests: int) -> dict[str, Any]:
    """Read the server's resident memory after a tenth of the requests, and after all."""
    rate, done, first = 0.0, 0.0, 0.0
    first_mib = 0.0
    while done < requests:
        figure = drive(url, 64, 2, body, "image/png", "1")
        rate = figure.requests_per_s
        done += rate * 2
        if not first_mib and done >= requests / 10:
            first, first_mib = done, _resident_mib(pid)
    return {
        "first_requests": round(first),
        "first_mib": first_mib,
        "requests": round(done),
        "mib": _resident_mib(pid),
    }


def _resident_mib(pid: int) -> float:
    """Add up the resident memory of a process and all that it started."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    todo, pages = [pid], 0
    while todo:
        process = todo.pop()
        todo += parents.get(process, [])
        pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
