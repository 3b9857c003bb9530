"""Where the rows of each request lie in a recording: found without reading it again.

One process's own, in memory: 16 bytes a row. A shard is read once, and what was added to it since
at the next look; only headers and the beginning of each JSON, no image. Used on one thread.
"""

import os
import time
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from service.record.reading import entry_at, tars_of
from service.record.shards import BLOCK

Documents = dict[tuple[str, int], dict[str, Any]]

# Rows that are known at most: 32 MiB. Of a recording with more, only the newest shards are.
MOST_ROWS = 2_000_000
# Rows that are read before the thread rests as long: the event loop has the interpreter then.
_BURST = 2000
_ID = b'{"id":"'
# Read with a header: enough for an id behind it.
_AHEAD = 256


class Index:
    """The rows of a recording by the ids of their requests.

    Args:
        recording: Folder of shards.
        most_rows: Rows that are known at most, about; the newest shards first.
    """

    def __init__(self, recording: Path, most_rows: int = MOST_ROWS) -> None:
        self._recording = recording
        self._most_rows = most_rows
        self._shards: dict[Path, _Known] = {}

    def find(self, ids: Collection[str]) -> Documents:
        """Return what was answered to some requests: documents by id and row, the newest of each.

        The first call reads the headers of all shards, which may take seconds; blocks.

        Raises:
            RecordingError: There is no recording.
        """
        found: Documents = {}
        keys_N = np.array([hash(id_.encode()) for id_ in ids], np.int64)
        for path in reversed(self._look()):  # the oldest first: newer rows take their place
            for start in self._shards[path].find(keys_N):
                entry = entry_at(path, start)
                if entry is not None and entry.sample.id in ids:
                    found[entry.sample.id, entry.sample.row] = entry.sample.document
        return found

    def _look(self) -> list[Path]:
        """Read what was added since the last call; return the shards that are known, newest first.

        Raises:
            RecordingError: There is no recording.
        """
        before, self._shards = self._shards, {}
        rows = 0
        for path in reversed(tars_of(self._recording)):
            if rows >= self._most_rows:
                break
            known = before.get(path) or _Known()
            try:
                known.read_on(path)
            except OSError:  # the ring deleted it meanwhile, or it is another user's
                continue
            self._shards[path] = known
            rows += len(known.keys)
        return list(self._shards)


class _Known:
    """What is known of one shard: a key of each row's id, and where its first file begins."""

    def __init__(self) -> None:
        self.keys = array("q")
        self._starts = array("q")
        self._position = 0

    def find(self, keys_N: "np.ndarray[Any, np.dtype[np.int64]]") -> list[int]:
        """Return where rows may begin that have one of these keys, in the order of the file."""
        places = np.flatnonzero(np.isin(np.frombuffer(self.keys, np.int64), keys_N))
        return [self._starts[place] for place in places.tolist()]

    def read_on(self, path: Path) -> None:
        """Read what was written since the last call, to the last whole row."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if os.fstat(descriptor).st_size <= self._position:
                return
            began = time.monotonic()
            for start, end, id_ in _rows(descriptor, self._position):
                self.keys.append(hash(id_))
                self._starts.append(start)
                self._position = end
                if len(self.keys) % _BURST == 0:
                    time.sleep(time.monotonic() - began)
                    began = time.monotonic()
        finally:
            os.close(descriptor)


def _rows(descriptor: int, position: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield where each whole row begins and ends, and its id; what was erased has none.

    As ``reading.members_of``, which also reads tars that are not ours, in a tenth of the time.
    """
    size_bytes = os.fstat(descriptor).st_size
    start = position
    while True:
        head = os.pread(descriptor, BLOCK + _AHEAD, position)
        if len(head) < BLOCK or head[257:262] != b"ustar":
            return
        content = position + BLOCK
        try:
            size = int(head[124:135], 8)
        except ValueError:  # damaged: nothing behind it is found
            return
        position = content + -(-size // BLOCK) * BLOCK
        if content + size > size_bytes:
            return
        if head[156:157] != b"0":  # erased
            yield start, position, b""
            start = position
        elif head.find(b".json\0", 0, 101) > 0:
            yield start, position, _id_of(descriptor, head, content, size)
            start = position


def _id_of(descriptor: int, head: bytes, content: int, size: int) -> bytes:
    text = head[BLOCK : BLOCK + size]
    end = text.find(b'"', len(_ID))
    if text.startswith(_ID) and end > 0 and b"\\" not in text[:end]:
        return text[len(_ID) : end]
    try:
        return str(orjson.loads(os.pread(descriptor, size, content))["id"]).encode()
    except (ValueError, KeyError, TypeError):
        return b""
