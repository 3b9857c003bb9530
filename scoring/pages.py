"""The headers of a Parquet file's pages: what pyarrow will expand, known before it does.

A page of 200 KB may announce 2 GiB, and a dictionary of one value may repeat it for every row.
Source: parquet.thrift, PageHeader and FileMetaData, in Thrift's compact protocol.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

# A page of images is about as long as they are; beyond both, it is an attack.
_PAGE_BYTES = 256 << 20
_EXPANSION = 100
# The same for a page whose values may be repeated: pyarrow writes dictionaries of 1 MiB, or of its
# first thousand values.
_SHARED_BYTES = 2 << 20
# What pyarrow takes for a number in a list while it reads it: 4 bytes, and its two levels.
_LISTED_BYTES = 8
# Longest header of a page; statistics in it may quote values.
_HEADER_BYTES = 1 << 20
_PIECE_BYTES = 1 << 10
_DEPTH = 12

# Fields of PageHeader and of the headers within it; numbers of enumerations.
_TYPE, _UNCOMPRESSED, _COMPRESSED, _DATA, _DICTIONARY, _DATA_V2 = 1, 2, 3, 5, 7, 8
_DICTIONARY_PAGE = 2
# Of FileMetaData and what is in it.
_ROW_GROUPS, _COLUMNS, _COLUMN, _ROWS = 4, 1, 3, 3
_PATH, _CHUNK_BYTES, _DATA_OFFSET, _DICTIONARY_OFFSET = 3, 7, 9, 11
# A file ends with the length of its footer, 4 bytes, and its mark.
_TAIL_BYTES = 8
_DELTA_BYTE_ARRAY = 7


class _Page(NamedTuple):
    """A page: its bytes expanded and stored, its values, and whether a value may be all of it."""

    expanded_bytes: int
    stored_bytes: int
    values: int
    is_shared: bool


class Pages:
    """The pages of one Parquet file.

    Its footer is read here, too: pyarrow's own view of a column's chunk ends the process where the
    chunk's statistics are damaged.

    Args:
        file: The Parquet file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._groups: list[Any] | None = None

    def row_bytes(self, group: int, names: Sequence[str]) -> int:
        """Return what a row of a row group may take in memory.

        Args:
            group: Number of the row group.
            names: The columns to be read.

        Raises:
            ValueError: A page expands to more than is read, or a header or the footer is damaged.
        """
        if self._groups is None:
            self._groups = _list(_read_footer(self._file), _ROW_GROUPS)
        if group >= len(self._groups):
            raise ValueError(f"a footer of {len(self._groups)} row groups")
        total = 0
        for chunk in _list(self._groups[group], _COLUMNS):
            column = _inner(chunk, _COLUMN)
            path = _list(column, _PATH)
            if path and path[0] in [name.encode() for name in names]:
                rows = _int(self._groups[group], _ROWS)
                total += _row_bytes(list(_pages(self._file, column)), rows)
        return total


def _row_bytes(pages: Sequence[_Page], rows: int) -> int:
    """Return what a row of a column may take: a value, or all of a page if it is a list."""
    value_bytes = max(map(_value_bytes, pages), default=0)
    values = sum(page.values for page in pages)
    if values <= 2 * rows:  # a dictionary has as many values as there are rows, at most
        return value_bytes
    stored_bytes = sum(page.stored_bytes for page in pages)
    expanded_bytes = max(sum(page.expanded_bytes for page in pages), _LISTED_BYTES * values)
    if expanded_bytes > max(_PAGE_BYTES, _EXPANSION * stored_bytes):
        raise ValueError(
            f"lists of {values} values, expected at most {_EXPANSION} times their {stored_bytes} "
            "bytes in the file"
        )
    return max(page.expanded_bytes for page in pages)


