"""Run a model: one onnxruntime session under a plan, outputs counted and typed.

Knows ONNX bytes, arrays and threads; nothing about requests, queues or files. ``run`` may be called
from any thread, several at once. On a CPU it computes on the caller's thread: the batcher runs one
batch at a time, the batch scorer one on each core. On a GPU all runs are on the device's thread.

Layout legend: N rows, H height, W width, C channels, K classes.
"""

import contextlib
import dataclasses
import logging
import os
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.errors import DeviceLostError, InferenceError, RunMemoryError
from service.session.buckets import choose_buckets, rows_now
from service.session.gpu.accelerator import Accelerator, accelerator
from service.session.gpu.binding import OUTPUTS, BoundRuns, Slot
from service.session.gpu.cuda_runtime import CudaError
from service.session.gpu.faults import is_sticky
from service.session.gpu.memory import CpuMemory, Memory
from service.session.outputs import Outputs
from service.session.plans import Asked, Binding, MeasuredRun, Plan
from service.session.providers import PROVIDERS, providers_of

logger = logging.getLogger("foveal.session")

T = TypeVar("T")

onnxruntime.disable_telemetry_events()  # for builds that do not know the room's variable

_NAMES = list(OUTPUTS)
# From onnxruntime's arena, a plain allocation, and CUDA.
_NO_MEMORY = ("Failed to allocate memory", "bad_alloc", "bad allocation", "out of memory")
_SILENT = 3  # onnxruntime's severity: errors only; the others are raised anyway
_LISTED_NODES = 8  # nodes on the CPU that the log names; the metric counts them all


