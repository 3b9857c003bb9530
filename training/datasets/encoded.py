"""How encoded images become those of a dataset: decoded once, in threads, each into its place.

Every image goes through ``models.image.decode`` with the spec of the published model, so a pixel
means the same here and in the service. Images that are too many for memory are written to a file
that has no name and ends with the process; the system reads it back as batches need it. Legend:
N rows, H height, W width, C channels.
"""

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.artifact import Crop, ImageSpec, Mode, Resize, Side
from models.image import ImageError, decode, read_size
from models.machine import available_memory
from report.terminal import printable
from training.datasets.ahead import map_ahead
from training.datasets.listing import FOUND, Columns, Content, Listing
from training.errors import DatasetError

_LOG = logging.getLogger(__name__)

Rule = Literal["stretch", "crop", "pad"]

_SIDES: dict[Rule, Side] = {"stretch": "both", "crop": "shorter", "pad": "longer"}
# Decoded images stay in memory up to this size, and to this share of the memory.
_IN_MEMORY_BYTES = 1 << 30
_IN_MEMORY_SHARE = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """How encoded images of any size become those of a dataset.

    Attributes:
        size: (height, width) of the result; None for the size that all images have.
        grey: Whether images are read as grey.
        resize: ``stretch`` both sides, ``crop`` the centre, or ``pad`` with black.
        skip_unreadable: Leave out what cannot be decoded.
        folder: Where the file with the decoded images is made, if they are too many for memory;
            None for the system's folder of temporary files.
        memory_bytes: Size up to which they stay in memory; None chooses.
        columns: The columns of tables.
        own: How a pretrained network wants its pixels, in place of ``size`` and ``resize``; None:
            it does not say.
    """

    size: tuple[int, int] | None = None
    grey: bool = False
    resize: Rule = "stretch"
    skip_unreadable: bool = False
    folder: Path | None = None
    memory_bytes: int | None = None
    columns: Columns = FOUND
    own: ImageSpec | None = None

    @property
    def mode(self) -> Mode:
        """The mode of the images."""
        return "L" if self.grey else "RGB"


AS_THEY_ARE = Reading()


def image_spec(mode: Mode, height: int, width: int, resize: Rule = "stretch") -> ImageSpec:
    """Return the spec that brings files to a size, in training and in the published model.

    What is transparent is white, as pages show it: two files that look the same are the same.
    """
    return ImageSpec(
        mode,
        height,
        width,
        Resize(_SIDES[resize], "hamming"),
        Crop(),
        background=(255, 255, 255),
        scaled_decoding=True,
    )


