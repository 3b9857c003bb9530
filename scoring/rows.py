"""What the read stage hands on: rows in chunks, and what a source of rows is.

Knows nothing about models. A row that cannot be read is a row with an error, never an exception.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

# Rows that are read, decoded and run together at most: the service's largest batch.
CHUNK_ROWS = 64
# A chunk is closed early when its encoded images take this much: 64 photographs of 5 MiB, several
# chunks at once, would not be bounded memory.
CHUNK_BYTES = 8 << 20


class ScoreError(ValueError):
    """A source, a sink or a job is not what it should be; the message says where, expected, got."""


class Unread(Protocol):
    """An image that the decode stage reads itself, so that reading is done on many threads."""

    def read(self) -> bytes:
        """Return the encoded image; raise ScoreError if there is none to be had."""


# Encoded bytes, something that reads them, or why there is nothing to decode.
Image = bytes | Unread | ScoreError
# The true label's text or index; None where there is none.
Truth = str | int | None


class Row(NamedTuple):
    """One row of a source.

    Attributes:
        id: Unique within the source unless the source says otherwise.
        image: What to decode.
        truth: Its true label.
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
        ids: One a row.
        images: One a row; or uint8 [N, H, W] or [N, H, W, C], pixels that are decoded already.
        truths: One a row, or none at all.
        kept: One a row, or none at all.
        is_declared: Whether the truths come from a label column and not from a folder's name; only
            then is a text of digits that is no label taken for an index.
    """

    ids: list[str]
    images: list[Image] | NDArray[np.uint8]
    truths: list[Truth] = field(default_factory=list)
    kept: list[tuple[Any, ...]] = field(default_factory=list)
    is_declared: bool = False


class Pin(TypedDict):
    """What a source was when a job began, so that a change is noticed."""

    source: str
    files: int
    sha256: str


class Source(Protocol):
    """Rows in an order that never changes; picklable, so that another process can read it."""

    @property
    def name(self) -> str:
        """Return how errors call it."""

    def count(self) -> int | None:
        """Return how many rows there are, None if only reading it all would tell."""

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Stream rows ``start`` to ``stop``."""

    def cut(self, start: int, stop: int) -> "Source":
        """Return a source that holds no more than these rows need; their numbers stay."""

    def kinds(self) -> dict[str, str]:
        """Return the kept columns it has, and the type of each: int64, double, bool or string."""

    def pin(self) -> Pin:
        """Return its size and date in one digest."""


def chunked(rows: Iterable[Row], *, is_declared: bool = False) -> Iterator[Chunk]:
    """Collect rows to chunks of at most ``CHUNK_ROWS`` rows and about ``CHUNK_BYTES`` bytes.

    Where a chunk ends depends on the rows since the last one alone, so a job that goes on after a
    chunk makes the same chunks as one that was never stopped.
    """
    waiting: list[Row] = []
    held_bytes = 0
    for row in rows:
        waiting.append(row)
        held_bytes += len(row.image) if isinstance(row.image, bytes) else 0
        if len(waiting) == CHUNK_ROWS or held_bytes >= CHUNK_BYTES:
            yield _chunk(waiting, is_declared)
            waiting, held_bytes = [], 0
    if waiting:
        yield _chunk(waiting, is_declared)


def _chunk(rows: list[Row], is_declared: bool) -> Chunk:
    ids, images, truths, kept = (list(column) for column in zip(*rows, strict=True))
    return Chunk(ids, images, truths, kept if kept[0] else [], is_declared)