class Session:
    """One loaded model.

    Args:
        content: The ONNX file, already verified against the contract: its bytes, or its path.
            From a path onnxruntime reads it without the interpreter's lock and without a copy.
        plan: Plan to run it under.
        choose: Whether to measure the plan's buckets and to keep only those that pay.

    Attributes:
        plan: Plan that it runs under; buckets and binding may be fewer than asked for.
        reason: Why graphs are not replayed although the plan asks for them, else empty.
        asked: Device setting that the plan was chosen for.
        fallback: Why the CPU runs it although a GPU is here; empty if it does not.
        cpu_nodes: Nodes that a plan for a GPU leaves on the CPU, as ``Shape node_shape``.
        memory_bytes: Memory of the GPU that opening it took.
        measured: What choosing its threads measured.
        opening_s: Seconds of the parts of opening it: ``onnxruntime`` reads and optimizes the
            graph, ``search`` runs each bucket first, ``graphs`` captures and checks them.

    Raises:
        InferenceError: onnxruntime refuses the model, gives another provider than the plan's, or
            the device's budget is used up.
    """

    def __init__(self, content: bytes | Path, plan: Plan, *, choose: bool = False) -> None:
        self.plan = plan
        self.reason = ""
        self.asked: Asked = "cpu"
        self.fallback = ""
        self.cpu_nodes: tuple[str, ...] = ()
        self.memory_bytes = 0
        self.measured = MeasuredRun()
        self.opening_s: dict[str, float] = {}
        self._rows_now: tuple[int, ...] = ()
        self._session: Any = None
        self._bound: BoundRuns | None = None
        self._accelerator: Accelerator | None = None
        if plan.device == "cpu":
            memory = CpuMemory()
            self._open(content, choose, memory)
            if self._bound is not None:
                weakref.finalize(self, _free, [self._bound], memory).atexit = False
        else:
            self._accelerator = accelerator(plan.index)
            self._open_on(self._accelerator, content, choose)

    @property
    def executor(self) -> Executor | None:
        """Return the thread that all runs must be on; None: any."""
        return None if self._accelerator is None else self._accelerator.executor

    @property
    def slots(self) -> list[Slot]:
        """Return the buffers that batches are assembled in; empty if runs are not bound."""
        return [] if self._bound is None else self._bound.slots[1:]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Return (H, W, C) of the rows, as the graph declares it."""
        return tuple(self._session.get_inputs()[0].shape[1:])

    @property
    def rows_now(self) -> tuple[int, ...]:
        """Return how many of 0, 1, 2, … waiting rows are best run now; empty: always all."""
        return self._rows_now

    @property
    def padded_rows(self) -> int:
        """Return how many rows were run only to fill batches up to their buckets."""
        return 0 if self._bound is None else self._bound.padded_rows

    def run(self, images_NHWC: NDArray[np.uint8]) -> Outputs:
        """Classify one batch, in a single onnxruntime call unless it is larger than all buckets.

        Args:
            images_NHWC: uint8 [N, H, W, C], 0-255, N >= 1, contiguous. Not modified.

        Raises:
            InferenceError: onnxruntime failed, or gave another number of rows than it got.
        """
        if self._bound is None and self._accelerator is None:
            return self._run_plain(images_NHWC)
        run = self._run_plain if self._bound is None else self._run_bound
        return (
            run(images_NHWC)
            if self._accelerator is None
            else (self._accelerator.call(run, images_NHWC))
        )

    def run_slot(self, slot: Slot, images_NHWC: NDArray[np.uint8]) -> Outputs:
        """Classify one batch of a slot, on the executor's thread if there is one.

        Args:
            slot: One of ``slots``.
            images_NHWC: As in ``run``, at most the largest bucket; the slot's own rows are not
                copied.

        Raises:
            InferenceError: The run failed.
        """
        try:
            return slot.run(images_NHWC)
        except Exception as error:
            raise self._failed(images_NHWC, error) from error

    def stage_slot(self, slot: Slot, images_NHWC: NDArray[np.uint8]) -> None:
        """Begin to upload the batch of a slot that is run next; see ``Slot.stage``.

        Raises:
            InferenceError: CUDA refuses.
        """
        try:
            slot.stage(images_NHWC)
        except CudaError as error:  # on the loop's thread, so CUDA is not asked
            kind = DeviceLostError if is_sticky(error) else InferenceError
            raise kind(f"upload of batch {images_NHWC.shape} failed: {error}") from error

    def _run_plain(self, images_NHWC: NDArray[np.uint8]) -> Outputs:
        try:
            logits, probabilities = self._session.run(_NAMES, {"images": images_NHWC})
        except Exception as error:
            raise self._failed(images_NHWC, error) from error
        if len(logits) != len(images_NHWC) or len(probabilities) != len(images_NHWC):
            raise InferenceError(
                f"expected {len(images_NHWC)} rows out, got {len(logits)}, {len(probabilities)}"
            )
        return Outputs(logits, probabilities)

    def _run_bound(self, images_NHWC: NDArray[np.uint8]) -> Outputs:
        assert self._bound is not None, "only bound sessions come here; this is a bug"
        slot, most = self._bound.slots[0], self.plan.buckets[-1]
        if len(images_NHWC) <= most:
            return self.run_slot(slot, images_NHWC)
        parts = [
            self.run_slot(slot, images_NHWC[first : first + most])
            for first in range(0, len(images_NHWC), most)
        ]
        return Outputs(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _failed(self, images_NHWC: NDArray[np.uint8], error: Exception) -> InferenceError:
        message = f"run of batch {images_NHWC.shape} failed: {_first_line(error)}"
        # cuBLAS and cuDNN have words of their own for a fault of CUDA, so CUDA is asked as well.
        if is_sticky(error) or (self._accelerator is not None and self._accelerator.is_lost()):
            return DeviceLostError(message)
        return (RunMemoryError if _is_about_memory(error) else InferenceError)(message)

    def _open_on(self, device: Accelerator, content: bytes | Path, choose: bool) -> None:
        """Open on a GPU, within the budget that its sessions share."""
        limit = self.plan.memory_bytes
        self.plan = dataclasses.replace(self.plan, memory_bytes=device.budget.left_bytes(limit))
        memory = device.memory()
        try:
            before = device.call(memory.free_bytes)
            self._open(content, choose, memory)
            # Measured on the whole device: memory that other processes take meanwhile counts, too.
            self.memory_bytes = max(0, before - device.call(memory.free_bytes))
            device.budget.take(id(self), self.memory_bytes, limit)
            parts = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in self.opening_s.items())
            logger.info("cuda:%d: opened a session: %s", self.plan.index, parts)
        except Exception as error:
            held, self._bound, self._session = [self._bound, self._session], None, None
            device.call(_free, held, memory)
            if isinstance(error, CudaError):
                raise InferenceError(f"cuda:{self.plan.index}: {error}") from error
            raise
        ending = weakref.finalize(
            self, _end, device, id(self), [self._bound, self._session], memory
        )
        ending.atexit = False  # the end of the process frees everything

    def _open(self, content: bytes | Path, choose: bool, memory: Memory) -> None:
        """Open and bind; if graphs cannot be captured, without them, and log why."""
        try:
            self._open_as(self.plan.binding, content, choose, memory)
            return
        except InferenceError as error:
            if self.plan.binding != "graph" or self._accelerator is None:
                raise
            self.reason = error.message
        self._session = None
        self._accelerator.call(memory.recover)
        self._open_as("bound", content, choose, memory)
        logger.warning("runs are bound, but no graphs are replayed: %s", self.reason)

    def _open_as(
        self, binding: Binding, content: bytes | Path, choose: bool, memory: Memory
    ) -> None:
        plan = self.plan = dataclasses.replace(self.plan, binding=binding)
        started = time.perf_counter()
        self._session = _open_session(content, plan, memory.run_stream)
        self.opening_s = {"onnxruntime": time.perf_counter() - started}
        if plan.device != "cpu":
            self.cpu_nodes = _check_nodes(self._session, plan)
        if plan.binding == "plain":
            return

        def bind() -> BoundRuns:
            return BoundRuns(self._session, memory, plan.buckets, graphs=binding == "graph")

        call = _call if self._accelerator is None else self._accelerator.call
        try:
            bound = call(bind)
            kept = plan.buckets
            if choose:
                kept = choose_buckets({size: call(bound.measure, size) for size in kept})
            call(bound.keep, kept)
            if self._accelerator is None:  # runs allocate nothing: a load runs what it has time for
                bound.bind()
            else:
                for step in bound.warm_ups():
                    call(step)
                self._rows_now = rows_now(bound.seconds)
        except InferenceError:
            raise
        except Exception as error:  # onnxruntime's and CUDA's
            raise InferenceError(f"binding failed: {_first_line(error)}") from error
        self._bound = bound
        self.opening_s |= {"search": bound.search_s, "graphs": bound.graphs_s}
        self.plan = dataclasses.replace(plan, buckets=kept)


def _open_session(content: bytes | Path, plan: Plan, stream: int) -> onnxruntime.InferenceSession:
    """Open onnxruntime's session; fail unless the plan's provider runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = plan.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    # Spinning threads would take the cores that decode and parse between runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights stay out of the arena. On a CPU it grows by powers of two: 1.6 times the file of a
    # ViT-L instead of once. On a GPU its limit then covers only what runs need, and a captured
    # graph, which writes where its run did, overwrites nothing else.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if plan.device != "cpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if plan.device == "tensorrt" and plan.engine_cache is not None:
        plan.engine_cache.mkdir(parents=True, exist_ok=True)
    providers = providers_of(plan, stream)
    try:
        session = onnxruntime.InferenceSession(
            os.fspath(content) if isinstance(content, Path) else content,
            options,
            providers=providers,
            enable_fallback=0,
        )
    except Exception as error:  # onnxruntime raises many classes without a common base
        raise InferenceError(f"onnxruntime refused the model: {_first_line(error)}") from error
    if session.get_providers()[0] != providers[0][0]:
        raise InferenceError(f"expected provider {providers[0][0]}, got {session.get_providers()}")
    return session


