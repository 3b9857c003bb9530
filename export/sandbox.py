"""Run a foreign graph where it cannot hurt: in a process with bounds on memory and time.

Knows bytes and arrays; ``child.py`` is what runs there.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import AdoptError

_CHILD = Path(__file__).with_name("child.py")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a foreign graph may use.

    Attributes:
        memory_bytes: Address space of its process, the runtime included.
        seconds: Processor time, and wall time as well.
    """

    memory_bytes: int = 4 << 30
    seconds: int = 300


def run_bounded(
    content: bytes, batches: Sequence[NDArray[Any]], bounds: Bounds
) -> list[list[NDArray[Any]]]:
    """Run a graph of one input on some batches.

    Args:
        content: The whole ONNX file.
        batches: The input of each run.
        bounds: What it may use.

    Returns:
        All outputs of each run, in the graph's order.

    Raises:
        AdoptError: It failed, or did not keep within the bounds.
    """
    with tempfile.TemporaryDirectory(prefix="foveal-adopt-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(content)
        for number, batch in enumerate(batches):
            np.save(folder / f"{number}.npy", batch, allow_pickle=False)
        _run(folder, bounds)
        return [
            [
                np.load(path, allow_pickle=False)
                for path in sorted(folder.glob(f"{number}-*.npy"), key=_output_number)
            ]
            for number in range(len(batches))
        ]


def _run(folder: Path, bounds: Bounds) -> None:
    limits = f"{bounds.memory_bytes / (1 << 30):g} GiB and {bounds.seconds} s"
    try:
        done = subprocess.run(
            [sys.executable, "-I", _CHILD, folder, str(bounds.memory_bytes), str(bounds.seconds)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=bounds.seconds + 10,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise AdoptError(f"expected the graph to run within {limits}, got no end of it") from None
    if done.returncode < 0:
        raise AdoptError(
            f"expected the graph to run within {limits}, got signal {-done.returncode}: raise "
            "--memory-gib if you trust the file"
        )
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        what = said[-1][:300] if said else f"exit code {done.returncode}"
        raise AdoptError(f"expected onnxruntime to run the graph within {limits}, got {what}")


def _output_number(path: Path) -> int:
    return int(path.stem.split("-")[1])
