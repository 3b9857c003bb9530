"""Photographs decoded by the card: encoded JPEGs to rows, in batches, equal to the CPU's.

    scan on any thread -> ticket -> batch -> decoder -> kernel -> rows in host memory

A JPEG gets a ticket if the scan finds nothing in it that decoders take in different ways, and if
its kind was decoded bit-equally on this card when the process started; else a reason why the CPU
decodes it. A row that the card does not give is the CPU's, too. So the card never changes an
answer. Knows no queue and no model but by its ``ImageSpec``.
"""

import logging
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models import jpeg
from models.artifact import Crop, ImageSpec, Resize
from models.image import decode as decode_on_cpu
from models.jpeg_scan import Scan, can_scan, scan
from service.session.gpu.golden_jpegs import golden_jpegs
from service.session.gpu.resize import RGB_BYTES, Resizing, Surface, can_resize, resizing

logger = logging.getLogger("foveal.photographs")

Pixels = NDArray[np.uint8]

# Images in a batch: the rate of an H100's JPEG hardware hardly rises after it (8,903 images/s at
# 16, 10,799 at 64). A worker's batches are no larger, so none waits for long.
MOST_IMAGES = 64
# Decoded pictures of a batch, bytes on the card. A larger image is the CPU's.
MOST_BYTES = 192 << 20
# The kernel works in a third of that at most: a photograph takes a twentieth to a half of its own
# bytes, a narrow one that is widened many times as much.
WORK = 3
# Failed batches in a row after which the card is left alone: a fault that stays costs no more.
_MOST_FAILURES = 3


class CardError(RuntimeError):
    """The card's decoder is missing or failed; the message says why."""


class Decoder(Protocol):
    """Decodes JPEGs into memory of the device."""

    def decode(self, encoded: Sequence[bytes]) -> list[Surface | None]:
        """Return the picture of each file, None for those that it does not decode.

        Raises:
            Exception: None was decoded.
        """


class Resizer(Protocol):
    """Makes rows of decoded pictures, by the arithmetic of ``resize.cu``."""

    def resize(self, surfaces: Sequence[Surface], each: Sequence[Resizing]) -> list[Pixels]:
        """Return a row for each picture, in memory of the host that nothing else writes.

        Raises:
            Exception: There are no rows.
        """


class Ticket(NamedTuple):
    """A JPEG that the card may decode.

    Attributes:
        encoded: The file.
        how: How it becomes a row.
        pixels: Pixels that are decoded.
    """

    encoded: bytes
    how: Resizing
    pixels: int

    @property
    def size(self) -> int:
        """Return its bytes of a batch's bound: the picture's, or ``WORK`` times the kernel's."""
        return max(self.pixels * RGB_BYTES, self.how.work_bytes * WORK)


