"""The C allocator's policy: large blocks go back to the system as soon as they are freed."""

import asyncio
import ctypes
import sys
import threading

# glibc's own threshold grows with what is freed, up to 32 MiB: bodies and pictures then share the
# heap with small objects, which keep its pages. Measured after bodies of 1 to 32 MiB on 30
# connections and 160 photographs: 52 MiB more than before, and 7 with these. Rows and pictures of
# up to 640 x 480 stay below the threshold: a block above it costs two system calls and its pages.
_MMAP_BYTES = 1 << 20
# Free bytes at the end of the heap that are kept for what comes next.
_KEPT_BYTES = 4 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def return_large_blocks() -> None:
    """Make freed blocks of 1 MiB and more leave the process; call it before models are loaded."""
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def trim() -> None:
    """Return freed memory to the system: 40 MiB after the shipped models are loaded."""
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


class Trimmer:
    """Trims a while after it was asked to: once for all that asked meanwhile, on a thread.

    It takes tens of milliseconds where much is to be returned.

    Args:
        loop: Event loop.
        delay_s: From the first call until it trims, seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, delay_s: float = 0.5) -> None:
        self._loop = loop
        self._delay_s = delay_s
        self._is_due = False

    def __call__(self) -> None:
        """Ask for it, on the loop."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_later(self._delay_s, self._start)

    def _start(self) -> None:
        self._is_due = False
        threading.Thread(target=trim, name="trim", daemon=True).start()


def _glibc(name: str) -> "ctypes._NamedFuncPointer | None":
    """Return a function of glibc; musl and other systems have none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
