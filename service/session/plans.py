"""How a session runs: device, file, threads, buckets. Values only.

Plans for the CPU, CUDA and TensorRT are of one shape. Imports neither onnxruntime nor CUDA, so that
those who hold a session can read its plan.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.artifact import Precision

Asked = Literal["auto", "cpu", "cuda", "tensorrt"]
Device = Literal["cpu", "cuda", "tensorrt"]
# How rows get to the graph and answers back. plain: onnxruntime copies arrays at each run. bound:
# persistent buffers, rows filled up to a bucket. graph: the same, a CUDA graph replayed for each.
Binding = Literal["plain", "bound", "graph"]


@dataclass(frozen=True, slots=True)
class FoundDevice:
    """Where sessions run, and why there.

    Attributes:
        device: What was found.
        index: Which of the GPUs that this process sees; 0 on a CPU.
        asked: What was asked for.
        reason: Why ``auto`` took the CPU; empty where it did not.
        is_fallback: Whether a GPU, or an onnxruntime made for one, is here all the same.
    """

    device: Device = "cpu"
    index: int = 0
    asked: Asked = "cpu"
    reason: str = ""
    is_fallback: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """How a session runs.

    Attributes:
        device: Whose kernels compute.
        precision: Which file of the artifact it runs.
        threads: onnxruntime's intra-op threads, at least 1.
        binding: How rows get there and answers back.
        buckets: Batch sizes that are run, rising; empty where every size is run as it is.
        index: Which of the GPUs that this process sees.
        tf32: Whether float32 products on a GPU may round their inputs to TF32's eleven bits.
        memory_bytes: What a GPU's arena may grow to; 0: as the device allows.
        engine_cache: Folder of TensorRT's engines; None: they are built at each start.
        row_shape: (H, W, C) of the rows, where TensorRT needs to know them beforehand.
    """

    device: Device = "cpu"
    precision: Precision = "fp32"
    threads: int = 1
    binding: Binding = "plain"
    buckets: tuple[int, ...] = ()
    index: int = 0
    tf32: bool = False
    memory_bytes: int = 0
    engine_cache: Path | None = None
    row_shape: tuple[int, ...] = ()