def _check_nodes(session: onnxruntime.InferenceSession, plan: Plan) -> tuple[str, ...]:
    """Return the nodes that a plan for a GPU left on the CPU, and log them.

    Raises:
        InferenceError: All nodes are on the CPU: the provider runs nothing.
    """
    left, taken = [], 0
    for part in session.get_provider_graph_assignment_info():
        nodes = [f"{node.op_type} {node.name}" for node in part.get_nodes()]
        if part.ep_name == PROVIDERS["cpu"]:
            left += nodes
        else:
            taken += len(nodes)
    if not taken:
        raise InferenceError(
            f"expected nodes on {PROVIDERS[plan.device]}, got all {len(left)} on the CPU"
        )
    if left:
        more = len(left) - _LISTED_NODES
        logger.warning(
            "device %s: %d of %d nodes stay on the CPU: %s%s",
            plan.device,
            len(left),
            len(left) + taken,
            ", ".join(left[:_LISTED_NODES]),
            f" and {more} more" if more > 0 else "",
        )
    return tuple(left)


def _call(work: Callable[..., T], *args: object) -> T:
    return work(*args)


def _end(device: Accelerator, holder: int, held: list[object], memory: Memory) -> None:
    """Free what a session held on a GPU, on the device's thread: never during a capture."""
    device.budget.give_back(holder)
    with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
        device.executor.submit(_free, held, memory)


def _free(held: list[object], memory: Memory) -> None:
    """Free the session before the buffers, which its graphs refer to."""
    for each in held:
        if isinstance(each, BoundRuns):
            each.close()
    held.clear()
    memory.release()


def _is_about_memory(error: Exception) -> bool:
    """Return whether a run found no memory: onnxruntime has no class for it, only words."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
