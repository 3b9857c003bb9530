"""How a session runs: device, file, threads, buckets. Values only.

Plans for the CPU, CUDA and TensorRT are of one shape. Imports neither onnxruntime nor CUDA, so that
those who hold a session can read its plan.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from models.artifact import Precision

Asked = Literal["auto", "cpu", "cuda", "tensorrt"]
Device = Literal["cpu", "cuda", "tensorrt"]
# How rows reach the graph and outputs come back. plain: onnxruntime copies arrays at each run.
# bound: persistent buffers, rows filled up to a bucket. graph: the same, a CUDA graph replayed for
# each bucket.
Binding = Literal["plain", "bound", "graph"]
# How products are computed: by the file's precision, float32 ones exactly or rounded to TF32.
NumberFormat = Literal["fp32", "tf32", "fp16", "int8"]
# The order of a GPU's tensors inside the graph; pixels and outputs do not change.
Layout = Literal["nchw", "nhwc"]
# How cuDNN finds an algorithm for each convolution and batch size: by trying all, or by rules.
Search = Literal["exhaustive", "heuristic"]


def format_of(precision: Precision, tf32: bool) -> NumberFormat:
    """Return the number format of a file's precision."""
    return "tf32" if tf32 and precision == "fp32" else precision


@dataclass(frozen=True, slots=True)
class SelectedDevice:
    """The device that sessions run on, and why.

    Attributes:
        device: Device whose kernels compute.
        index: Number of the GPU among those that this process sees; 0 on a CPU.
        asked: Value of the device setting.
        reason: Why ``auto`` took the CPU; empty if it did not.
        is_fallback: Whether the machine has a GPU or an onnxruntime for one nevertheless.
    """

    device: Device = "cpu"
    index: int = 0
    asked: Asked = "cpu"
    reason: str = ""
    is_fallback: bool = False


class MeasuredRun(NamedTuple):
    """The shortest run of a batch, as a choice of threads measured it; 0 rows: it did not."""

    rows: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a session runs.

    Attributes:
        device: Device whose kernels compute.
        precision: File of the artifact that it runs.
        threads: onnxruntime's intra-op threads, at least 1.
        binding: How rows reach the graph and outputs come back.
        buckets: Batch sizes that are run, rising; empty: every size is run as it is.
        index: Number of the GPU among those that this process sees.
        tf32: Whether float32 products on a GPU may round their inputs to TF32's 11 bits.
        memory_bytes: Largest size of the arena on a GPU; 0: as the device allows.
        engine_cache: Folder of TensorRT's engines; None: they are built at each start.
        row_shape: (H, W, C) of the rows, for TensorRT, which needs them beforehand.
        layout: Order of the tensors inside the graph on a GPU.
        search: How cuDNN finds an algorithm for each convolution and bucket.
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
    layout: Layout = "nchw"
    search: Search = "exhaustive"

    @property
    def format(self) -> NumberFormat:
        """Return the number format that products are computed in."""
        return format_of(self.precision, self.tf32)
