"""The program that runs a foreign graph: sets its own limits, runs every batch, exits.

    python child.py MODEL FOLDER MEMORY_BYTES SECONDS

Reads the graph, and the batches ``<i>.npy`` of the folder, writes ``<i>-<output>.npy``. Imports
nothing of this project: it is started by its path, without the project on ``sys.path``.
"""

import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

_BFLOAT16 = 16  # TensorProto.BFLOAT16


def main(model: Path, folder: Path, memory_bytes: int, seconds: int) -> None:
    """Limit this process, run every batch, write every output.

    Args:
        model: The graph; its weights may lie beside it.
        folder: Holds its batches.
        memory_bytes: Limit of the address space.
        seconds: Limit of processor time.
    """
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    for batch in range(len(list(folder.glob("?*.npy")))):
        outputs = run(session, given.name, np.load(folder / f"{batch}.npy"))
        for number, output in enumerate(outputs):
            np.save(folder / f"{batch}-{number}.npy", output, allow_pickle=False)


def run(session: onnxruntime.InferenceSession, name: str, rows: NDArray[Any]) -> list[NDArray[Any]]:
    """Run one batch; rows of bfloat16, which NumPy does not know, come as two bytes a value."""
    if rows.dtype.kind != "V":
        outputs: list[NDArray[Any]] = session.run(None, {name: rows})
        return outputs
    value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(rows.view(np.uint16), _BFLOAT16)
    return [output.numpy() for output in session.run_with_ort_values(None, {name: value})]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
