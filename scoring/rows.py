"""Rows, chunks of rows, and the protocol of a source of rows.

Knows nothing about models. A row that cannot be read is a row with an error, never an exception.
"""

import math
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import NDArray

# Most rows that are read, decoded and run together: the service's largest batch.
CHUNK_ROWS = 64
# A chunk ends early when its encoded images take this much: 64 photographs of 5 MiB, in several
# chunks at once, would need too much memory.
CHUNK_BYTES = 8 << 20


class ScoreError(ValueError):
    """A source, an output or a job is invalid; the message names where, expected and got."""


class LostError(ScoreError, OSError):
    """A service that holds sources is gone: the job ends, and can go on later without a loss."""


class Unread(Protocol):
    """An image that the decode stage reads itself, so that many threads share the reading."""

    def read(self) -> bytes:
        """Return the encoded image; raise ScoreError if it cannot be read."""


# Encoded bytes, something that reads them, or the reason why there are none.
Image = bytes | Unread | ScoreError
# Text or index of the true label, or of all true labels of an image; None if unknown.
Label = str | int | None
Truth = Label | tuple[Label, ...]


class Row(NamedTuple):
    """One row of a source.

    Attributes:
        id: Unique within the source, unless a table's own id column is not.
        image: What to decode.
        truth: True label, or labels.
        kept: Values of the columns that ``--keep`` names, in that order.
    """

    id: str
    image: Image
    truth: Truth = None
    kept: tuple[Any, ...] = ()


@dataclass(slots=True)
class Chunk:
    """Rows that go through the stages together.

    Attributes:
        ids: One for each row.
        images: One for each row; or decoded pixels, uint8 [N, H, W] or [N, H, W, C].
        truths: One for each row, or empty.
        kept: One for each row, or empty.
        is_declared: Whether the truths come from a label column instead of a folder's name; only
            then are digits that are not a label read as an index.
        place: Number of the source, and of the first row in it.
    """

    ids: list[str]
    images: list[Image] | NDArray[np.uint8]
    truths: list[Truth] = field(default_factory=list)
    kept: list[tuple[Any, ...]] = field(default_factory=list)
    is_declared: bool = False
    place: tuple[int, int] = (0, 0)

    @property
    def text_bytes(self) -> int:
        """Return about how much memory its ids and kept values take."""
        return text_bytes(self.ids, self.kept)

    @property
    def image_bytes(self) -> int:
        """Return how much memory its images take; those that are not read yet take none."""
        if isinstance(self.images, np.ndarray):
            return self.images.nbytes
        return sum(len(image) for image in self.images if isinstance(image, Sized))


class Pin(TypedDict):
    """Identity of a source when a job begins, to detect a change before it resumes."""

    source: str
    files: int
    sha256: str


class Source(Protocol):
    """Rows in an order that never changes; picklable, to be read in another process."""

    @property
    def name(self) -> str:
        """Return its name in error messages."""

    def count(self) -> int | None:
        """Return the number of rows, None if that needs reading all of it."""

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Stream rows ``start`` to ``stop``."""

    def cut(self, start: int, stop: int) -> "Source":
        """Return a source reduced to what these rows need; their numbers stay."""

    def kinds(self) -> dict[str, str]:
        """Return the kept columns that it has, with their types: int64, double, bool or string."""

    def pin(self) -> Pin:
        """Return a digest of its size and date."""


@runtime_checkable
class Noted(Protocol):
    """A source that guesses how it is to be read, and says so."""

    def notes(self) -> list[str]:
        """Return a line for each guess that is not the usual one."""


def label_of(value: object) -> Label:
    """Return a cell of a label column as a label: text or a whole number, None if it has none.

    A float that is whole is a whole number: pandas makes floats of a column where a label is
    missing.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if value.is_integer():
            return int(value)
        return None if math.isnan(value) else str(value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def text_bytes(ids: list[str], kept: list[tuple[Any, ...]]) -> int:
    """Return about how much memory ids and kept values take."""
    values = (value for row in kept for value in row)
    return sum(map(len, ids)) + sum(len(v) for v in values if isinstance(v, str | bytes))


def chunked(rows: Iterable[Row], *, is_declared: bool = False) -> Iterator[Chunk]:
    """Collect rows into chunks of at most ``CHUNK_ROWS`` rows and about ``CHUNK_BYTES`` bytes.

    The end of a chunk depends only on the rows since the last one: a job that resumes after a chunk
    makes the same chunks as a job that was never stopped.
    """
    waiting: list[Row] = []
    held_bytes = 0
    for row in rows:
        waiting.append(row)
        held_bytes += len(row.image) if isinstance(row.image, Sized) else 0
        held_bytes += text_bytes([row.id], [row.kept])
        if len(waiting) == CHUNK_ROWS or held_bytes >= CHUNK_BYTES:
            yield _chunk(waiting, is_declared)
            waiting, held_bytes = [], 0
    if waiting:
        yield _chunk(waiting, is_declared)


def _chunk(rows: list[Row], is_declared: bool) -> Chunk:
    ids, images, truths, kept = (list(column) for column in zip(*rows, strict=True))
    return Chunk(ids, images, truths, kept if kept[0] else [], is_declared)
