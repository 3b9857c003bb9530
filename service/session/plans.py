"""How a session runs: device, file, threads, buckets; and what onnxruntime must be told for it.

Plans for the CPU, CUDA and TensorRT are of one shape. Knows onnxruntime's names of options; opens
nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from models.artifact import Precision
from service.errors import InferenceError
from service.session.buckets import default_buckets, fit_buckets
from service.session.devices import PROVIDERS, Device, FoundDevice

# How rows get to the graph and answers back. plain: onnxruntime copies arrays at each run. bound:
# persistent buffers, rows filled up to a bucket. graph: the same, a CUDA graph replayed for each.
Binding = Literal["plain", "bound", "graph"]


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


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """What plans may use of the device that sessions run on.

    Attributes:
        found: The device.
        error: Why there is none such: then no session is opened; empty where there is.
        buckets: Batch sizes that are run; empty: chosen by measurement on a GPU, none on a CPU.
        tf32: As in ``Plan``.
        memory_bytes: What all sessions may hold of a GPU together; 0: no limit.
        engine_cache: As in ``Plan``.
    """

    found: FoundDevice = field(default_factory=FoundDevice)
    error: str = ""
    buckets: tuple[int, ...] = ()
    tf32: bool = False
    memory_bytes: int = 0
    engine_cache: Path | None = None

    @property
    def chooses(self) -> bool:
        """Whether buckets are chosen by measurement."""
        return self.found.device != "cpu" and not self.buckets

    def plan(
        self, precision: Precision, threads: int, rows: int, row_shape: tuple[int, ...]
    ) -> Plan:
        """Return the plan for a file; its buckets are those to choose from.

        Args:
            precision: Of the file.
            threads: On a CPU.
            rows: Of the largest batch.
            row_shape: (H, W, C) of each.

        Raises:
            InferenceError: There is no such device.
        """
        if self.error:
            raise InferenceError(self.error)
        buckets = self.buckets or (default_buckets(rows) if self.chooses else ())
        if buckets:
            buckets = fit_buckets(buckets, rows)
        if self.found.device == "cpu":
            return Plan("cpu", precision, threads, "bound" if buckets else "plain", buckets)
        return Plan(
            self.found.device,
            precision,
            1,
            "graph",
            buckets,
            self.found.index,
            self.tf32,
            self.memory_bytes,
            self.engine_cache,
            row_shape,
        )


def providers_of(plan: Plan, stream: int = 0) -> list[tuple[str, dict[str, Any]]]:
    """Return onnxruntime's providers for a plan, the one asked for first, with their options.

    Args:
        plan: How to run.
        stream: Handle of the CUDA stream that runs belong on.
    """
    cpu: tuple[str, dict[str, Any]] = (PROVIDERS["cpu"], {})
    if plan.device == "cpu":
        return [cpu]
    cuda = (PROVIDERS["cuda"], _cuda_options(plan, stream))
    if plan.device == "cuda":
        return [cuda, cpu]
    # What TensorRT leaves, CUDA takes; a graph is then TensorRT's to capture.
    cuda[1].pop("enable_cuda_graph", None)
    return [(PROVIDERS["tensorrt"], _tensorrt_options(plan, stream)), cuda, cpu]


def _cuda_options(plan: Plan, stream: int) -> dict[str, Any]:
    """Source: onnxruntime's page of the CUDA execution provider; all values become strings."""
    options: dict[str, Any] = {
        "device_id": plan.index,
        # Each bucket's convolutions are searched once, at warm-up: the sizes are few.
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        # An arena that doubles takes the memory of the models beside it.
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": int(plan.tf32),
    }
    if plan.memory_bytes:
        options["gpu_mem_limit"] = plan.memory_bytes
    if stream:
        options |= {"has_user_compute_stream": 1, "user_compute_stream": stream}
    if plan.binding == "graph":
        options["enable_cuda_graph"] = 1
    return options


def _tensorrt_options(plan: Plan, stream: int) -> dict[str, Any]:
    """Source: onnxruntime's page of the TensorRT execution provider."""
    options: dict[str, Any] = {
        "device_id": plan.index,
        "trt_fp16_enable": int(plan.precision == "fp16"),
        "trt_int8_enable": int(plan.precision == "int8"),
    }
    if plan.memory_bytes:
        options["trt_max_workspace_size"] = plan.memory_bytes
    if plan.engine_cache is not None:
        cache = str(plan.engine_cache)
        options |= {
            "trt_engine_cache_enable": 1,
            "trt_engine_cache_path": cache,
            "trt_timing_cache_enable": 1,
            "trt_timing_cache_path": cache,
        }
    if plan.buckets and plan.row_shape:
        # One engine for all buckets, tuned for the largest: else each new size builds another.
        for word, rows in (("min", 1), ("opt", plan.buckets[-1]), ("max", plan.buckets[-1])):
            shape = "x".join(map(str, (rows, *plan.row_shape)))
            options[f"trt_profile_{word}_shapes"] = f"images:{shape}"
    if stream:
        options |= {"has_user_compute_stream": 1, "user_compute_stream": stream}
    if plan.binding == "graph":
        options["trt_cuda_graph_enable"] = 1
    return options
