"""Photographs on the card: exactness of the kernel, the decoder's rate, photographs/s over HTTP.

    python -m loadtest.bench.gpu_decode --out DIR [--models DIR] [--rehearse]

Each part has a limit of its own; what a machine lacks is left out with a line. Writes
``decode.json`` and ``decode.md`` into DIR after each part. ``--rehearse`` takes a stand-in on the
CPU for the card and a few seconds. The service's part needs ``resnet50`` in the models
(default: DIR/models).
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from loadtest.bench.photo import photograph
from loadtest.bench.wrk import drive
from loadtest.serving import free_port, running
from models.artifact import Crop, Filter, ImageSpec, Resize
from models.image import decode
from models.jpeg_scan import scan
from service.errors import InferenceError
from service.session.devices import select_device
from service.session.gpu.open_card import photographs_of, rehearsal
from service.session.gpu.photographs import Card, Photographs, Ticket
from service.session.plans import SelectedDevice

HOME = Path(__file__).resolve().parents[2]
_SIZE = 427, 640
_BATCHES = (1, 4, 16, 64)
# Service: workers, connections, precision, whether float32 may be rounded to TF32.
_SERVICES = ((1, 64, "fp32"), (2, 128, "fp32"), (4, 256, "fp32"), (1, 64, "fp16"), (4, 256, "fp16"))
_MODEL = "resnet50"


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured, and how long.

    Attributes:
        out: Folder of the results.
        models: Repository of the service's part.
        is_rehearsal: Whether a stand-in takes the card's place.
        seconds: Of each rate.
        ends_at: Monotonic seconds after which nothing else begins.
    """

    out: Path
    models: Path
    is_rehearsal: bool
    seconds: int
    ends_at: float


def exactness(card: Photographs, *, few: bool) -> Iterator[dict[str, Any]]:
    """Compare rows with the CPU's: every filter, side and mode; yields one figure a filter."""
    sizes = [(97, 131), (300, 200)] if few else [_SIZE, (640, 427), (97, 131), (1080, 1920)]
    files = [photograph(*size) for size in sizes]
    for kind in get_args(Filter):
        differing = rows = largest = 0
        for mode in ("RGB", "L"):
            for side in ("shorter", "longer", "both"):
                spec = ImageSpec(mode, 224, 224, Resize(side, kind, 256, 256), Crop())
                for row, encoded in zip(_rows(card, spec, files), files, strict=True):
                    apart = 255
                    if row is not None:
                        expected = decode(encoded, spec)
                        apart = int(np.abs(row.astype(int) - expected.astype(int)).max())
                    rows += 1
                    differing += apart > 0
                    largest = max(largest, apart)
        yield {"filter": kind, "rows": rows, "differing": differing, "largest": largest}


def rates(card: Photographs, seconds: float, *, few: bool) -> Iterator[dict[str, Any]]:
    """Measure images/s of the scan and, by batch, of the card with its kernel."""
    encoded = photograph(*_SIZE)
    cores = len(os.sched_getaffinity(0))
    yield {"what": "scan, 1 thread", "images_per_s": _rate(lambda: scan(encoded), seconds)}
    with ThreadPoolExecutor(cores) as threads:
        some = [encoded] * 4 * cores
        rate = _rate(lambda: list(threads.map(scan, some)), seconds)
        yield {"what": f"scan, {cores} threads", "images_per_s": rate * len(some)}
    spec = ImageSpec("RGB", 224, 224, Resize("shorter", "bilinear", 256, 256), Crop())
    for count in _BATCHES[:2] if few else _BATCHES:
        tickets = _tickets(card, spec, [encoded] * count)
        if any(row is None for row in card.rows(tickets)):
            yield {"what": f"card, {count} in a batch", "error": "the decoder refuses it"}
            continue
        rate = _rate(lambda some=tickets: card.rows(some), seconds) * count  # type: ignore[misc]
        yield {"what": f"card, {count} in a batch", "images_per_s": rate}
    rate = _rate(lambda: decode(encoded, spec), seconds)
    yield {"what": "CPU, 1 thread", "images_per_s": rate}


def services(options: Options) -> Iterator[dict[str, Any]]:
    """Measure photographs/s over HTTP by workers and precision, with the card and without."""
    if not (options.models / _MODEL).is_dir():
        yield {"error": f"no {_MODEL} in {options.models}: the service is not measured"}
        return
    if shutil.which("wrk") is None or shutil.which("taskset") is None:
        yield {"error": "wrk or taskset is not installed: the service is not measured"}
        return
    where = "rehearse" if options.is_rehearsal else "auto"
    cases = [(*case, where) for case in _SERVICES]
    cases.insert(1, (*_SERVICES[0], "off"))
    for workers, connections, precision, decoding in cases[:2] if options.is_rehearsal else cases:
        left_s = options.ends_at - time.monotonic()
        if left_s < options.seconds + 8:
            yield {"error": f"{workers} workers, {precision}, {decoding}: no time is left"}
            continue
        figure = {"workers": workers, "connections": connections, "precision": precision}
        with tempfile.TemporaryDirectory() as folder:
            yield figure | {"decoding": decoding} | _serve(options, figure, decoding, Path(folder))


