"""The C allocator's policy: large blocks go back to the system as soon as they are freed."""

import ctypes
import sys

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


def _glibc(name: str) -> "ctypes._NamedFuncPointer | None":
    """Return a function of glibc; musl and other systems have none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
