"""A stand-in for the card's decoder and kernel, on the CPU: the same path where no card is.

Answers as nvImageCodec documents: a picture for each file, None where it decodes none, an exception
where all fail. A file whose comment is ``REFUSED`` or ``FAILS`` gets the second or the third. For
tests and rehearsals; it is slower than the CPU's own decoder.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from service.session.gpu.resize import RGB_BYTES, Resizing, Surface, by_numpy

REFUSED = b"rehearsal: refuse"
FAILS = b"rehearsal: fail"


class StandInDecoder:
    """Decodes by libjpeg-turbo into memory of the host."""

    def decode(self, encoded: Sequence[bytes]) -> list[Surface | None]:
        """See ``photographs.Decoder``."""
        if any(FAILS in each for each in encoded):
            raise RuntimeError("a file asks for it")
        return [self._decode(each) for each in encoded]

    def _decode(self, encoded: bytes) -> Surface | None:
        if REFUSED in encoded:
            return None
        try:
            pixels = simplejpeg.decode_jpeg(encoded, "RGB")
        except ValueError:
            return None
        height, width, _ = pixels.shape
        return Surface(pixels.ctypes.data, height, width, width * RGB_BYTES, pixels)


class StandInResizer:
    """The kernel's twin in NumPy."""

    def resize(
        self, surfaces: Sequence[Surface], each: Sequence[Resizing]
    ) -> list[NDArray[np.uint8]]:
        """See ``photographs.Resizer``."""
        return [by_numpy(_pixels(s), how) for s, how in zip(surfaces, each, strict=True)]


def _pixels(surface: Surface) -> NDArray[np.uint8]:
    size = surface.height * surface.row_bytes
    memory = memoryview((ctypes.c_uint8 * size).from_address(surface.address))
    rows = np.frombuffer(memory, np.uint8).reshape(surface.height, surface.row_bytes)
    return rows[:, : surface.width * RGB_BYTES].reshape(surface.height, surface.width, RGB_BYTES)