def decode_rows(
    listing: Listing, order_N: NDArray[np.int64], reading: Reading
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Decode rows of a listing into one array.

    Args:
        listing: The dataset.
        order_N: int64 [N], the rows in the order of the result, at least one.
        reading: Size and mode of the result. Without a size all images must have that of the first.

    Returns:
        images_NHWC, uint8 [N, H, W, C], 0-255, and whether each could be decoded, bool [N]; zeros
        where not.

    Raises:
        DatasetError: Images have several sizes, or cannot be decoded; the log names each of them.
    """
    place = {int(row): at for at, row in enumerate(order_N)}
    wanted = None if len(place) == len(listing.rows) else place
    own = reading.own
    fixed = reading.size if own is None else (own.height, own.width)
    is_chosen = fixed is not None
    images_NHWC: NDArray[np.uint8] | None = None
    bad: dict[int, str] = {}
    contents = listing.read(wanted)
    first: list[tuple[int, Content]] = []
    if fixed is None:
        fixed = _first_size(contents, first)
    spec = own or image_spec(reading.mode, *(fixed or (1, 1)), reading.resize)

    def decoded(item: tuple[int, Content]) -> tuple[int, NDArray[np.uint8] | ImageError]:
        row, content = item
        try:
            any_size = fixed if is_chosen else None
            return row, _decode(content, spec, f"{listing.rows[row]}", any_size=any_size)
        except ImageError as error:
            return row, error

    for row, result in map_ahead(decoded, _chained(first, contents)):
        if isinstance(result, ImageError):
            bad[row] = str(result)
            continue
        if images_NHWC is None:
            images_NHWC = _allocate((len(order_N), *spec.shape_HWC), reading)
        images_NHWC[place[row]] = result
    _report(listing, bad, len(order_N), reading)
    if images_NHWC is None:
        raise DatasetError(f"{listing.where}: expected a readable image, got none")
    good_N = np.ones(len(order_N), np.bool_)
    good_N[[place[row] for row in bad]] = False
    return images_NHWC, good_N


def without_gaps(images_NHWC: NDArray[np.uint8], good_N: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Move the good rows together, in place; return those, as a view."""
    count = 0
    for row in np.flatnonzero(good_N):
        if row != count:
            images_NHWC[count] = images_NHWC[row]
        count += 1
    return images_NHWC[:count]


def _first_size(
    contents: Iterator[tuple[int, Content]], seen: list[tuple[int, Content]]
) -> tuple[int, int] | None:
    """Return (height, width) of the first image whose header can be read; keep what was read."""
    for item in contents:
        seen.append(item)
        if isinstance(item[1], bytes):
            try:
                width, height = read_size(item[1])
            except ImageError:
                continue
            return height, width
    return None


def _chained(
    first: list[tuple[int, Content]], rest: Iterator[tuple[int, Content]]
) -> Iterator[tuple[int, Content]]:
    while first:
        yield first.pop(0)  # not kept: an encoded image may be large
    yield from rest


def _decode(
    content: Content, spec: ImageSpec, where: str, any_size: tuple[int, int] | None
) -> NDArray[np.uint8]:
    if isinstance(content, ImageError):
        raise content
    assert isinstance(content, bytes), "datasets of arrays are not decoded; this is a bug"
    if any_size is None:
        width, height = read_size(content)
        if (height, width) != (spec.height, spec.width):
            raise DatasetError(
                f"{where}: expected {spec.width} x {spec.height} pixels like the first image, "
                f"got {width} x {height}; choose one size with --size"
            )
    return decode(content, spec)


def _allocate(shape: Sequence[int], reading: Reading) -> NDArray[np.uint8]:
    """Return an array of zeros: in memory, or in a file without a name if it is large.

    Raises:
        DatasetError: The disk has no room for it.
    """
    size_bytes = int(np.prod(shape))
    most_bytes = reading.memory_bytes
    if most_bytes is None:
        most_bytes = min(_IN_MEMORY_BYTES, available_memory() // _IN_MEMORY_SHARE)
    if size_bytes <= most_bytes:
        return np.zeros(shape, np.uint8)
    folder = reading.folder or Path(tempfile.gettempdir())
    _LOG.info(
        "decoding %d images into a file in %s, %.1f GiB", shape[0], folder, size_bytes / 2**30
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            # A full disk is an error here; while pixels are written it would end the process.
            os.posix_fallocate(file.fileno(), 0, size_bytes)
            return np.memmap(file, np.uint8, "r+", shape=tuple(shape))
    except OSError as error:
        raise DatasetError(
            f"{folder}: expected {size_bytes / 2**30:.1f} GiB for {shape[0]} decoded images, got "
            f"{error.strerror}; free disk space, or choose another folder with --run"
        ) from error


def _report(listing: Listing, bad: dict[int, str], total: int, reading: Reading) -> None:
    """Log every image that cannot be decoded.

    Raises:
        DatasetError: There are some, and they are not to be skipped.
    """
    if not bad:
        return
    lines = [f"{listing.rows[row]}: {reason}" for row, reason in sorted(bad.items())]
    if not reading.skip_unreadable and len(bad) == 1:
        raise DatasetError(f"{lines[0]}; leave it out with --skip-unreadable")
    for line in lines:
        _LOG.warning("%s", printable(line))
    if not reading.skip_unreadable:
        raise DatasetError(
            f"{listing.where}: expected readable images, got {len(bad)} of {total} that are not "
            f"(logged above); mend them, or leave them out with --skip-unreadable"
        )
    _LOG.warning("%s: left out %d unreadable images of %d", listing.where, len(bad), total)
