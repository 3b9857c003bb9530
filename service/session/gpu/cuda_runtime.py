"""The calls of NVIDIA's CUDA runtime for buffers, copies and their order, by ctypes.

onnxruntime's own Python calls can neither hold page-locked host memory nor order a copy before a
run on another stream. The library is the one that onnxruntime's provider is linked to, so nothing
else is installed. Calls release the interpreter's lock while they wait. Knows no model.

Source of names, numbers and signatures: NVIDIA's CUDA Runtime API reference, ``driver_types.h``.
"""

import ctypes
import functools
from dataclasses import dataclass

# cudaStreamNonBlocking: this stream and the legacy default stream do not wait for each other.
_NON_BLOCKING = 1
# cudaEventDisableTiming: an event that only orders costs less.
_NO_TIMING = 2
# cudaMemcpyDefault: the addresses determine the direction.
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
    """The CUDA runtime is missing or a call failed; the message names it.

    Args:
        message: One line.
        status: cudaError_t of the call; 0: there was no call.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """Properties of a GPU.

    Attributes:
        name: Name that the driver gives it.
        capability: Compute capability, as "9.0".
        multiprocessors: Number of multiprocessors.
        clock_hz: Highest clock of its processors.
        memory_bytes_per_s: Highest bandwidth of its own memory.
        memory_bytes: Size of its memory.
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
        CudaError: The dynamic loader does not find it, or it lacks a call.
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
            CudaError: It does not return success; the message names function and reason.
        """
        status = getattr(self._library, function)(*arguments)
        if status:
            reason = self._library.cudaGetErrorString(status).decode(errors="replace")
            raise CudaError(f"{function}: {reason} ({status})", status)

    def count(self) -> int:
        """Return how many GPUs this process may use, according to ``CUDA_VISIBLE_DEVICES``."""
        count = ctypes.c_int()
        self.call("cudaGetDeviceCount", ctypes.byref(count))
        return count.value

    def use(self, index: int) -> None:
        """Set the device of the calling thread."""
        self.call("cudaSetDevice", index)

    def free_bytes(self) -> int:
        """Return the free memory of the current device, over all processes."""
        return self._memory()[0]

    def allocate(self, size_bytes: int) -> int:
        """Allocate zeroed memory of the current device and return its address."""
        address = _POINTER()
        self.call("cudaMalloc", ctypes.byref(address), size_bytes)
        self.call("cudaMemset", address, 0, size_bytes)
        self.call("cudaStreamSynchronize", None)  # no other stream waits for the default one
        return address.value or 0

    def allocate_host(self, size_bytes: int) -> int:
        """Allocate page-locked host memory, from which copies are direct; return its address."""
        address = _POINTER()
        self.call("cudaHostAlloc", ctypes.byref(address), size_bytes, 0)
        return address.value or 0

    def stream(self) -> int:
        """Create a stream and return its handle."""
        handle = _POINTER()
        self.call("cudaStreamCreateWithFlags", ctypes.byref(handle), _NON_BLOCKING)
        return handle.value or 0

    def event(self) -> int:
        """Create an event and return its handle."""
        handle = _POINTER()
        self.call("cudaEventCreateWithFlags", ctypes.byref(handle), _NO_TIMING)
        return handle.value or 0

    def copy(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Begin a copy on a stream; page-locked or device memory on both sides."""
        self.call("cudaMemcpyAsync", target, source, size_bytes, _BY_ADDRESS, stream)

    def end_capture(self, stream: int) -> None:
        """End a capture that was left open, and clear its error."""
        self._library.cudaStreamEndCapture(stream, ctypes.byref(_POINTER()))
        self._library.cudaGetLastError()

    def facts(self, index: int) -> DeviceFacts:
        """Return the properties of a device, which becomes the current one."""
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
    """Return the dynamic loader's error for NVIDIA's driver, "" if it loads."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return str(error)
    return ""


def _device_name(index: int) -> str:
    """Ask the driver: the runtime has the name in a structure that changes with its version."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, text = ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index):
        return "unknown"
    if driver.cuDeviceGetName(text, len(text), device):
        return "unknown"
    return text.value.decode(errors="replace")