class Photographs:
    """The decoder of one card and what it decodes as the CPU does.

    Args:
        decoder: Decodes.
        resizer: Makes rows.
        most_bytes: Most bytes of a batch, by ``Ticket.size``.
        lock: Held while a batch is decoded; None: one of its own.

    Attributes:
        kinds: Kinds of JPEG that it decodes, as ``420`` or ``420 restarts``.
        most_bytes: As above.

    Raises:
        CardError: It decodes nothing, or nothing equally.
    """

    def __init__(
        self,
        decoder: Decoder,
        resizer: Resizer,
        most_bytes: int = MOST_BYTES,
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.most_bytes = most_bytes
        if not can_scan():
            raise CardError("expected the compiled scan of JPEGs, got none; install a C compiler")
        self._decoder = decoder
        self._resizer = resizer
        self._failures = 0
        self._lock = lock or threading.Lock()
        self.kinds: frozenset[str] = frozenset()
        self.kinds = self._check()
        if not self.kinds:
            raise CardError("expected the CPU's pixels of the golden JPEGs, got others or none")

    @property
    def is_off(self) -> bool:
        """Whether it failed too often to be asked again."""
        return self._failures >= _MOST_FAILURES

    def of(self, spec: ImageSpec) -> "Card | None":
        """Return the card for a model; None: it cannot do the model's geometry."""
        return Card(self, spec) if can_resize(spec) else None

    def rows(self, tickets: Sequence[Ticket]) -> list[Pixels | None]:
        """Decode a batch, on one thread at a time.

        Args:
            tickets: At most ``MOST_IMAGES``, of at most ``most_bytes`` together.

        Returns:
            For each uint8 [H, W, C] of its model; None: the CPU has to decode it. Never raises.
        """
        with self._lock:
            try:
                rows = self._rows(tickets)
            except Exception as error:
                self._failures += 1
                off = ", so no JPEG goes there any more" if self.is_off else ""
                logger.warning(
                    "decoding %d JPEGs on the GPU failed%s: %s", len(tickets), off, error
                )
                return [None] * len(tickets)
            self._failures = 0
            return rows

    def _rows(self, tickets: Sequence[Ticket]) -> list[Pixels | None]:
        surfaces = self._decoder.decode([ticket.encoded for ticket in tickets])
        if len(surfaces) != len(tickets):
            raise CardError(f"expected {len(tickets)} pictures, got {len(surfaces)}")
        taken, whole = [], []
        for at, (ticket, surface) in enumerate(zip(tickets, surfaces, strict=True)):
            if surface is not None and surface.height * surface.width == ticket.pixels:
                taken.append(at)
                whole.append(surface)
        rows: list[Pixels | None] = [None] * len(tickets)
        if taken:
            made = self._resizer.resize(whole, [tickets[at].how for at in taken])
            for at, row in zip(taken, made, strict=True):
                rows[at] = row
        return rows

    def _check(self) -> frozenset[str]:
        """Compare the card's pixels with the CPU's; return the kinds that are equal.

        Raises:
            CardError: It decodes nothing.
        """
        decoded: set[str] = set()
        wrong: set[str] = set()
        cases = [
            (kind, encoded, spec) for kind, encoded in golden_jpegs() for spec in _specs(encoded)
        ]
        for first in range(0, len(cases), MOST_IMAGES):
            some = cases[first : first + MOST_IMAGES]
            tickets = [_ticket(encoded, spec) for _, encoded, spec in some]
            rows = self._rows(tickets)  # raises, where ``rows`` would only log
            for (kind, encoded, spec), row in zip(some, rows, strict=True):
                if row is not None:
                    decoded.add(kind)
                    if not np.array_equal(row, decode_on_cpu(encoded, spec)):
                        wrong.add(kind)
        if not decoded:
            raise CardError("expected a picture of a golden JPEG, got none")
        if wrong:
            logger.warning(
                "JPEGs that the GPU decodes otherwise stay on the CPU: %s", sorted(wrong)
            )
        return frozenset(decoded - wrong)


class Card:
    """The card for one model.

    Args:
        photographs: The card's decoder.
        spec: The model's image.
    """

    def __init__(self, photographs: Photographs, spec: ImageSpec) -> None:
        self._photographs = photographs
        self._spec = spec
        self.most_bytes = photographs.most_bytes

    most_images = MOST_IMAGES

    @property
    def kinds(self) -> frozenset[str]:
        """Return the kinds of JPEG that it decodes."""
        return self._photographs.kinds

    def ticket(self, encoded: bytes) -> Ticket | str:
        """Return a ticket for an image whose pixels the caller has found few enough.

        Holds the interpreter's lock only for moments.

        Returns:
            The ticket, or why the CPU decodes it: one word.
        """
        if not encoded.startswith(b"\xff\xd8\xff"):
            return "format"
        if self._photographs.is_off:
            return "off"
        found = scan(encoded)
        why = found.reason or self._why_not(found)
        if why:
            return why
        orientation = found.orientation if self._spec.exif else 1
        how = resizing(found.height, found.width, orientation, self._spec)
        if how is None:
            return "strip"
        ticket = Ticket(encoded, how, found.width * found.height)
        return "size" if ticket.size > self.most_bytes else ticket

    def _why_not(self, found: Scan) -> str:
        if kind_of(found.sampling, has_restarts=found.has_restarts) not in self.kinds:
            return "kind"
        size = found.width, found.height
        if jpeg.scaled_size(*size, self._spec.least_decoded) != size:
            return "scaled"
        return "size" if found.width * found.height * RGB_BYTES > self.most_bytes else ""

    def rows(self, tickets: Sequence[Ticket]) -> list[Pixels | None]:
        """Decode a batch; see ``Photographs``. Tickets may be of several models of this card."""
        return self._photographs.rows(tickets)


def kind_of(sampling: str, *, has_restarts: bool) -> str:
    """Return the name of a kind of JPEG."""
    return f"{sampling} restarts" if has_restarts else sampling


def _specs(encoded: bytes) -> list[ImageSpec]:
    """Return the image at its own size; of larger ones, also resized with a crop, and grey."""
    width, height = jpeg.read_size(encoded)
    specs = [ImageSpec("RGB", height, width, None)]
    if min(width, height) > 64:
        specs.append(ImageSpec("RGB", 48, 48, Resize("shorter", "bicubic", 56, 56)))
        specs.append(ImageSpec("L", 48, 48, Resize("longer", "bilinear"), Crop((9,))))
    return specs


def _ticket(encoded: bytes, spec: ImageSpec) -> Ticket:
    found = scan(encoded)
    assert not found.reason, "golden JPEGs pass the scan; this is a bug"
    how = resizing(found.height, found.width, found.orientation, spec)
    assert how is not None, "golden JPEGs are no strips; this is a bug"
    return Ticket(encoded, how, found.width * found.height)
