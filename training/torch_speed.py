"""The speed of a network in PyTorch on a GPU, as a reference for serving the same network.

    python -m training.torch_speed cifar10/speednet --rows 1,64

Measures from page-locked uint8 arrays of the host to logits there, copies included, as in the
service. The weights are random: they do not change the time of a run. Prints one line of JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.networks import ImageNetwork, build_network, multiply_adds
from training.recipes import resolve

# Image shapes of the datasets of the shipped models.
_SHAPES = {"fashion-mnist": (28, 28, 1), "cifar10": (32, 32, 3), "digits": (8, 8, 1)}
_CLASSES = 10
_RUNS, _SECONDS = 20, 0.15  # at least so many runs and seconds per figure
# Whether float32 products may be rounded to TF32, and the type of autocast.
_FORMATS = {"fp32": (False, None), "tf32": (True, None), "fp16": (True, torch.float16)}


def measure(
    recipe: str, rows: tuple[int, ...], device: str = "cuda", *, compile_s: float = 0
) -> dict[str, Any]:
    """Measure a network, eager and compiled.

    Args:
        recipe: ``dataset/network``.
        rows: Batch sizes.
        device: Name of the device in torch.
        compile_s: Time limit for starting compilations, seconds; the smallest and the largest batch
            are compiled, float32 first. 0 compiles nothing.

    Returns:
        ``figures`` (``format``, ``binding``, ``rows``, ``batch_us``, ``images_per_s``),
        ``multiply_adds`` and ``image_bytes`` of one image, ``parameters``, ``torch``, ``skipped``.
    """
    dataset, name = recipe.split("/")
    shape = _SHAPES[dataset]
    config = resolve(dataset, name, Path("unused"))
    bare = build_network(config, shape, _CLASSES)
    said: dict[str, Any] = {
        "torch": torch.__version__,
        "multiply_adds": multiply_adds(bare, shape),
        "parameters": sum(parameter.numel() for parameter in bare.parameters()),
        "image_bytes": int(np.prod(shape)),
        "figures": [],
        "skipped": [],
    }
    channels = np.ones(shape[2])
    network = ImageNetwork(bare, channels, channels).eval().to(device)
    torch.backends.cudnn.benchmark = True
    for kind in _FORMATS:
        said["figures"] += [_figure(network, kind, "eager", n, shape, device) for n in rows]
    until = time.monotonic() + compile_s
    for kind in ("fp32", "fp16"):
        for count in sorted({rows[0], rows[-1]}, reverse=True):
            if time.monotonic() >= until:
                said["skipped"].append(f"{kind} compile, {count} rows: no time left")
                continue
            # reduce-overhead captures CUDA graphs, as the service does.
            torch.compiler.reset()
            compiled = torch.compile(network, mode="reduce-overhead", dynamic=False)
            try:
                said["figures"].append(_figure(compiled, kind, "compile", count, shape, device))
            except Exception as error:  # the compiler has many errors if its tool chain is missing
                why = str(error).strip() or type(error).__name__
                said["skipped"].append(f"{kind} compile, {count} rows: {why.splitlines()[0]}")
    return said


def _figure(
    forward: Callable[[Tensor], Tensor],
    kind: str,
    way: str,
    rows: int,
    shape: tuple[int, int, int],
    device: str,
) -> dict[str, Any]:
    tf32, dtype = _FORMATS[kind]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    is_gpu = device != "cpu"
    images = torch.randint(0, 256, (rows, *shape), dtype=torch.uint8, pin_memory=is_gpu)
    answers = torch.empty((rows, _CLASSES), pin_memory=is_gpu)

    def run() -> None:
        with torch.inference_mode(), torch.autocast(device, dtype, enabled=dtype is not None):
            logits = forward(images.to(device, non_blocking=True))
        answers.copy_(logits, non_blocking=True)
        if is_gpu:
            torch.cuda.synchronize()

    for _ in range(3):  # compile, search the best convolution, capture
        run()
    times: list[float] = []
    while len(times) < _RUNS or sum(times) < _SECONDS:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    return {
        "format": kind,
        "binding": way,
        "rows": rows,
        "batch_us": seconds * 1e6,
        "images_per_s": rows / seconds,
    }


def main() -> None:
    """Measure one recipe and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--rows", default="1,64")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile-s", type=float, default=0)
    options = parser.parse_args()
    rows = tuple(int(word) for word in options.rows.split(","))
    said = measure(options.recipe, rows, options.device, compile_s=options.compile_s)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
