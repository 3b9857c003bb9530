"""Memory that runs are bound to: the host's, the device's, and copies between them.

``CpuMemory`` and ``CudaMemory`` are of one shape, so that the code which binds, fills and reads
buffers is the same on both and is tested where there is no GPU. An upload goes on a stream of its
own and may overlap with a run; a run that needs it waits on the device, not on the host.
"""

import ctypes
import threading
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.session.gpu.cuda_runtime import CudaRuntime

S = TypeVar("S", bound=np.generic)


class Memory(Protocol):
    """Host and device memory of one device.

    Attributes:
        kind: onnxruntime's word for the device's memory.
        index: Which device of that kind.
        run_stream: Handle of the stream that runs belong on, 0 if there is none.
    """

    kind: str
    index: int
    run_stream: int

    def host(self, shape: tuple[int, ...], dtype: type[S]) -> NDArray[S]:
        """Return an array of host memory, all zeros, fit for copies."""

    def device(self, size_bytes: int) -> int:
        """Return the address of device memory, all zeros."""

    def event(self) -> int:
        """Return the handle of an event: that an upload has arrived."""

    def upload(self, address: int, array: NDArray[np.generic], arrived: int) -> None:
        """Begin to copy a contiguous host array to a device address."""

    def expect(self, arrived: int) -> None:
        """Let what is begun on the run's stream from now on wait for an upload."""

    def download(self, array: NDArray[np.generic], address: int) -> None:
        """Begin to copy from a device address to a contiguous host array, after the run."""

    def finish(self) -> None:
        """Wait until runs and downloads are over."""

    def free_bytes(self) -> int:
        """Return what is free of the device's memory."""

    def recover(self) -> None:
        """Make the run's stream usable again after a capture that failed, and release all."""

    def release(self) -> None:
        """Give back all that was handed out; nobody may use it any more."""


class CpuMemory:
    """The host's memory in both parts: uploads and downloads are copies, done when they return."""

    kind = "cpu"
    index = 0
    run_stream = 0

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

    All sessions of a device share two streams: runs follow one another on ``run_stream``, whatever
    model they are of, so that memory which one run leaves is free for the next; uploads go beside
    them. Each session has an object of its own for what it holds.

    Args:
        runtime: The library.
        index: Which GPU, of those that the process may use.
        run_stream: Shared by all sessions on the device.
        copy_stream: Likewise.
    """

    kind = "cuda"

    def __init__(self, runtime: CudaRuntime, index: int, run_stream: int, copy_stream: int) -> None:
        self.index = index
        self.run_stream = run_stream
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
        # Copy and record belong together, whichever threads stage other batches meanwhile; and a
        # thread that never chose a device would take memory of the first one.
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
        """See ``Memory``; on the device's thread, so that no capture meets it."""
        self._runtime.use(self.index)
        for function, handles in (
            ("cudaFree", self._device_addresses),
            ("cudaFreeHost", self._host_addresses),
            ("cudaEventDestroy", self._events),
        ):
            for handle in handles:
                self._runtime.call(function, handle)
            handles.clear()
