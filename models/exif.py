"""The orientation in EXIF: how the stored rows of a picture are turned before it is shown.

Layout legend: H height, W width, C channels.
"""

import struct

import numpy as np
from numpy.typing import NDArray

_ORIENTATION = 0x0112
# TIFF's types SHORT and LONG.
_FORMATS = {3: "H", 4: "I"}


def read_orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, from the block that EXIF is: a small TIFF file.

    1 is upright, and what anything else that is no orientation counts as.
    """
    if exif[:6] == b"Exif\0\0":
        exif = exif[6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        first = struct.unpack_from(order + "I", exif, 4)[0]
        count = struct.unpack_from(order + "H", exif, first)[0]
        entries = exif[first + 2 : first + 2 + 12 * count]
        for tag, kind, values, value in struct.iter_unpack(
            order + "HHI4s", entries[: len(entries) // 12 * 12]
        ):
            if tag == _ORIENTATION and values == 1 and kind in _FORMATS:
                orientation = int(struct.unpack_from(order + _FORMATS[kind], value)[0])
                return orientation if 1 <= orientation <= 8 else 1
    except struct.error:
        pass
    return 1


def turned(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return a view of stored pixels, [H, W] or [H, W, C], as they are shown."""
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        stored = stored[::-1]
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    return stored
