"""Sessions on a GPU: microseconds a batch and images/s by bucket, binding and number format.

    python -m loadtest.bench.device --device cuda --out DIR [--lower DIR]

From uint8 arrays of the host to answers there: copies count. Beside them stand PyTorch on the same
networks with the same copies (a process of its own, left out where there is no torch) and what the
device could do at most. Needs numpy and onnxruntime-gpu, nothing else of this project's needs, so
that it runs where only these can be brought. What a figure here does not say: anything of HTTP.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from loadtest.bench.timing import median_s, random_images
from models.artifact import Precision
from models.repository import ModelRepository
from service.errors import InferenceError
from service.session.buckets import default_buckets
from service.session.devices import runtime, select_device
from service.session.gpu.accelerator import accelerator
from service.session.gpu.binding import STAGED
from service.session.gpu.cuda_runtime import DeviceFacts
from service.session.plans import Binding, Device, Plan
from service.session.session import Session

HOME = Path(__file__).resolve().parents[2]
# The networks of the bench beside other servers: model, and the recipe that PyTorch builds it by.
MODELS = {"fashion-fcnn": "fashion-mnist/fcnn", "cifar10-cnn": "cifar10/speednet"}
ROWS = (1, 4, 16, 64, 256)
_BINDINGS: tuple[Binding, ...] = ("plain", "bound", "graph")
_RUNS, _SECONDS = 20, 0.15  # at least so many runs, and for so long, a figure
_TORCH_S, _COMPILE_S = 90, 50

# Floating-point operations a clock of one multiprocessor, a multiply-add counted as two; NVIDIA's
# H100 whitepaper, "Comparison of NVIDIA A100 and H100": 128 float32 lanes, tensor cores dense.
_FLOPS_A_CLOCK = {"9.0": {"fp32": 256, "tf32": 2048, "fp16": 4096}}


# In a rehearsal.
_NO_GPU = DeviceFacts("no GPU", "", 0, 0.0, 0.0, 0)


@dataclass(frozen=True, slots=True)
class DeviceFigure:
    """One line: the median time of a batch of ``rows`` rows, and what that makes.

    ``binding`` is a session's, or ``staged``: two slots in turns, as the service runs them.
    """

    model: str
    format: str
    binding: str
    rows: int
    batch_us: float
    images_per_s: float


@dataclass(frozen=True, slots=True)
class _Variant:
    """One number format of a model, and the graph that computes in it."""

    name: str
    content: bytes
    precision: Precision
    tf32: bool = False


def measure(
    device: Device,
    models: Path,
    lower: Path | None,
    say: Callable[[str], None],
    save: Callable[[dict[str, Any]], None] = lambda _results: None,
    rows: tuple[int, ...] = ROWS,
) -> dict[str, Any]:
    """Measure the shipped networks.

    Args:
        device: ``cuda`` or ``tensorrt``; ``cpu`` only rehearses: no figure means anything.
        models: Repository that they are in.
        lower: Folder with ``<model>.fp16.onnx``; None: float16 is left out.
        say: Called with a line of progress.
        save: Called with what is measured so far, whenever there is more.
        rows: Batch sizes.

    Returns:
        ``figures``, ``torch``, ``limits``, ``device``, ``first_request``, ``targets``, for JSON.

    Raises:
        InferenceError: The device does not work here.
    """
    found = select_device(device)
    is_rehearsal = device == "cpu"
    facts = _NO_GPU if is_rehearsal else runtime().facts(found.index)
    figures: list[DeviceFigure] = []
    results: dict[str, Any] = {
        "device": asdict(facts),
        "onnxruntime": onnxruntime.__version__,
        "python": sys.version,
        "skipped": [],
        "buckets": {},
        "first_request": {},
        "difference": {},
        "torch": {},
    }

    def keep() -> None:
        results["figures"] = [asdict(figure) for figure in figures]
        if not is_rehearsal:
            results["limits"] = _limits(facts, results["torch"], found.index)
        results["targets"] = _targets(figures, results)
        save(results)

    repository = ModelRepository(models)
    for model in MODELS:
        content = (repository.path(*repository.resolve(model)) / "model.onnx").read_bytes()
        expected = Session(content, Plan(threads=4))
        for variant in _variants(model, content, lower, results):
            say(f"{model} {variant.name}")
            for binding in _BINDINGS:
                plan = _plan(device, variant, binding, found.index, expected.row_shape, rows)
                try:
                    figures += _measure_plan(model, variant, plan, results, expected)
                except InferenceError as error:
                    reason = f"{model} {variant.name} {binding}: {error.message}"
                    results["skipped"].append(reason)
                keep()
    for model, recipe in {}.items() if is_rehearsal else MODELS.items():
        say(f"{model} in PyTorch")
        results["torch"][model] = _torch(recipe)
        keep()
    return results


def table(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the figures as lines of cells, a heading first."""
    return [
        ("model", "format", "binding", "rows", "us a batch", "images/s"),
        *(
            (
                f["model"],
                f["format"],
                f["binding"],
                str(f["rows"]),
                f"{f['batch_us']:.1f}",
                f"{f['images_per_s']:,.0f}",
            )
            for f in [*results["figures"], *_torch_figures(results)]
        ),
    ]


