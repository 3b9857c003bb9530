"""From decoded pictures on the card to rows: the work of ``resize.cu``, and its twin in NumPy.

A ``Resizing`` says everything about one picture but where it lies: its tables of weights are those
of ``models.resample``, so rows are bit-equal to Pillow's. ``pack`` writes what the kernel reads,
``by_numpy`` computes the same sums in the same order without a card.

Layout legend: H height, W width, C channels (1 grey, 3 RGB).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.artifact import ImageSpec, OpenCVResize
from models.enlarge import PRECISION_BITS
from models.exif import turned
from models.geometry import place_of
from models.resample import Table, has_tables, is_down_first, table

KERNEL = Path(__file__).with_name("resize.cu")
RGB_BYTES = 3
_HALF = 1 << (PRECISION_BITS - 1)
# Members of the struct ``Picture`` of resize.cu.
_MEMBERS = 21


class Surface(NamedTuple):
    """A decoded picture: RGB, 3 bytes a pixel, as it is stored.

    Attributes:
        address: Of its first pixel, on the device.
        height: Rows of pixels.
        width: Columns of pixels.
        row_bytes: From a row to the next one.
        owner: Holds its memory.
    """

    address: int
    height: int
    width: int
    row_bytes: int
    owner: Any


class Resizing(NamedTuple):
    """How one picture becomes a row.

    Attributes:
        spec: Of the model.
        orientation: As EXIF has it, 1 to 8.
        down: Weights of the rows that are kept.
        across: Weights of the columns that are kept.
        is_down_first: Whether rows are mixed before columns.
        begin: First shown row that the first pass makes; first column where rows are first.
        rows: Rows between the passes.
        columns: Columns between the passes.
        top: Row of the model's input where the picture begins.
        left: Its column.
    """

    spec: ImageSpec
    orientation: int
    down: Table
    across: Table
    is_down_first: bool
    begin: int
    rows: int
    columns: int
    top: int
    left: int

    @property
    def middle_bytes(self) -> int:
        """Return the bytes between the passes."""
        return self.rows * self.columns * self.spec.channels

    @property
    def row_bytes(self) -> int:
        """Return the bytes of the row."""
        return math.prod(self.spec.shape_HWC)

    @property
    def control_bytes(self) -> int:
        """Return the bytes that the kernel reads beside the picture, at most: see ``pack``."""
        return _MEMBERS * 8 + sum(part.nbytes for part in (*self.down, *self.across))

    @property
    def work_bytes(self) -> int:
        """Return the bytes that the kernel needs on the device beside the picture."""
        return self.control_bytes + self.middle_bytes + self.row_bytes


def can_resize(spec: ImageSpec) -> bool:
    """Return whether the kernel has a model's geometry: Pillow's, and its weights are at hand."""
    return has_tables() and not isinstance(spec.resize, OpenCVResize)


def resizing(height: int, width: int, orientation: int, spec: ImageSpec) -> Resizing | None:
    """Return how a picture becomes a row; None: only the CPU can, it is a strip.

    Args:
        height: As it is stored.
        width: As it is stored.
        orientation: As EXIF has it, 1 to 8; 1 where the model applies none.
        spec: A spec that ``can_resize``.
    """
    source = (width, height) if orientation >= 5 else (height, width)
    place = place_of(source, spec)
    if place.is_strip:
        return None
    assert not isinstance(spec.resize, OpenCVResize), "can_resize was not asked; this is a bug"
    kind = None if spec.resize is None else spec.resize.filter
    down = table(source[0], place.size[0], place.rows, kind)
    across = table(source[1], place.size[1], place.columns, kind)
    is_rows_first = is_down_first(source, place.size)
    reach = across if is_rows_first else down
    begin = int(reach.first[0])
    kept = int(reach.first[-1] + reach.counts[-1]) - begin
    rows, columns = (len(down.first), kept) if is_rows_first else (kept, len(across.first))
    return Resizing(
        *(spec, orientation, down, across, is_rows_first, begin, rows, columns),
        *(place.top, place.left),
    )


def pack(
    surfaces: Sequence[Surface], each: Sequence[Resizing], control: int, middle: int, out: int
) -> tuple[bytes, list[int]]:
    """Return what the kernel reads, to be copied to the address ``control``.

    Args:
        surfaces: Pictures on the device.
        each: How they become rows.
        control: Device address that the bytes will have; a multiple of 8.
        middle: Device address for what is between the passes, ``middle_bytes`` each.
        out: Device address for the rows, one after the other.

    Returns:
        The pictures, then their tables, equal ones once; and the offset of each row from ``out``.
    """
    end = len(each) * _MEMBERS * 8
    pictures, tables, offsets, offset = [], [], [], 0
    placed: dict[int, int] = {}
    for surface, how in zip(surfaces, each, strict=True):
        down, across = how.down, how.across
        for axis in (down, across):
            if id(axis) not in placed:
                placed[id(axis)] = control + end
                tables += [part.tobytes() for part in axis]
                end += sum(part.nbytes for part in axis)
        height, width, channels = how.spec.shape_HWC
        colour = sum(value << 8 * at for at, value in enumerate(how.spec.crop.colour or ()))
        pictures.append(
            (
                *(*_steps(surface, how), middle, out + offset),
                *(placed[id(down)], placed[id(across)]),
                *(*down.weights.shape, *across.weights.shape, how.is_down_first),
                *(how.begin, how.rows, how.columns, channels),
                *(height, width, how.top, how.left, colour),
            )
        )
        middle += how.middle_bytes
        offsets.append(offset)
        offset += how.row_bytes
    return np.array(pictures, np.int64).tobytes() + b"".join(tables), offsets


def _steps(surface: Surface, how: Resizing) -> tuple[int, int, int]:
    """Return the address of the pixel shown first, and the bytes to the one below and beside it."""
    height, width = surface.height, surface.width
    down, right, address = surface.row_bytes, RGB_BYTES, surface.address
    if how.orientation >= 5:
        height, width, down, right = width, height, right, down
    if how.orientation in (3, 4, 7, 8):
        address, down = address + (height - 1) * down, -down
    if how.orientation in (2, 3, 6, 7):
        address, right = address + (width - 1) * right, -right
    return address, down, right


def by_numpy(stored_HWC: NDArray[np.uint8], how: Resizing) -> NDArray[np.uint8]:
    """Return the row of a picture: the kernel's arithmetic in NumPy.

    Args:
        stored_HWC: uint8 [H, W, 3], RGB, as it is stored.
        how: As ``resizing`` gives it.

    Returns:
        uint8 [H, W, C] of the model.
    """
    shown = turned(stored_HWC, how.orientation).astype(np.int32)
    if how.spec.channels == 1:
        shown = (shown @ np.array([19595, 38470, 7471], np.int32) + 0x8000 >> 16)[..., None]
    if how.is_down_first:
        middle = _mix(how.down, shown[:, how.begin : how.begin + how.columns], 0)
        kept = _mix(how.across, middle.swapaxes(0, 1), how.begin).swapaxes(0, 1)
    else:
        part = shown[how.begin : how.begin + how.rows]
        middle = _mix(how.across, part.swapaxes(0, 1), 0).swapaxes(0, 1)
        kept = _mix(how.down, middle, how.begin)
    row = np.empty(how.spec.shape_HWC, np.uint8)
    row[...] = how.spec.crop.colour or (0,) * how.spec.channels
    row[how.top : how.top + kept.shape[0], how.left : how.left + kept.shape[1]] = kept
    return row


def _mix(axis: Table, values: NDArray[np.int32], begin: int) -> NDArray[np.int32]:
    """Weigh values along their first axis, which starts at input ``begin``."""
    sums = np.full((len(axis.first), *values.shape[1:]), _HALF, np.int32)
    for tap in range(axis.weights.shape[1]):
        places = (axis.first + tap - begin).clip(max=len(values) - 1)  # where the weight is 0
        sums += values[places] * axis.weights[:, tap, None, None]
    mixed: NDArray[np.int32] = (sums >> PRECISION_BITS).clip(0, 255)
    return mixed