def _serve(options: Options, figure: dict[str, Any], decoding: str, folder: Path) -> dict[str, Any]:
    port, log = free_port(), folder / "log"
    cores = sorted(os.sched_getaffinity(0))
    sender = max(1, len(cores) // 4)
    ours = ",".join(map(str, cores[:-sender] or cores))
    words = ["taskset", "-c", ours, sys.executable, str(HOME / "foveal.py"), "serve"]
    words += ["--models", str(options.models), "--host", "127.0.0.1", "--port", str(port)]
    words += ["--workers", str(figure["workers"])]
    words += ["--device", "cpu" if options.is_rehearsal else "cuda"]
    variables = {
        "BENTOML_HOME": str(folder / "bentoml"),
        "FOVEAL_GRPC_PORT": "0",
        "FOVEAL_DEFAULT_MODEL": _MODEL,
        "FOVEAL_PRECISION": figure["precision"],
        "FOVEAL_GPU_TF32": "true",
        "FOVEAL_GPU_DECODE": decoding,
    }
    body = folder / "photograph.jpg"
    body.write_bytes(photograph(*_SIZE))
    url = f"http://127.0.0.1:{port}"
    try:
        with running(words, log, lambda: _is_ready(url), variables=variables):
            found = drive(
                f"{url}/predict",
                figure["connections"],
                options.seconds,
                body,
                "image/jpeg",
                ",".join(map(str, cores[-sender:])),
            )
            return {
                "images_per_s": found.requests_per_s,
                "p50_ms": found.p50_ms,
                "p99_ms": found.p99_ms,
                "failed": found.failed,
                "by_card": _by_card(url),
            }
    except Exception as error:  # one case must not end the others
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _by_card(url: str) -> float:
    """Return the share of images that the card decoded; 0 where none is."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("foveal_decoded_images_total{")]
    whole = sum(float(line.rsplit(" ", 1)[1]) for line in counts)
    card = sum(float(line.rsplit(" ", 1)[1]) for line in counts if 'by="card"' in line)
    return card / whole if whole else 0.0


def _tickets(card: Photographs, spec: ImageSpec, files: list[bytes]) -> list[Ticket]:
    model = card.of(spec)
    assert isinstance(model, Card), "the spec is Pillow's; this is a bug"
    found = [model.ticket(encoded) for encoded in files]
    refused = [each for each in found if isinstance(each, str)]
    if refused:
        raise SystemExit(f"gpu_decode: expected a ticket for a photograph, got {refused[0]!r}")
    return [each for each in found if isinstance(each, Ticket)]


def _rows(card: Photographs, spec: ImageSpec, files: list[bytes]) -> list[Any]:
    return card.rows(_tickets(card, spec, files))


def _rate(work: Callable[[], object], seconds: float) -> float:
    """Return how often work is done in a second, after one time that is not counted."""
    work()
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        work()
        count += 1
    return count / elapsed


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [f"{results['device']}; kinds: {', '.join(results['kinds']) or results['why']}.", ""]
    if results["exactness"]:
        lines += ["| filter | rows | differing | largest difference |", "|---|---|---|---|"]
        lines += [
            f"| {f['filter']} | {f['rows']} | {f['differing']} | {f['largest']} |"
            for f in results["exactness"]
        ]
    if results["rates"]:
        lines += ["", "| 640 x 427 to 224 x 224 | images/s |", "|---|---|"]
        lines += [
            f"| {f['what']} | {f['error'] if 'error' in f else format(f['images_per_s'], ',.0f')} |"
            for f in results["rates"]
        ]
    if results["services"]:
        lines += [
            "",
            "| workers | connections | precision | decoding | images/s | p50 ms | p99 ms ",
        ]
        lines[-1] += "| failed | by the card |"
        lines += ["|---" * 9 + "|"]
        for f in results["services"]:
            if "images_per_s" not in f:
                lines.append(f"| {f.get('workers', '')} | {f['error'].replace('|', '/')} |")
                continue
            lines.append(
                f"| {f['workers']} | {f['connections']} | {f['precision']} | {f['decoding']} "
                f"| {f['images_per_s']:,.0f} | {f['p50_ms']:.1f} | {f['p99_ms']:.1f} "
                f"| {f['failed']} | {f['by_card']:.0%} |"
            )
    return "\n".join(lines) + "\n"


def _open(options: Options) -> tuple[str, Photographs | None]:
    if options.is_rehearsal:
        return "rehearsal: no GPU", rehearsal()
    try:
        selected: SelectedDevice = select_device("cuda")
    except InferenceError as error:
        raise SystemExit(f"gpu_decode: {error.message}") from None
    return f"cuda:{selected.index}", photographs_of(selected, "auto")


def main() -> None:
    """Measure, and write after each figure: a limit from outside loses nothing."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.gpu_decode")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--models", type=Path, help="repository with resnet50 (OUT/models)")
    parser.add_argument("--limit", type=float, default=100, help="seconds in all (100)")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with a stand-in")
    chosen = parser.parse_args()
    options = Options(
        chosen.out,
        chosen.models or chosen.out / "models",
        chosen.rehearse,
        1 if chosen.rehearse else 4,
        time.monotonic() + chosen.limit,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    device, card = _open(options)
    results: dict[str, Any] = {
        "device": device,
        "kinds": sorted(card.kinds) if card else [],
        "why": "" if card else "the CPU decodes JPEGs; the log says why",
        **{name: [] for name in ("exactness", "rates", "services")},
    }
    parts: list[tuple[str, Iterator[dict[str, Any]]]] = [("services", services(options))]
    if card is not None:
        seconds = 0.2 if options.is_rehearsal else 1.0
        exact = exactness(card, few=options.is_rehearsal)
        parts = [
            ("exactness", exact),
            ("rates", rates(card, seconds, few=options.is_rehearsal)),
            *parts,
        ]
    for name, figures in parts:
        for figure in figures:
            results[name].append(figure)
            print(json.dumps({name: figure}), flush=True)
            (options.out / "decode.json").write_text(json.dumps(results, indent=1) + "\n")
            (options.out / "decode.md").write_text(table(results))
    if any(each["differing"] for each in results["exactness"]):
        raise SystemExit("gpu_decode: expected the CPU's pixels, got others; see decode.md")


if __name__ == "__main__":
    main()