def _value_bytes(page: _Page) -> int:
    free_bytes = _SHARED_BYTES if page.is_shared else _PAGE_BYTES
    if page.expanded_bytes > max(free_bytes, _EXPANSION * page.stored_bytes):
        raise ValueError(
            f"a page of {page.expanded_bytes} bytes, expected at most {_EXPANSION} times its "
            f"{page.stored_bytes} bytes in the file"
        )
    if page.is_shared and page.expanded_bytes > 2 * page.stored_bytes:
        return page.expanded_bytes  # it is no usual image: one value may be nearly all of it
    return page.expanded_bytes // max(1, page.values)


def _pages(file: BinaryIO, column: dict[int, Any]) -> Iterator[_Page]:
    place, dictionary = _int(column, _DATA_OFFSET), _int(column, _DICTIONARY_OFFSET)
    if 0 < dictionary < place:
        place = dictionary
    end = place + _int(column, _CHUNK_BYTES)
    while place < end:
        header, length = _read_header(file, place)
        stored_bytes = _int(header, _COMPRESSED)
        data, data_v2 = _inner(header, _DATA), _inner(header, _DATA_V2)
        is_dictionary = _int(header, _TYPE) == _DICTIONARY_PAGE
        is_shared = is_dictionary or _DELTA_BYTE_ARRAY in (data.get(2), data_v2.get(4))
        values = max(_int(each, 1) for each in (data, data_v2, _inner(header, _DICTIONARY)))
        yield _Page(_int(header, _UNCOMPRESSED), stored_bytes, values, is_shared)
        place += length + stored_bytes


def _int(fields: dict[int, Any], number: int) -> int:
    value = fields.get(number)
    return max(0, value) if isinstance(value, int) else 0


def _inner(fields: Any, number: int) -> dict[int, Any]:
    value = fields.get(number) if isinstance(fields, dict) else None
    return value if isinstance(value, dict) else {}


def _list(fields: Any, number: int) -> list[Any]:
    value = fields.get(number) if isinstance(fields, dict) else None
    return value if isinstance(value, list) else []


def _read_footer(file: BinaryIO) -> dict[int, Any]:
    """Return the fields of FileMetaData."""
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, size_bytes - _TAIL_BYTES))
    length = int.from_bytes(file.read(4), "little")
    if length > size_bytes - _TAIL_BYTES:
        raise ValueError(f"a footer of {length} bytes")
    file.seek(size_bytes - _TAIL_BYTES - length)
    try:
        return _Compact(file.read(length)).struct()
    except IndexError:
        raise ValueError("a footer that is cut") from None


def _read_header(file: BinaryIO, place: int) -> tuple[dict[int, Any], int]:
    """Return the fields of the header at a place, and its length."""
    size = _PIECE_BYTES
    while True:
        file.seek(place)
        compact = _Compact(file.read(size))
        try:
            return compact.struct(), compact.place
        except IndexError:
            if size >= _HEADER_BYTES:
                raise ValueError(f"a page's header of more than {size} bytes") from None
            size *= 32


class _Compact:
    """Values of Thrift's compact protocol; floating-point numbers stay bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.place = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Return the next struct, fields by number; raise IndexError at the end of the bytes."""
        if depth > _DEPTH:
            raise ValueError("a header that is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._number()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int, *, in_list: bool = False) -> Any:
        value: Any = None
        match kind:
            case 1 | 2:  # true, false: a byte only in a list
                value = self._byte() if in_list else kind == 1
            case 3:
                value = self._byte()
            case 4 | 5 | 6:
                value = self._number()
            case 7:
                self._skip(8)
            case 8:
                value = self._skip(self._varint())
            case 9 | 10:
                head = self._byte()
                size = head >> 4 if head >> 4 < 15 else self._varint()
                value = [self._value(head & 15, depth, in_list=True) for _ in range(size)]
            case 12:
                value = self.struct(depth + 1)
            case _:
                raise ValueError(f"a header with a field of type {kind}")
        return value

    def _byte(self) -> int:
        byte = self._content[self.place]
        self.place += 1
        return byte

    def _varint(self) -> int:
        value = shift = 0
        while shift < 64:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError("a header with a number that does not end")

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, size: int) -> bytes:
        begin, self.place = self.place, self.place + size
        if self.place > len(self._content):
            raise IndexError
        return self._content[begin : self.place]