def _variants(
    model: str, content: bytes, lower: Path | None, results: dict[str, Any]
) -> list[_Variant]:
    variants = [_Variant("fp32", content, "fp32"), _Variant("tf32", content, "fp32", tf32=True)]
    half = lower / f"{model}.fp16.onnx" if lower else None
    if half and half.exists():
        variants.append(_Variant("fp16", half.read_bytes(), "fp16"))
    else:
        results["skipped"].append(f"{model} fp16: no {model}.fp16.onnx was given")
    return variants


def _plan(
    device: Device,
    variant: _Variant,
    binding: Binding,
    index: int,
    row_shape: tuple[int, ...],
    rows: tuple[int, ...],
) -> Plan:
    return Plan(
        device, variant.precision, 1, binding, rows, index, variant.tf32, row_shape=row_shape
    )


def _measure_plan(
    model: str, variant: _Variant, plan: Plan, results: dict[str, Any], expected: Session
) -> Iterator[DeviceFigure]:
    kind, content = variant.name, variant.content
    session = Session(content, plan)
    if session.plan.binding != plan.binding:
        raise InferenceError(f"runs {session.plan.binding}: {session.reason}")
    shape = expected.row_shape
    sample = random_images(64, shape)
    off = float(np.abs(session.run(sample).logits - expected.run(sample).logits).max())
    results["difference"][f"{model} {kind} {plan.binding}"] = off
    if plan.binding == "graph":
        name = f"{model} {kind}"
        results["first_request"][name], results["buckets"][name] = _first_request(
            content, plan, shape
        )
    for rows in plan.buckets:
        images = random_images(rows, shape)
        run = partial(median_s, partial(session.run, images), _SECONDS, _RUNS)
        # The device's own thread: the hand-over to it is not counted.
        seconds = run() if session.executor is None else accelerator(plan.index).call(run)
        yield DeviceFigure(model, kind, plan.binding, rows, seconds * 1e6, rows / seconds)
        if plan.binding == "graph" and session.executor is not None:
            seconds = staged_s(session, images)
            yield DeviceFigure(model, kind, "staged", rows, seconds * 1e6, rows / seconds)


def staged_s(session: Session, images: NDArray[np.uint8]) -> float:
    """Return the time of a batch where the next one is filled and uploaded while one runs."""
    executor, rows = session.executor, len(images)
    assert executor is not None, "only GPUs are measured here; this is a bug"

    def batches(count: int) -> float:
        started = time.perf_counter()
        runs: list[Any] = []
        for number in range(count):
            if number >= STAGED:
                runs[number - STAGED].result()
            slot = session.slots[number % STAGED]
            np.copyto(slot.images[:rows], images)
            slot.stage(slot.images[:rows])
            runs.append(executor.submit(session.run_slot, slot, slot.images[:rows]))
        for run in runs[-STAGED:]:
            run.result()
        return (time.perf_counter() - started) / count

    batches(_RUNS)
    count = max(_RUNS, int(_SECONDS / batches(_RUNS)))
    return min(batches(count) for _ in range(3))


def _first_request(
    content: bytes, plan: Plan, shape: tuple[int, ...]
) -> tuple[dict[str, float], tuple[int, ...]]:
    """Open a session as the service does.

    Returns:
        The times of its first run and of the median of those after it; the buckets it chose.
    """
    images = random_images(1, shape)
    most = min(64, plan.buckets[-1])
    session = Session(content, replace(plan, buckets=default_buckets(most)), choose=True)
    for rows in (1, 2, most):  # as a classifier does before it is ready
        session.run(random_images(rows, shape))
    started = time.perf_counter()
    session.run(images)
    first_s = time.perf_counter() - started
    later_s = median_s(partial(session.run, images), _SECONDS, _RUNS)
    return {"first_us": first_s * 1e6, "median_us": later_s * 1e6}, session.plan.buckets


