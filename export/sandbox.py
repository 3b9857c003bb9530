"""Run a foreign graph in a process of its own, with bounds on memory and time.

``child.py`` is the program that runs there. Legend: N rows, H height, W width, C channels,
K classes.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import AdoptError, RunError
from export.heads import columns, complete
from export.proof import Answers
from export.waiting import run_watched
from export.weights import link
from export.wrap import Foreign, expose
from models.machine import available_memory

_CHILD = Path(__file__).with_name("child.py")
_MEMORY_BYTES = 4 << 30
# Address space for the weights of a graph: their pages, a copy that kernels prefer, and a half for
# what is made on the way; and for the runtime itself.
_WEIGHTS_SHARE, _RUNTIME_BYTES = 2.5, 1 << 30


@dataclass(frozen=True, slots=True)
class Bounds:
    """Resources that a foreign graph may use.

    Attributes:
        memory_bytes: Address space of its process, the runtime included.
        seconds: Processor time and wall time.
        is_given: Whether the memory was asked for; else large weights may take more.
    """

    memory_bytes: int = _MEMORY_BYTES
    seconds: int = 300
    is_given: bool = False

    def beside(self, weights_bytes: int) -> "Bounds":
        """Return the bounds of a graph with weights of a size, within this machine's memory."""
        wanted = _RUNTIME_BYTES + int(_WEIGHTS_SHARE * weights_bytes)
        memory_bytes = max(self.memory_bytes, min(wanted, available_memory()))
        return self if self.is_given else replace(self, memory_bytes=memory_bytes)


def run_bounded(
    content: bytes | Path,
    batches: Sequence[NDArray[Any]],
    bounds: Bounds,
    weights: Path | None = None,
) -> list[list[NDArray[Any]]]:
    """Run a graph with one input on some batches.

    Args:
        content: The ONNX file: its bytes, or its path, beside which its weights may lie.
        batches: The input of each run.
        bounds: Resources that it may use.
        weights: Folder of its weights (``weights``); None: beside its path, or in it.

    Returns:
        All outputs of each run, in the graph's order.

    Raises:
        AdoptError: It failed, or exceeded the bounds.
    """
    with tempfile.TemporaryDirectory(prefix="foveal-adopt-") as name:
        folder = Path(name)
        file = content if isinstance(content, Path) else folder / "model.onnx"
        if isinstance(content, bytes):
            file.write_bytes(content)
        if weights is not None:
            link(weights, folder)
        for number, batch in enumerate(batches):
            np.save(folder / f"{number}.npy", batch, allow_pickle=False)
        _run(file, folder, bounds, len(batches))
        return [
            [
                np.load(path, allow_pickle=False)
                for path in sorted(folder.glob(f"{number}-*.npy"), key=_output_number)
            ]
            for number in range(len(batches))
        ]


def run_foreign(
    foreign: Foreign,
    images_NHWC: NDArray[np.uint8],
    bounds: Bounds,
    weights: Path | None = None,
) -> Answers:
    """Run a foreign graph as it came, in batches of the size that it takes.

    Args:
        foreign: The graph; NumPy prepares the pixels for it.
        images_NHWC: uint8 [N, H, W, C].
        bounds: Resources that it may use.
        weights: As in ``run_bounded``.

    Raises:
        AdoptError: It does not run, or its numbers are not what they should be.
    """
    prepared = foreign.given.prepare(images_NHWC, foreign.options)
    return complete(foreign.answer, _outputs(foreign, prepared, bounds, weights))


def run_prepared(
    foreign: Foreign, inputs: NDArray[Any], bounds: Bounds, weights: Path | None = None
) -> Answers:
    """Run a foreign graph as it came on prepared pixels, whatever its numbers; see above."""
    outputs = _outputs(foreign, inputs, bounds, weights)
    return complete(foreign.answer, outputs, is_checked=False)


