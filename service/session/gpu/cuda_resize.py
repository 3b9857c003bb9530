"""``resize.cu`` on a GPU: compiled by NVRTC at the start, launched once a pass for a whole batch.

NVRTC and the driver by ``cuda-bindings``; memory and copies by the runtime of the sessions. The
kernel's stream is its own, so it runs beside the sessions' runs. Knows no decoder.
"""

import ctypes
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.session.devices import runtime
from service.session.gpu.cuda_runtime import CudaError, CudaRuntime
from service.session.gpu.resize import KERNEL, Resizing, Surface, pack

_THREADS = 256
# Blocks of one picture: more than any card has multiprocessors, and threads stride over the rest.
_MOST_BLOCKS = 512


class CudaResizer:
    """The kernel on one GPU.

    Args:
        index: Number of the GPU among those that this process sees.
        stream: Stream that the decoder's pictures are ready on.
        most_bytes: Most memory of the device that it holds, and half of what it holds of the host.

    Raises:
        CudaError: NVRTC, the driver or the runtime refuses it.
    """

    def __init__(self, index: int, stream: int, most_bytes: int) -> None:
        self._index = index
        self._stream = stream
        self._runtime = runtime()
        self._runtime.use(index)
        self._driver: Any = _import("cuda.bindings.driver")
        facts = self._runtime.facts(index)
        module = self._call("cuModuleLoadData", _compile(facts.capability.replace(".", "")))
        self._passes = [
            self._call("cuModuleGetFunction", module, name)
            for name in (b"first_pass", b"second_pass")
        ]
        self._work = _Block(self._runtime, most_bytes)
        self._host_control, self._host_out = (
            _Block(self._runtime, most_bytes, is_host=True) for _ in range(2)
        )

    def resize(
        self, surfaces: Sequence[Surface], each: Sequence[Resizing]
    ) -> list[NDArray[np.uint8]]:
        """See ``photographs.Resizer``.

        Raises:
            CudaError: A call failed.
        """
        self._runtime.use(self._index)
        out_bytes = sum(how.row_bytes for how in each)
        control = self._work.address(sum(how.work_bytes for how in each))
        middle = control + sum(how.control_bytes for how in each)
        out = middle + sum(how.middle_bytes for how in each)
        packed, offsets = pack(surfaces, each, control, middle, out)
        host = self._host_control.address(len(packed))
        ctypes.memmove(host, packed, len(packed))
        self._runtime.copy(control, host, len(packed), self._stream)
        self._launch(self._passes[0], control, len(each), max(h.rows * h.columns for h in each))
        rows = max(how.spec.height * how.spec.width for how in each)
        self._launch(self._passes[1], control, len(each), rows)
        answer = self._host_out.address(out_bytes)
        self._runtime.copy(answer, out, out_bytes, self._stream)
        self._runtime.call("cudaStreamSynchronize", self._stream)
        # Copied: the next batch overwrites it while rows still wait for their run.
        made = np.ctypeslib.as_array((ctypes.c_uint8 * out_bytes).from_address(answer)).copy()
        return [
            made[offset : offset + how.row_bytes].reshape(how.spec.shape_HWC)
            for offset, how in zip(offsets, each, strict=True)
        ]

    def _launch(self, function: Any, pictures: int, count: int, pixels: int) -> None:
        blocks = min(_MOST_BLOCKS, -(-pixels // _THREADS))
        arguments = (pictures,), (ctypes.c_void_p,)
        grid, block = (blocks, count, 1), (_THREADS, 1, 1)
        self._call("cuLaunchKernel", function, *grid, *block, 0, self._stream, arguments, 0)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call the driver; return what it gives besides its status.

        Raises:
            CudaError: It does not return success.
        """
        status, *given = getattr(self._driver, name)(*arguments)
        if status.value:
            raise CudaError(f"{name}: {status.name} ({status.value})")
        return given[0] if given else None


class _Block:
    """Memory of the device, or page-locked memory of the host, that grows as it is needed.

    It grows by a quarter more than is asked for, up to ``most_bytes``.
    """

    def __init__(self, runtime: CudaRuntime, most_bytes: int, *, is_host: bool = False) -> None:
        self._runtime = runtime
        self._most_bytes = most_bytes
        self._is_host = is_host
        self._address = self._size = 0

    def address(self, size_bytes: int) -> int:
        """Return the address of so many bytes; what was there before is lost if it grows."""
        if size_bytes > self._size:
            if self._address:
                self._runtime.call("cudaFreeHost" if self._is_host else "cudaFree", self._address)
                self._address = self._size = 0
            size_bytes = max(size_bytes, min(size_bytes * 5 // 4, self._most_bytes))
            allocate = self._runtime.allocate_host if self._is_host else self._runtime.allocate
            self._address, self._size = allocate(size_bytes), size_bytes
        return self._address


def _compile(capability: str) -> bytes:
    """Compile the kernel for a compute capability, as "90"; return what the driver loads.

    Raises:
        CudaError: NVRTC is missing or refuses it.
    """
    nvrtc = _import("cuda.bindings.nvrtc")

    def call(name: str, *arguments: Any) -> Any:
        try:
            status, *given = getattr(nvrtc, name)(*arguments)
        except RuntimeError as error:  # its library is missing
            raise CudaError(f"{name}: {error}") from None
        if status.value:
            raise CudaError(f"{name}: {status.name} ({status.value})")
        return given[0] if given else None

    program = call("nvrtcCreateProgram", KERNEL.read_bytes(), b"resize.cu", 0, [], [])
    options = [f"--gpu-architecture=sm_{capability}".encode()]
    call("nvrtcCompileProgram", program, len(options), options)
    binary = bytes(call("nvrtcGetCUBINSize", program))
    call("nvrtcGetCUBIN", program, binary)
    return binary


def _import(name: str) -> Any:
    """Import what only a machine with a GPU needs.

    Raises:
        CudaError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CudaError(f"expected cuda-bindings, got: {error}; install foveal[gpu]") from None