def _torch(recipe: str) -> dict[str, Any]:
    """Measure PyTorch in a process of its own; ``error`` says why where it gives nothing."""
    words = [sys.executable, "-m", "training.torch_speed", recipe]
    words += ["--rows", ",".join(map(str, ROWS)), "--compile-s", str(_COMPILE_S)]
    try:
        done = subprocess.run(
            words, cwd=HOME, capture_output=True, text=True, timeout=_TORCH_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {_TORCH_S} s", "figures": []}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        why = done.stderr.strip().splitlines() or ["no output"]
        return {"error": why[-1], "figures": []}
    said: dict[str, Any] = json.loads(lines[-1])
    return said


def _torch_figures(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"model": model} | figure
        for model, said in results["torch"].items()
        for figure in said.get("figures", [])
    ]


def _limits(facts: DeviceFacts, torch: dict[str, Any], index: int) -> dict[str, Any]:
    """Return images/s that nothing can exceed here, by model: the roofline's three roofs."""
    bus = _bus_bytes_per_s(index)
    flops_a_clock = _FLOPS_A_CLOCK.get(facts.capability, {})
    limits: dict[str, Any] = {"bus_bytes_per_s": bus}
    for model, said in torch.items():
        if "multiply_adds" not in said:
            continue
        roofs: dict[str, float] = {"bus": bus / said["image_bytes"]}
        # The weights are read once for all rows of a batch; here of the largest one.
        roofs["memory"] = facts.memory_bytes_per_s * ROWS[-1] / (4 * said["parameters"])
        for kind, each in flops_a_clock.items():
            peak = each * facts.multiprocessors * facts.clock_hz
            roofs[f"compute_{kind}"] = peak / (2 * said["multiply_adds"])
        limits[model] = roofs
    return limits


def _bus_bytes_per_s(index: int) -> float:
    """Measure uploads from page-locked memory."""
    device = accelerator(index)
    memory = device.memory()

    def uploads() -> float:
        array = memory.host((64 << 20,), np.uint8)
        address, arrived = memory.device(array.nbytes), memory.event()

        def upload() -> None:
            memory.upload(address, array, arrived)
            memory.expect(arrived)
            memory.finish()

        return array.nbytes / median_s(upload, _SECONDS, _RUNS)

    try:
        return device.call(uploads)
    finally:
        device.call(memory.release)


def _targets(figures: Sequence[DeviceFigure], results: dict[str, Any]) -> dict[str, Any]:
    """Return what was aimed at, by model, as ratios; None where one side was not measured."""
    targets: dict[str, Any] = {}
    for model in MODELS:
        mine = [f for f in figures if f.model == model and f.format == "fp32"]
        alone = {f.binding: f.batch_us for f in mine if f.rows == 1}
        best = max((f.images_per_s for f in mine if f.binding in ("graph", "staged")), default=None)
        compiled = max(
            (
                f["images_per_s"]
                for f in results["torch"].get(model, {}).get("figures", [])
                if f["binding"].startswith("compile") and f["format"] == "fp32"
            ),
            default=None,
        )
        first = results["first_request"].get(f"{model} fp32")
        targets[model] = {
            "graph / plain at 1 row (at most 0.5)": _ratio(alone.get("graph"), alone.get("plain")),
            "best / torch.compile (at least 0.9)": _ratio(best, compiled),
            "first / median request (at most 1.5)": first
            and _ratio(first["first_us"], first["median_us"]),
        }
    return targets


def _ratio(over: float | None, under: float | None) -> float | None:
    return over / under if over and under else None


def main() -> None:
    """Measure, print one JSON document, and write it to a folder if one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "tensorrt", "cpu"), default="cuda")
    parser.add_argument("--rows", type=lambda text: tuple(map(int, text.split(","))), default=ROWS)
    parser.add_argument("--models", type=Path, default=HOME / "models")
    parser.add_argument("--lower", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    def save(results: dict[str, Any]) -> None:
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            text = json.dumps(results, indent=1) + "\n"
            (options.out / f"session_{options.device}.json").write_text(text)

    results = measure(
        options.device,
        options.models,
        options.lower,
        lambda line: print(line, file=sys.stderr, flush=True),
        save,
        options.rows,
    )
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    try:
        main()
    except InferenceError as refusal:
        sys.exit(f"bench: {refusal.message}")