def _outputs(
    foreign: Foreign, inputs: NDArray[Any], bounds: Bounds, weights: Path | None
) -> dict[str, NDArray[np.float32]]:
    """Return the graph's tensors by name, float32 [N, K]; of a binary model [N, 1]."""
    width = columns(foreign.answer, foreign.classes)
    content = expose(foreign).SerializeToString()
    rows = foreign.given.batch or 1
    # The first images fill up the last batch.
    wanted = np.arange(-(-len(inputs) // rows) * rows) % len(inputs)
    filled = inputs[wanted]
    batches = [filled[start : start + rows] for start in range(0, len(filled), rows)]
    runs = run_bounded(content, batches, bounds, weights)
    outputs: dict[str, NDArray[np.float32]] = {}
    for name, parts in zip(foreign.tensors, zip(*runs, strict=True), strict=True):
        if any(part.size != rows * width for part in parts):
            shape = list(parts[0].shape)
            advice = ": give a file of its labels with --labels, or another --output"
            if width == 2 and parts[0].size == rows:
                advice = ": give --task binary if it is the second label's"
            raise AdoptError(
                f'output "{name}": expected {width} numbers a row, one for each label, '
                f"got shape {shape} for {rows} rows{advice}"
            )
        whole = np.concatenate([part.reshape(rows, width) for part in parts])
        outputs[name] = whole[: len(inputs)].astype(np.float32)
    return outputs


def run_wrapped(
    content: bytes | Path,
    images_NHWC: NDArray[np.uint8],
    batch_size: int,
    bounds: Bounds,
    weights: Path | None = None,
) -> Answers:
    """Run a wrapped graph, in batches of one size and a smaller last one."""
    return run_wrapped_sizes(content, images_NHWC, (batch_size,), bounds, weights)[batch_size]


def run_wrapped_sizes(
    content: bytes | Path,
    images_NHWC: NDArray[np.uint8],
    sizes: Sequence[int],
    bounds: Bounds,
    weights: Path | None = None,
) -> dict[int, Answers]:
    """Run a wrapped graph on the same images in batches of several sizes; see ``run_wrapped``."""
    starts = [range(0, len(images_NHWC), size) for size in sizes]
    batches = [
        images_NHWC[start : start + size]
        for size, each in zip(sizes, starts, strict=True)
        for start in each
    ]
    # One process for all batches: starting it costs more than the runs.
    runs = iter(run_bounded(content, batches, bounds, weights))
    answers = {}
    for size, each in zip(sizes, starts, strict=True):
        parts = zip(*(next(runs) for _ in each), strict=True)
        logits_NK, probabilities_NK = (np.concatenate(column) for column in parts)
        answers[size] = logits_NK, probabilities_NK
    return answers


def _run(file: Path, folder: Path, bounds: Bounds, batches: int) -> None:
    limits = f"{bounds.memory_bytes / (1 << 30):.3g} GiB and {bounds.seconds} s"
    numbers = str(bounds.memory_bytes), str(bounds.seconds)
    try:
        code, said = run_watched(
            [sys.executable, "-I", _CHILD, file.absolute(), folder, *numbers],
            bounds.seconds + 10,
            "graph",
            lambda: (len(list(folder.glob("*-0.npy"))), batches, f"of {batches} batches run"),
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except subprocess.TimeoutExpired:
        raise AdoptError(f"expected the graph to run within {limits}, got no result") from None
    if code < 0:
        raise AdoptError(
            f"expected the graph to run within {limits}, got signal {-code}: raise --memory-gib "
            "if you trust the file"
        )
    if code:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        what = _reason(lines[-1]) if lines else f"exit code {code}"
        raise RunError(f"expected onnxruntime to run the graph within {limits}, got {what}")


def _reason(line: str) -> str:
    """Return what an error says, without the names and numbers of onnxruntime's own code."""
    _, _, words = line.rpartition("[ONNXRuntimeError]")
    words = re.sub(r"^\W*\d+\W+", "", words)
    words = re.sub(r"\S*\.(cc|h):\d+ |\w+::\S+", "", words)
    return " ".join(words.split())[:200]


def _output_number(path: Path) -> int:
    return int(path.stem.split("-")[1])
