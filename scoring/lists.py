"""Lists of paths as sources: a ``.txt`` with one on each line, or with NULs between them.

``find -print0`` writes NULs, as a path may hold anything else. Knows nothing about images.
"""

import io
from collections.abc import Iterator

from scoring.files import FileRow, FileSource, folder_of
from scoring.rows import Chunk, LostError, Row, ScoreError, chunked
from scoring.tables import file_of
from scoring.text_files import DAMAGED, LongLineError, open_text

ENDINGS = (".txt", ".lst", ".txt.gz")
# Longest path, in characters; Linux's own limit is 4096 bytes.
_PATH_CHARACTERS = 1 << 16
_BLOCK_CHARACTERS = 1 << 16


class ListSource(FileSource):
    """One row for each path of a list; relative ones begin at the list's folder.

    The name of an image's folder may be its true label.

    Args:
        path: A local path or a URL.

    Raises:
        ScoreError: It cannot be read.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        try:
            with open_text(path, "surrogateescape") as text:
                next(_paths(text), None)
        except LostError:
            raise
        except (*DAMAGED, LongLineError) as error:
            raise ScoreError(f"{path}: expected a list of paths, got: {error}") from None

    def count(self) -> int | None:
        """Return None: only reading the whole list would count its rows."""
        return None

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Stream rows ``start`` to ``stop``; damage becomes a last row with an error."""
        return chunked(self._rows(start, stop))

    def _rows(self, start: int, stop: int | None) -> Iterator[Row]:
        number = 0
        try:
            with open_text(self._path, "surrogateescape") as text:
                for path in _paths(text):
                    if stop is not None and number >= stop:
                        return
                    if number >= start:
                        image = file_of(self._path, path)
                        place = image.path if isinstance(image, FileRow) else path
                        yield Row(FileRow(path).id, image, folder_of(place))
                    number += 1
        except LostError:
            raise
        except (*DAMAGED, LongLineError) as error:
            if number >= start:
                yield Row(self.name, ScoreError(f"list: expected paths, got: {error}"))


def split_paths(content: bytes) -> list[bytes]:
    """Return the paths of a list: NULs are between them if there is one, else ends of lines."""
    if b"\0" in content:
        return list(filter(None, content.split(b"\0")))
    return list(filter(None, (line.removesuffix(b"\r") for line in content.split(b"\n"))))


def _paths(text: io.TextIOWrapper) -> Iterator[str]:
    rest = ""
    separator = ""
    while block := text.read(_BLOCK_CHARACTERS):
        separator = separator or ("\0" if "\0" in block else "\n")
        *paths, rest = (rest + block).split(separator)
        if max(map(len, (*paths, rest))) > _PATH_CHARACTERS:
            raise LongLineError(f"a path of more than {_PATH_CHARACTERS} characters")
        for path in paths:
            yield from _path(path, separator)
    yield from _path(rest, separator)


def _path(line: str, separator: str) -> Iterator[str]:
    """Yield the path on a line, unless it is empty."""
    path = line if separator == "\0" else line.removesuffix("\r")
    if path.strip():
        yield path
