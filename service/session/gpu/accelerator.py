"""One GPU, shared by all sessions of this process on it: a thread, two streams, a memory budget.

onnxruntime keeps captured graphs by thread, so everything on a GPU runs on its one thread; nothing
can overlap a capture there, either. Knows no model.
"""

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from service.errors import InferenceError
from service.session.devices import runtime
from service.session.gpu.cuda_runtime import CudaError
from service.session.gpu.faults import is_sticky
from service.session.gpu.memory import CudaMemory

P = ParamSpec("P")
T = TypeVar("T")


class Budget:
    """The memory that all sessions and the decoder of JPEGs on one device hold.

    Args:
        name: Name of the device, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._held: dict[int, int] = {}
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """Return the memory that all hold."""
        with self._lock:
            return sum(self._held.values())

    def left_bytes(self, limit_bytes: int) -> int:
        """Return the memory that another session may take; 0 if there is no limit.

        Raises:
            InferenceError: Nothing is left.
        """
        if not limit_bytes:
            return 0
        held = self.held_bytes
        if held >= limit_bytes:
            raise InferenceError(
                f"{self._name}: expected room in {limit_bytes >> 20} MiB, got {held >> 20} MiB "
                "held by others; raise FOVEAL_GPU_MEMORY_MIB or serve fewer models"
            )
        return limit_bytes - held

    def take(self, holder: int, size_bytes: int, limit_bytes: int) -> None:
        """Record the memory that a session or the decoder holds.

        Raises:
            InferenceError: It is more than was left; nothing is recorded.
        """
        with self._lock:
            held = sum(self._held.values())
            if limit_bytes and held + size_bytes > limit_bytes:
                raise InferenceError(
                    f"{self._name}: expected room in {limit_bytes >> 20} MiB, got "
                    f"{size_bytes >> 20} MiB more beside {held >> 20} MiB of others; raise "
                    "FOVEAL_GPU_MEMORY_MIB or serve fewer models"
                )
            self._held[holder] = size_bytes

    def give_back(self, holder: int) -> None:
        """Free the memory of a session that was closed."""
        with self._lock:
            self._held.pop(holder, None)


class Accelerator:
    """One GPU. Get it with ``accelerator``.

    Args:
        index: Number of the GPU among those that this process sees.

    Attributes:
        executor: The device's one thread.
        budget: Budget of its memory.
        exclusive: Held while a graph is captured, and by other threads while they allocate:
            onnxruntime captures in a mode in which an allocation anywhere ends the capture.

    Raises:
        InferenceError: CUDA's runtime refuses it.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.budget = Budget(f"cuda:{index}")
        self.exclusive = threading.Lock()
        self._thread = 0
        self.executor = ThreadPoolExecutor(1, f"cuda-{index}", initializer=self._begin)
        try:
            self._runtime = runtime()
            self._streams = self.call(lambda: (self._runtime.stream(), self._runtime.stream()))
        except CudaError as error:
            raise InferenceError(f"cuda:{index}: {error}") from None

    def memory(self) -> CudaMemory:
        """Return a new allocator for one session."""
        return CudaMemory(self._runtime, self.index, *self._streams, self.exclusive)

    def is_lost(self) -> bool:
        """Ask CUDA whether it does no further work in this process; waits for runs that began."""

        def ask() -> bool:
            try:
                self._runtime.call("cudaStreamSynchronize", self._streams[0])
            except CudaError as error:
                return is_sticky(error)
            return False

        return self.call(ask)

    def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call on the device's thread and wait; at once if this is that thread."""
        if threading.get_ident() == self._thread:
            return work(*args, **kwargs)
        return self.executor.submit(work, *args, **kwargs).result()

    def _begin(self) -> None:
        self._thread = threading.get_ident()
        runtime().use(self.index)


@functools.cache
def accelerator(index: int) -> Accelerator:
    """Return the accelerator of a GPU, the same object each time.

    Raises:
        InferenceError: CUDA's runtime refuses it.
    """
    return Accelerator(index)
