"""The rows that are being decoded, in a file: what a process that was killed leaves behind.

A row that was being decoded then may be the reason. The next run decodes it in a process of its
own, and passes over it if that one is killed, too. Knows nothing about sources.
"""

import mmap
import struct
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from threading import get_ident

from models.artifact import ImageSpec
from models.image import ImageError, Pixels, decode

# Number of a source and one more, number of its row; zeros: none.
_MARK = struct.Struct("<qq")
_NONE = bytes(_MARK.size)

# Number of a source, and of its row.
Place = tuple[int, int]


class Marks:
    """One mark for each thread that decodes, and those of earlier runs.

    The memory is the file's, so a mark costs no system call and outlives the process; it need not
    outlive the machine.

    Args:
        path: The file.
        threads: Most threads that decode at once.
    """

    def __init__(self, path: Path, threads: int) -> None:
        left = path.read_bytes() if path.exists() else b""
        places = sorted({(source, row) for source, row in _MARK.iter_unpack(left) if source})
        self._suspects = frozenset((source - 1, row) for source, row in places)
        content = _NONE * threads + b"".join(_MARK.pack(*place) for place in places)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(path)
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), len(content))
        self._offsets: dict[int, int] = {}
        self._free = count(0, _MARK.size)

    def suspects(self, source: int, first: int, count: int) -> bool:
        """Return whether one of some rows has a mark of an earlier run."""
        return any((source, row) in self._suspects for row in range(first, first + count))

    def begin(self, source: int, row: int) -> bool:
        """Mark the row that this thread decodes now.

        Returns:
            Whether it may go on here: not a row that has a mark of an earlier run.
        """
        if (source, row) in self._suspects:
            return False
        _MARK.pack_into(self._memory, self._offset(), source + 1, row)
        return True

    def end(self) -> None:
        """Take this thread's mark away."""
        _MARK.pack_into(self._memory, self._offset(), 0, 0)

    def _offset(self) -> int:
        thread = get_ident()
        offset = self._offsets.get(thread)
        if offset is None:
            offset = self._offsets[thread] = next(self._free)
        return offset


def decode_alone(encoded: bytes, spec: ImageSpec, max_pixels: int) -> Pixels:
    """Decode one image in a process of its own, as ``models.image.decode`` does.

    Raises:
        ImageError: As there, or the process was killed.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        try:
            return process.submit(decode, encoded, spec, max_pixels).result()
        except BrokenProcessPool:
            raise ImageError(
                "image: expected one that can be decoded, got one whose decoding ends the process; "
                "it is passed over"
            ) from None
