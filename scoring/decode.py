"""The decode stage: the images of a chunk become rows, by this thread or by a card.

    image -> size -> ticket -> batch on the card -> row
                  -> none, or refused: this thread -> row

A card decodes what it decodes for the service, and leaves what it leaves there: no answer depends
on it. Knows no source and no output.

Layout legend: N rows, H height, W width, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.image import (
    MAX_PIXELS,
    ImageError,
    Pixels,
    TooManyPixelsError,
    decoding_of,
    encode_png,
    work,
)
from scoring.local import LocalModel
from scoring.marks import Marks, decode_alone
from scoring.rows import CHUNK_BYTES, Chunk, Image, LostError, ScoreError
from service.pipeline.card_lane import Card
from service.pipeline.decode import INLINE_PIXELS

# An error may quote what a file holds, such as a name of 64 KiB in a zip.
_ERROR_CHARACTERS = 1000


@dataclass(slots=True)
class Decoded:
    """The rows of a chunk.

    Attributes:
        pixels_NHWC: uint8 [N, H, W, C] of the good rows, 0-255.
        good_N: Number in the chunk of each.
        errors: Number of each other row to its error.
        damaged: Number of a row to what the decoder says of damage that it went on after.
        by_card: Rows that a card decoded.
    """

    pixels_NHWC: Pixels
    good_N: NDArray[np.intp]
    errors: dict[int, str] = field(default_factory=dict)
    damaged: dict[int, str] = field(default_factory=dict)
    by_card: int = 0


class Decoder:
    """Decodes chunks for one model; may be called from several threads at once.

    Args:
        model: The model.
        strict: Whether damage that the decoder goes on after is an error.
        max_pixels: Most pixels of an image, as it is decoded.
        marks: Where each row is noted while it is decoded; None: nowhere.
    """

    def __init__(
        self,
        model: LocalModel,
        *,
        strict: bool = False,
        max_pixels: int = MAX_PIXELS,
        marks: Marks | None = None,
    ) -> None:
        self._model = model
        self._strict = strict
        self._max_pixels = max_pixels
        self._marks = marks
        self._decoding = decoding_of(model.artifact.image)

    def __call__(self, chunk: Chunk) -> Decoded:
        """Decode a chunk.

        Raises:
            LostError: A service that holds the images is gone.
        """
        shape_HWC = self._model.artifact.image.shape_HWC
        if isinstance(chunk.images, np.ndarray):
            pixels = chunk.images if chunk.images.ndim == 4 else chunk.images[..., None]
            if pixels.shape[1:] == shape_HWC:
                return Decoded(pixels, np.arange(len(pixels)))
            # Lossless: the result is the service's for the same picture sent as a PNG.
            images: list[Image] = [encode_png(image_HWC) for image_HWC in pixels]
        else:
            images = chunk.images
        rows = Decoded(np.empty((len(images), *shape_HWC), np.uint8), np.empty(0, np.intp))
        card = self._model.card
        if self._marks is not None and self._marks.suspects(*chunk.place, len(images)):
            card = None  # its whole batch may have been the reason
        batch = _Batch(card) if card is not None else None
        for number, image in enumerate(images):
            self._decode(number, image, chunk, rows, batch)
        if batch is not None:
            self._empty(batch, chunk, rows)
        if self._marks is not None:
            self._marks.end()
        if rows.errors:
            rows.errors = dict(sorted(rows.errors.items()))
            good = [number for number in range(len(images)) if number not in rows.errors]
            rows.good_N = np.array(good, np.intp)
            rows.pixels_NHWC = rows.pixels_NHWC[rows.good_N]
        else:
            rows.good_N = np.arange(len(images))
        return rows

    def _decode(
        self, number: int, image: Image, chunk: Chunk, rows: Decoded, batch: "_Batch | None"
    ) -> None:
        """Decode an image, or let it wait for the card."""
        source, first = chunk.place
        is_trusted = self._marks is None or self._marks.begin(source, first + number)
        on_damage: Callable[[str], None] = partial(rows.damaged.__setitem__, number)
        row = self._decode_row(
            image, on_damage, batch if is_trusted else None, is_trusted=is_trusted
        )
        if isinstance(row, tuple):
            assert batch is not None, "tickets are a card's; this is a bug"
            if batch.is_full_with(*row):
                self._empty(batch, chunk, rows)
            batch.put(number, *row)
            return
        if self._strict and number in rows.damaged:
            row = f"image: expected a JPEG without damage, got: {rows.damaged.pop(number)}"
        if isinstance(row, str):
            is_short = len(row) <= _ERROR_CHARACTERS
            rows.errors[number] = row if is_short else f"{row[:_ERROR_CHARACTERS]}…"
        else:
            rows.pixels_NHWC[number] = row

    def _empty(self, batch: "_Batch", chunk: Chunk, rows: Decoded) -> None:
        """Decode what waits for the card; what it leaves is this thread's."""
        waiting, made = batch.take()
        for (number, encoded), row in zip(waiting, made, strict=True):
            if row is None:
                self._decode(number, encoded, chunk, rows, None)
            else:
                rows.pixels_NHWC[number] = row
                rows.by_card += 1

    def _decode_row(
        self,
        image: Image,
        on_damage: Callable[[str], None],
        batch: "_Batch | None",
        *,
        is_trusted: bool,
    ) -> Pixels | str | tuple[bytes, Any]:
        """Return a row, or its error, or the file and its ticket for the card."""
        if isinstance(image, ScoreError):
            return str(image)
        try:
            encoded = image if isinstance(image, bytes) else image.read()
            if not is_trusted:
                return decode_alone(encoded, self._model.artifact.image, self._max_pixels)
            ticket = self._ask(batch.card, encoded) if batch is not None else ""
            if not isinstance(ticket, str):
                return encoded, ticket
            return self._model.decode(encoded, on_damage, self._max_pixels)
        except LostError:
            raise
        except Exception as error:
            return _as_error(error)

    def _ask(self, card: Card, encoded: bytes) -> Any:
        """Return a ticket for the card, or a word: why the CPU decodes it; raises as decoding."""
        # As the service does: of a small one the card would only take longer.
        if work(encoded, self._decoding, self._max_pixels) <= INLINE_PIXELS:
            return "small"
        return card.ticket(encoded)


