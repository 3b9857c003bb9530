"""The part of NVIDIA's CUDA runtime that buffers, copies and their order need, by ctypes.

onnxruntime's own Python calls can neither hold page-locked host memory nor order a copy before a
run on another stream. The library is the one onnxruntime's provider itself is linked to, so nothing
further is installed. Calls let the interpreter go while they wait. Knows no model.

Source of names, numbers and signatures: NVIDIA's CUDA Runtime API reference, ``driver_types.h``.
"""

import ctypes
import functools
from dataclasses import dataclass

# cudaStreamNonBlocking: does not wait for the legacy default stream, nor it for us.
_NON_BLOCKING = 1
# cudaEventDisableTiming: an event that only orders costs less.
_NO_TIMING = 2
# cudaMemcpyDefault: the direction is told by the addresses.
_BY_ADDRESS = 4
# cudaDeviceAttr; https://docs.nvidia.com/cuda/cuda-runtime-api, section "Data types".
_CLOCK_KHZ, _MULTIPROCESSORS, _MEMORY_KHZ, _BUS_BITS, _MAJOR, _MINOR = 13, 16, 36, 37, 75, 76

_POINTER = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[type, ...]] = {
    "cudaGetDeviceCount": (ctypes.POINTER(ctypes.c_int),),
    "cudaSetDevice": (ctypes.c_int,),
    "cudaDeviceGetAttribute": (ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int),
    "cudaMemGetInfo": (ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)),
    "cudaMalloc": (ctypes.POINTER(_POINTER), ctypes.c_size_t),
    "cudaFree": (_POINTER,),
    "cudaHostAlloc": (ctypes.POINTER(_POINTER), ctypes.c_size_t, ctypes.c_uint),
    "cudaFreeHost": (_POINTER,),
    "cudaMemset": (_POINTER, ctypes.c_int, ctypes.c_size_t),
    "cudaMemcpyAsync": (_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_int, _POINTER),
    "cudaStreamCreateWithFlags": (ctypes.POINTER(_POINTER), ctypes.c_uint),
    "cudaStreamSynchronize": (_POINTER,),
    "cudaStreamWaitEvent": (_POINTER, _POINTER, ctypes.c_uint),
    "cudaEventCreateWithFlags": (ctypes.POINTER(_POINTER), ctypes.c_uint),
    "cudaEventRecord": (_POINTER, _POINTER),
    "cudaEventDestroy": (_POINTER,),
    "cudaStreamEndCapture": (_POINTER, ctypes.POINTER(_POINTER)),
    "cudaGetLastError": (),
}


