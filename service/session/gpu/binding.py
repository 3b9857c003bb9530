"""Runs bound to persistent buffers: rows in, a bucket run, outputs out, nothing allocated.

A ``Slot`` holds one batch: host memory that it is assembled in, device memory that the graph reads
and writes, and a binding of both for each bucket, all at fixed addresses. Two slots take turns: one
batch is filled and uploaded while another runs. With graphs, each slot and bucket has a CUDA graph
of its own, identified by onnxruntime's ``gpu_graph_id``.

Without a GPU the same code runs on ``CpuMemory``, and graph ids have no effect.

Layout legend: N rows, H height, W width, C channels, K classes, B rows of a bucket.
"""

import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.errors import InferenceError
from service.session.buckets import bucket_of
from service.session.gpu.memory import Memory
from service.session.outputs import Outputs

OUTPUTS = ("logits", "probabilities")
# Batches in progress at once: one runs, the next is assembled and uploaded.
STAGED = 2
# onnxruntime's gpu_graph_id that neither captures nor replays.
_NO_GRAPH = -1
# A replay may differ from a plain run only by sums in another order; a stale one differs far more.
_REPLAY_TOLERANCE = 1e-2
_MEASURED_RUNS = 5
# CUDA's own allocations begin at such addresses, and kernels may read whole vectors.
_ALIGNED_BYTES = 256
_FLOAT_BYTES = 4


class BoundRuns:
    """The slots of a session and its buckets.

    Args:
        session: onnxruntime's, its input ``images`` and outputs ``OUTPUTS``.
        memory: Memory of the device that the session is on.
        buckets: Batch sizes, rising.
        graphs: Whether the session captures a CUDA graph for each slot and bucket.

    Attributes:
        buckets: Batch sizes that are run.
        slots: The first is for runs of any caller; the others for batches of the queue.
        padded_rows: Rows run so far only to fill up buckets.
        search_s: Seconds of first runs, in which algorithms are searched.
        graphs_s: Seconds in which graphs were captured and checked.

    Raises:
        InferenceError: The graph's images or outputs have no fixed size.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        memory: Memory,
        buckets: Sequence[int],
        *,
        graphs: bool,
    ) -> None:
        self.session = session
        self.memory = memory
        self.buckets = tuple(buckets)
        self.graphs = graphs
        self.padded_rows = 0
        self.search_s = self.graphs_s = 0.0
        self.row_shape = _fixed(session.get_inputs()[0])
        shapes = {output.name: _fixed(output) for output in session.get_outputs()}
        (self.classes,) = shapes[OUTPUTS[0]]
        self.slots = [Slot(self, number) for number in range(1 + STAGED)]

    def measure(self, bucket: int) -> float:
        """Bind, warm up and measure a bucket in the first slot; on the device's thread.

        Returns:
            Seconds of the shortest run, with its copies.
        """
        return self.slots[0].measure(bucket)

    def keep(self, buckets: Sequence[int]) -> None:
        """Keep only these buckets; on the device's thread."""
        for bucket in set(self.buckets) - set(buckets):
            self.slots[0].drop(bucket)
        self.buckets = tuple(buckets)

    def warm_ups(self) -> list[Callable[[], None]]:
        """Return the steps that make all slots ready, to be called on the device's thread.

        In one step onnxruntime searches algorithms and captures a graph for one batch size; between
        two steps the device runs batches of other models.

        Raises:
            InferenceError: In a step: a replayed graph gives other outputs than a plain run.
        """
        return [
            functools.partial(slot.warm_up, bucket)
            for slot in self.slots
            for bucket in self.buckets
        ]

    def bind(self) -> None:
        """Make all slots ready without a run: on a CPU there is nothing to search or capture."""
        for slot in self.slots:
            for bucket in self.buckets:
                slot.bind(bucket)

    def close(self) -> None:
        """Drop the slots, which refer back: the collector skips objects frozen at start."""
        for slot in self.slots:
            slot.unbind()
        self.slots.clear()

    def graph_id(self, slot: int, bucket: int) -> int:
        """Return the number of the graph of a slot and a bucket: from 1, never used twice."""
        return 1 + slot + (1 + STAGED) * bucket