def _as_error(error: Exception) -> str:
    """Return the error of a row; a decoder's bug is not the end of the job."""
    if isinstance(error, TooManyPixelsError):
        return f"{error}; raise --max-image-pixels"
    if isinstance(error, ImageError | ScoreError):
        return str(error)
    return f"image: could not be decoded: {type(error).__name__}"


class _Batch:
    """The images of a chunk that wait for the card, within its bounds and a chunk's bytes."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self._begin()

    def _begin(self) -> None:
        self._waiting: list[tuple[int, bytes]] = []
        self._tickets: list[Any] = []
        self._size = self._bytes = 0

    def is_full_with(self, encoded: bytes, ticket: Any) -> bool:
        """Return whether what waits must be decoded before another image joins."""
        return bool(self._tickets) and (
            len(self._tickets) == self.card.most_images
            or self._size + ticket.size > self.card.most_bytes
            or self._bytes + len(encoded) > CHUNK_BYTES
        )

    def put(self, number: int, encoded: bytes, ticket: Any) -> None:
        """Let an image wait."""
        self._waiting.append((number, encoded))
        self._tickets.append(ticket)
        self._size += ticket.size
        self._bytes += len(encoded)

    def take(self) -> tuple[list[tuple[int, bytes]], list[Pixels | None]]:
        """Decode all that wait; return number and file of each, and its row or None."""
        waiting, tickets = self._waiting, self._tickets
        self._begin()
        return waiting, self.card.rows(tickets) if tickets else []