class CudaError(RuntimeError):
    """The CUDA runtime is not there, or refused a call; the message names which."""


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a GPU is.

    Attributes:
        name: As the driver calls it.
        capability: Compute capability, as "9.0".
        multiprocessors: How many.
        clock_hz: Of its processors, at most.
        memory_bytes_per_s: Bandwidth of its own memory, at most.
        memory_bytes: All of it.
    """

    name: str
    capability: str
    multiprocessors: int
    clock_hz: float
    memory_bytes_per_s: float
    memory_bytes: int


class CudaRuntime:
    """The loaded library.

    Args:
        name: File name or path, as ``libcudart.so.13``.

    Raises:
        CudaError: The dynamic loader does not find it, or it lacks a call; its message follows.
    """

    def __init__(self, name: str) -> None:
        try:
            self._library = ctypes.CDLL(name)
            self._library.cudaGetErrorString.restype = ctypes.c_char_p
            self._library.cudaGetErrorString.argtypes = (ctypes.c_int,)
            for function, arguments in _SIGNATURES.items():
                found = getattr(self._library, function)
                found.restype = ctypes.c_int
                found.argtypes = arguments
        except (OSError, AttributeError) as error:  # the library, or a call of it
            raise CudaError(str(error)) from None

    def call(self, function: str, *arguments: object) -> None:
        """Call a function of the library.

        Raises:
            CudaError: It gives another status than success; the message names function and reason.
        """
        status = getattr(self._library, function)(*arguments)
        if status:
            reason = self._library.cudaGetErrorString(status).decode(errors="replace")
            raise CudaError(f"{function}: {reason} ({status})")

    def count(self) -> int:
        """Return how many GPUs this process may use; ``CUDA_VISIBLE_DEVICES`` has its say."""
        count = ctypes.c_int()
        self.call("cudaGetDeviceCount", ctypes.byref(count))
        return count.value

    def use(self, index: int) -> None:
        """Let the calling thread's calls go to a device."""
        self.call("cudaSetDevice", index)

    def free_bytes(self) -> int:
        """Return what is free of the current device's memory, whoever holds the rest."""
        return self._memory()[0]

    def allocate(self, size_bytes: int) -> int:
        """Return the address of memory of the current device, all zeros."""
        address = _POINTER()
        self.call("cudaMalloc", ctypes.byref(address), size_bytes)
        self.call("cudaMemset", address, 0, size_bytes)
        self.call("cudaStreamSynchronize", None)  # no other stream waits for the default one
        return address.value or 0

    def allocate_host(self, size_bytes: int) -> int:
        """Return the address of page-locked memory of the host: copies from it need no other."""
        address = _POINTER()
        self.call("cudaHostAlloc", ctypes.byref(address), size_bytes, 0)
        return address.value or 0

    def stream(self) -> int:
        """Return a new stream's handle."""
        handle = _POINTER()
        self.call("cudaStreamCreateWithFlags", ctypes.byref(handle), _NON_BLOCKING)
        return handle.value or 0

    def event(self) -> int:
        """Return a new event's handle."""
        handle = _POINTER()
        self.call("cudaEventCreateWithFlags", ctypes.byref(handle), _NO_TIMING)
        return handle.value or 0

    def copy(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Begin a copy on a stream; page-locked or device memory on both sides."""
        self.call("cudaMemcpyAsync", target, source, size_bytes, _BY_ADDRESS, stream)

    def end_capture(self, stream: int) -> None:
        """End a capture that was left open, and forget the error that it left behind."""
        self._library.cudaStreamEndCapture(stream, ctypes.byref(_POINTER()))
        self._library.cudaGetLastError()

    def facts(self, index: int) -> DeviceFacts:
        """Return what a device is; it becomes the current one."""
        self.use(index)
        clock, cores, memory, bits, major, minor = (
            self._attribute(attribute, index)
            for attribute in (_CLOCK_KHZ, _MULTIPROCESSORS, _MEMORY_KHZ, _BUS_BITS, _MAJOR, _MINOR)
        )
        return DeviceFacts(
            name=_device_name(index),
            capability=f"{major}.{minor}",
            multiprocessors=cores,
            clock_hz=clock * 1e3,
            memory_bytes_per_s=2 * memory * 1e3 * bits / 8,  # two transfers a clock
            memory_bytes=self._memory()[1],
        )

    def _attribute(self, attribute: int, index: int) -> int:
        value = ctypes.c_int()
        self.call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, index)
        return value.value

    def _memory(self) -> tuple[int, int]:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value


@functools.cache
def load_runtime(major: str) -> CudaRuntime:
    """Return the runtime of a major version, loaded once.

    Raises:
        CudaError: The dynamic loader does not find it.
    """
    return CudaRuntime(f"libcudart.so.{major}")


def driver_error() -> str:
    """Return what the dynamic loader says against NVIDIA's driver, "" if it is there."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return str(error)
    return ""


def _device_name(index: int) -> str:
    """Ask the driver: in the runtime the name is in a structure that changes with its version."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, text = ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index):
        return "unknown"
    if driver.cuDeviceGetName(text, len(text), device):
        return "unknown"
    return text.value.decode(errors="replace")