class Slot:
    """The buffers of one batch.

    Args:
        runs: Owner.
        number: Its number, from 0.

    Attributes:
        images: uint8 [largest bucket, H, W, C] of host memory, which batches are assembled in.
    """

    def __init__(self, runs: BoundRuns, number: int) -> None:
        self._runs = runs
        self._memory = memory = runs.memory
        self._number = number
        most = runs.buckets[-1]
        self.images = memory.host((most, *runs.row_shape), np.uint8)
        # Both outputs of a bucket are adjacent: one copy downloads them.
        self._answers = memory.host(
            (len(OUTPUTS) * self._stride(most) // _FLOAT_BYTES,), np.float32
        )
        self._images_address = memory.device(self.images.nbytes)
        self._answers_address = memory.device(self._answers.nbytes)
        self._arrived = memory.event()
        self._bound: dict[int, _Bound] = {}
        self._staged = 0
        self._lock = threading.Lock()

    def stage(self, images_NHWC: NDArray[np.uint8]) -> None:
        """Begin to upload the rows of a batch that lies in ``images`` and is run next.

        The copy goes on a stream of its own, so it overlaps with the run of the other slot;
        ``run`` then finds the rows on the device and uploads nothing.
        """
        if _address(images_NHWC) == _address(self.images):
            self._upload(len(images_NHWC))

    def run(self, images_NHWC: NDArray[np.uint8]) -> Outputs:
        """Run one batch; on the device's thread.

        Args:
            images_NHWC: uint8 [N, H, W, C], 1 <= N <= the largest bucket. Unless they are the first
                rows of ``images``, they are copied there.
        """
        rows = len(images_NHWC)
        bucket = bucket_of(rows, self._runs.buckets)
        with self._lock:
            if _address(images_NHWC) != _address(self.images):
                if images_NHWC.shape[1:] != self._runs.row_shape:  # numpy would broadcast some
                    raise ValueError(f"expected rows of {self._runs.row_shape}")
                np.copyto(self.images[:rows], images_NHWC)
                self._staged = 0
            if self._staged != rows:
                self._upload(rows)
            self._runs.padded_rows += bucket - rows
            return self._execute(rows, self._bound[bucket], "options")

    def measure(self, bucket: int) -> float:
        """Return the seconds of the shortest full run of a bucket."""
        self.warm_up(bucket)
        times = []
        for _ in range(_MEASURED_RUNS):
            started = time.perf_counter()
            self._upload(bucket)
            self._execute(bucket, self._bound[bucket], "options")
            times.append(time.perf_counter() - started)
        return min(times)

    def warm_up(self, bucket: int) -> None:
        """Bind a bucket and run it until it is warm; with graphs, capture and check it.

        Raises:
            InferenceError: The replayed graph gives other outputs than a plain run.
        """
        if bucket in self._bound:
            return
        self.bind(bucket)
        bound = self._bound[bucket]
        random = np.random.default_rng(bucket)
        different = [
            random.integers(0, 256, self.images[:bucket].shape, np.uint8) for _ in range(2)
        ]
        started = time.perf_counter()
        expected = [self._try(images, bound, "plain") for images in different]
        searched = time.perf_counter()
        self._runs.search_s += searched - started
        if not self._runs.graphs:
            return
        with self._memory.exclusive:
            self._try(different[0], bound, "capture")
        for images, plain in zip((*different, *different), (*expected, *expected), strict=True):
            replayed = self._try(images, bound, "options")
            for got_NK, expected_NK in zip(replayed, plain, strict=True):
                scale = float(np.abs(expected_NK).max()) + 1e-6
                if not np.abs(got_NK - expected_NK).max() <= _REPLAY_TOLERANCE * scale:
                    raise InferenceError(
                        f"graph of bucket {bucket}: expected the answers of a plain run, got "
                        "others; it was captured wrongly"
                    )
        self._runs.graphs_s += time.perf_counter() - searched

    def bind(self, bucket: int) -> None:
        """Bind a bucket to the buffers."""
        self._bound[bucket] = self._bind(bucket)

    def unbind(self) -> None:
        """Drop all buckets; the slot cannot run any more."""
        self._bound.clear()

    def drop(self, bucket: int) -> None:
        """Drop a bucket and the graph that was captured for it."""
        if self._bound.pop(bucket, None) and self._runs.graphs:
            self._runs.session.release_captured_graph(self._runs.graph_id(self._number, bucket))

    def _stride(self, bucket: int) -> int:
        """Return the distance between the two outputs of a bucket, bytes."""
        size = bucket * self._runs.classes * _FLOAT_BYTES
        return -(-size // _ALIGNED_BYTES) * _ALIGNED_BYTES

    def _try(self, images_BHWC: NDArray[np.uint8], bound: "_Bound", how: str) -> Outputs:
        np.copyto(self.images[: len(images_BHWC)], images_BHWC)
        self._upload(len(images_BHWC))
        return self._execute(len(images_BHWC), bound, how)

    def _upload(self, rows: int) -> None:
        self._memory.upload(self._images_address, self.images[:rows], self._arrived)
        self._staged = rows

    def _execute(self, rows: int, bound: "_Bound", how: str) -> Outputs:
        memory = self._memory
        self._staged = 0
        memory.expect(self._arrived)
        self._runs.session.run_with_iobinding(bound.binding, getattr(bound, how))
        memory.download(bound.answers, self._answers_address)
        memory.finish()
        # Copied: the slot's next batch overwrites the buffer while these may still be in use.
        return Outputs(*(answers_BK[:rows].copy() for answers_BK in bound.outputs))

    def _bind(self, bucket: int) -> "_Bound":
        runs, memory = self._runs, self._memory
        binding = runs.session.io_binding()
        place = memory.kind, memory.index
        shape = (bucket, *runs.row_shape)
        binding.bind_input("images", *place, np.uint8, shape, self._images_address)
        shape, stride, outputs = (bucket, runs.classes), self._stride(bucket), []
        for name, offset in zip(OUTPUTS, (0, stride), strict=True):
            address = self._answers_address + offset
            binding.bind_output(name, *place, np.float32, shape, address)
            first = offset // _FLOAT_BYTES
            outputs.append(self._answers[first : first + bucket * runs.classes].reshape(shape))
        graph = runs.graph_id(self._number, bucket) if runs.graphs else _NO_GRAPH
        return _Bound(
            binding,
            self._answers[: stride // _FLOAT_BYTES + bucket * runs.classes],
            Outputs(*outputs),
            options=_run_options(graph, waits=False),
            capture=_run_options(graph, waits=True),
            plain=_run_options(_NO_GRAPH, waits=True),
        )


class _Bound(NamedTuple):
    """A slot's buffers bound for one bucket, and the options of its runs.

    ``answers`` is the buffer of a download, ``outputs`` its two parts, float32 [B, K].
    """

    binding: onnxruntime.IOBinding
    answers: NDArray[np.float32]
    outputs: Outputs
    options: onnxruntime.RunOptions
    capture: onnxruntime.RunOptions
    plain: onnxruntime.RunOptions


def _run_options(graph: int, *, waits: bool) -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    if not waits:  # the download is queued right after the run, and one wait covers both
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def _fixed(tensor: onnxruntime.NodeArg) -> tuple[int, ...]:
    """Return a tensor's shape without the rows."""
    sizes = tuple(tensor.shape[1:])
    if not all(isinstance(size, int) for size in sizes):
        raise InferenceError(f'"{tensor.name}": expected fixed sizes, got {tensor.shape}')
    return sizes


def _address(array: NDArray[np.generic]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
