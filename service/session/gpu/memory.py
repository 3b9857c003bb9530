"""Memory that runs are bound to: host memory, device memory, and copies between them.

``CpuMemory`` and ``CudaMemory`` share a protocol: the code that binds, fills and reads buffers is
the same for both and is tested without a GPU. An upload goes on a stream of its own and may overlap
with a run; a run that needs it waits on the device, not on the host.
"""

import ctypes
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.session.gpu.cuda_runtime import CudaRuntime

S = TypeVar("S", bound=np.generic)


class Memory(Protocol):
    """Host and device memory of one device.

    Attributes:
        kind: onnxruntime's name of the device's memory.
        index: Number of the device of that kind.
        run_stream: Handle of the stream that runs are queued on, 0 if there is none.
        exclusive: Held while a graph is captured: no other thread may allocate on the device then.
    """

    kind: str
    index: int
    run_stream: int
    exclusive: AbstractContextManager[Any]

    def host(self, shape: tuple[int, ...], dtype: type[S]) -> NDArray[S]:
        """Return a zeroed array of host memory that copies can use."""

    def device(self, size_bytes: int) -> int:
        """Return the address of zeroed device memory."""

    def event(self) -> int:
        """Return the handle of an event that marks the end of an upload."""

    def upload(self, address: int, array: NDArray[np.generic], arrived: int) -> None:
        """Begin to copy a contiguous host array to a device address."""

    def expect(self, arrived: int) -> None:
        """Let what is queued on the run's stream from now on wait for an upload."""

    def download(self, array: NDArray[np.generic], address: int) -> None:
        """Begin to copy from a device address to a contiguous host array, after the run."""

    def finish(self) -> None:
        """Wait until runs and downloads have ended."""

    def free_bytes(self) -> int:
        """Return the free memory of the device."""

    def recover(self) -> None:
        """Make the run's stream usable after a failed capture, and release everything."""

    def release(self) -> None:
        """Free everything that was allocated; it must not be used any more."""


class CpuMemory:
    """Host memory for both parts: uploads and downloads are copies that end before they return."""

    kind = "cpu"
    index = 0
    run_stream = 0
    exclusive: AbstractContextManager[Any] = nullcontext()

    def __init__(self) -> None:
        self._held: dict[int, NDArray[np.uint8]] = {}

    def host(self, shape: tuple[int, ...], dtype: type[S]) -> NDArray[S]:
        """See ``Memory``."""
        return np.zeros(shape, dtype)

    def device(self, size_bytes: int) -> int:
        """See ``Memory``."""
        array = np.zeros(size_bytes, np.uint8)
        self._held[array.ctypes.data] = array
        return array.ctypes.data

    def event(self) -> int:
        """See ``Memory``."""
        return 0

    def upload(self, address: int, array: NDArray[np.generic], arrived: int) -> None:  # noqa: ARG002
        """See ``Memory``."""
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def expect(self, arrived: int) -> None:
        """See ``Memory``."""

    def download(self, array: NDArray[np.generic], address: int) -> None:
        """See ``Memory``."""
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def finish(self) -> None:
        """See ``Memory``."""

    def free_bytes(self) -> int:
        """See ``Memory``."""
        return 0

    def recover(self) -> None:
        """See ``Memory``."""
        self.release()

    def release(self) -> None:
        """See ``Memory``."""
        self._held.clear()


class CudaMemory:
    """Page-locked memory of the host and memory of one GPU.

    All sessions of a device share two streams: runs of all models follow one another on
    ``run_stream``, so the memory of one run is free for the next; uploads go on the other. Each
    session has an object of its own for the memory that it holds.

    Args:
        runtime: CUDA's runtime.
        index: Number of the GPU among those that the process may use.
        run_stream: Stream of runs, shared by all sessions on the device.
        copy_stream: Stream of uploads, shared likewise.
        exclusive: Lock of the device, shared likewise.
    """

    kind = "cuda"

    def __init__(
        self,
        runtime: CudaRuntime,
        index: int,
        run_stream: int,
        copy_stream: int,
        exclusive: AbstractContextManager[Any],
    ) -> None:
        self.index = index
        self.run_stream = run_stream
        self.exclusive = exclusive
        self._runtime = runtime
        self._copy_stream = copy_stream
        self._device_addresses: list[int] = []
        self._host_addresses: list[int] = []
        self._events: list[int] = []
        self._lock = threading.Lock()

    def host(self, shape: tuple[int, ...], dtype: type[S]) -> NDArray[S]:
        """See ``Memory``."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = self._runtime.allocate_host(size)
        self._host_addresses.append(address)
        held = memoryview((ctypes.c_uint8 * size).from_address(address))
        array = np.frombuffer(held, dtype).reshape(shape)
        array.fill(0)
        return array

    def device(self, size_bytes: int) -> int:
        """See ``Memory``."""
        self._runtime.use(self.index)
        address = self._runtime.allocate(size_bytes)
        self._device_addresses.append(address)
        return address

    def event(self) -> int:
        """See ``Memory``."""
        self._runtime.use(self.index)
        event = self._runtime.event()
        self._events.append(event)
        return event

    def upload(self, address: int, array: NDArray[np.generic], arrived: int) -> None:
        """See ``Memory``; may be called from any thread."""
        # No other upload may come between the copy and its event; and a thread that never chose a
        # device would use the first one.
        with self._lock:
            self._runtime.use(self.index)
            self._runtime.copy(address, array.ctypes.data, array.nbytes, self._copy_stream)
            self._runtime.call("cudaEventRecord", arrived, self._copy_stream)

    def expect(self, arrived: int) -> None:
        """See ``Memory``."""
        self._runtime.call("cudaStreamWaitEvent", self.run_stream, arrived, 0)

    def download(self, array: NDArray[np.generic], address: int) -> None:
        """See ``Memory``."""
        self._runtime.copy(array.ctypes.data, address, array.nbytes, self.run_stream)

    def finish(self) -> None:
        """See ``Memory``."""
        self._runtime.call("cudaStreamSynchronize", self.run_stream)

    def free_bytes(self) -> int:
        """See ``Memory``."""
        self._runtime.use(self.index)
        return self._runtime.free_bytes()

    def recover(self) -> None:
        """See ``Memory``; on the device's thread, which began the capture."""
        self._runtime.end_capture(self.run_stream)
        self.release()

    def release(self) -> None:
        """See ``Memory``; on the device's thread, so never during a capture."""
        self._runtime.use(self.index)
        for function, handles in (
            ("cudaFree", self._device_addresses),
            ("cudaFreeHost", self._host_addresses),
            ("cudaEventDestroy", self._events),
        ):
            for handle in handles:
                self._runtime.call(function, handle)
            handles.clear()
