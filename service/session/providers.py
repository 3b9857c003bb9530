"""onnxruntime's execution providers and their options for a plan. Opens nothing."""

from typing import Any

from service.session.plans import Device, Plan

PROVIDERS: dict[Device, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def providers_of(plan: Plan, stream: int = 0) -> list[tuple[str, dict[str, Any]]]:
    """Return onnxruntime's providers for a plan with their options, the plan's own first.

    Args:
        plan: Plan.
        stream: Handle of the CUDA stream that runs are queued on; 0: the provider's own.
    """
    cpu: tuple[str, dict[str, Any]] = (PROVIDERS["cpu"], {})
    if plan.device == "cpu":
        return [cpu]
    cuda = (PROVIDERS["cuda"], _cuda_options(plan, stream))
    if plan.device == "cuda":
        return [cuda, cpu]
    # CUDA runs the nodes that TensorRT does not support; TensorRT captures the graph.
    cuda[1].pop("enable_cuda_graph", None)
    return [(PROVIDERS["tensorrt"], _tensorrt_options(plan, stream)), cuda, cpu]


def _cuda_options(plan: Plan, stream: int) -> dict[str, Any]:
    """Source: onnxruntime's page of the CUDA execution provider; all values become strings."""
    options: dict[str, Any] = {
        "device_id": plan.index,
        # Each bucket's convolutions are searched once, at warm-up: the sizes are few.
        "cudnn_conv_algo_search": plan.search.upper(),
        # An arena that doubles takes the memory of the models beside it.
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": int(plan.tf32),
    }
    if plan.memory_bytes:
        options["gpu_mem_limit"] = plan.memory_bytes
    if plan.layout == "nhwc":
        options["prefer_nhwc"] = 1
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
