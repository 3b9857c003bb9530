"""The messages of an Arrow file: how many rows a batch has, and what pyarrow will expand.

A batch of 100 KB may announce buffers of 2 GiB. Source: Message.fbs of Arrow's format, as
flatbuffers: a table begins with the distance to its list of fields, a field with that to its value.
"""

import struct
from collections.abc import Iterator
from typing import Any

# Compressed images are about as long as they are; beyond both, it is an attack.
_BATCH_BYTES = 256 << 20
_EXPANSION = 100
# Fields of Message, DictionaryBatch and RecordBatch; kinds of messages.
_KIND, _HEADER = 1, 2
_DICTIONARY_DATA = 1
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3
_DICTIONARY, _BATCH = 2, 3
_BUFFER_BYTES = 16


def batch_rows(messages: Any) -> Iterator[int]:
    """Yield the rows of each batch of a stream.

    Args:
        messages: Of the stream, a ``pyarrow.ipc.MessageReader``.

    Raises:
        ValueError: A batch expands to more than is read, or a message is damaged.
    """
    for message in messages:
        table = _Table.root(message.metadata.to_pybytes())
        try:
            kind, header = table.number(_KIND, "<B"), table.table(_HEADER)
            if kind == _DICTIONARY:
                header = header and header.table(_DICTIONARY_DATA)
            if header is None or kind not in (_DICTIONARY, _BATCH):
                continue
            _check(header, memoryview(message.body))
            if kind == _BATCH:
                yield header.number(_LENGTH, "<q")
        except struct.error:
            raise ValueError("a message that is cut") from None


def _check(batch: "_Table", body: memoryview) -> None:
    """Refuse a batch whose compressed buffers expand to much more than they are."""
    if batch.table(_COMPRESSION) is None:
        return
    expanded_bytes = 0
    for offset, length in batch.buffers():
        if length >= 8:
            (size,) = struct.unpack_from("<q", body, offset)
            expanded_bytes += max(0, size)  # -1: this one is not compressed
    if expanded_bytes > max(_BATCH_BYTES, _EXPANSION * len(body)):
        raise ValueError(
            f"a batch of {expanded_bytes} bytes, expected at most {_EXPANSION} times its "
            f"{len(body)} bytes in the file"
        )


class _Table:
    """One table of flatbuffers; struct.error where it leads out of the bytes."""

    def __init__(self, content: bytes, place: int) -> None:
        self._content = content
        self._place = place

    @classmethod
    def root(cls, content: bytes) -> "_Table":
        """Return the table that a buffer begins with."""
        return cls(content, struct.unpack_from("<I", content)[0])

    def number(self, field: int, kind: str) -> int:
        """Return a number, 0 if it is not there."""
        place = self._field(field)
        return self._read(kind, place) if place else 0

    def table(self, field: int) -> "_Table | None":
        """Return a table within it."""
        place = self._field(field)
        return _Table(self._content, place + self._read("<I", place)) if place else None

    def buffers(self) -> Iterator[tuple[int, int]]:
        """Yield offset and length of each buffer of a RecordBatch."""
        place = self._field(_BUFFERS)
        if not place:
            return
        place += self._read("<I", place)
        for number in range(self._read("<I", place)):
            yield struct.unpack_from("<qq", self._content, place + 4 + number * _BUFFER_BYTES)

    def _field(self, number: int) -> int:
        """Return the place of a field, 0 if it is not there."""
        fields = self._place - self._read("<i", self._place)
        place = 4 + 2 * number
        if place >= self._read("<H", fields):
            return 0
        offset = self._read("<H", fields + place)
        return self._place + offset if offset else 0

    def _read(self, kind: str, place: int) -> int:
        if place < 0:  # struct would count it from the end
            raise struct.error
        value: int = struct.unpack_from(kind, self._content, place)[0]
        return value
