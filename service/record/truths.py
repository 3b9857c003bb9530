"""What is known to be true of recorded rows: a line of JSON each, in the recording's folder.

``{"id": …, "row": 0, "index": 3}``, or ``"label"`` in the place of ``"index"``; of a multi-label
model ``"indexes"`` or ``"labels"``; and ``"time"``, when it was told, seconds since 1970. Lines of
one row replace earlier ones. As of the shards, the oldest go where there are too many.
"""

import contextlib
import csv
import fcntl
import os
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from service.record.reading import RecordingError
from service.record.shards import make_folder

TRUTHS = "truths.jsonl"
# Of a row: an index, a label, or all of several.
Truth = int | str | tuple[int | str, ...]
Truths = dict[tuple[str, int], Truth]
# So many ids are looked for in a line before it is parsed.
_FEW = 8
# Lines that are too old go together, not one by one.
_LATE_S = 3600.0
_NAMES = ("index", "label", "indexes", "labels")


def add_truths(folder: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append lines; several processes may do so at once.

    Raises:
        OSError: The folder cannot be written.
    """
    make_folder(folder)
    told = {"time": int(time.time())}
    text = b"".join(orjson.dumps({**line, **told}) + b"\n" for line in lines)
    with _locked(folder / TRUTHS) as descriptor:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        view = memoryview(text)
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError:
            os.ftruncate(descriptor, end)  # half a line would spoil the next one
            raise


def read_truths(recording: Path, ids: Collection[str] | None = None) -> Truths:
    """Return the truths that a recording has; one tar has none.

    Args:
        recording: Its folder.
        ids: Only those of these requests; None: all.

    Raises:
        RecordingError: They cannot be read.
    """
    path = recording / TRUTHS
    truths: Truths = {}
    quoted = None if ids is None or len(ids) > _FEW else tuple(map(orjson.dumps, ids))
    try:
        with path.open("rb") as file:
            for line in file:
                if quoted is not None and not any(id_ in line for id_ in quoted):
                    continue
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a cut line
                    document = orjson.loads(line)
                    key = str(document["id"]), int(document.get("row", 0))
                    if ids is not None and key[0] not in ids:
                        continue
                    truth = next(document[name] for name in _NAMES if name in document)
                    truths[key] = tuple(truth) if isinstance(truth, list) else truth
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise RecordingError(f"{path}: expected to read it, got {error.strerror}") from None
    return truths


def read_labels(path: Path) -> Truths:
    """Return the truths of a CSV with the columns id, label or index, and row if it has one.

    Raises:
        RecordingError: It cannot be read, or lacks a column.
    """
    truths: Truths = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or ()
            if "id" not in names or not {"label", "index"} & set(names):
                raise RecordingError(
                    f"{path}: expected the columns id and label (or index), got "
                    f"{', '.join(names) or 'none'}"
                )
            for line in reader:
                key = line["id"], int(line.get("row") or 0)
                truths[key] = int(line["index"]) if line.get("index") else line["label"]
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, RecordingError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise RecordingError(f"{path}: expected a CSV of id and label, got {reason}") from None
    return truths


def erase_truths(folder: Path, ids: Collection[str]) -> None:
    """Drop the lines of some requests."""
    path = folder / TRUTHS
    if path.exists():
        with _locked(path) as descriptor:
            _replace(descriptor, [line for line in _lines(descriptor) if not _is_of(line, ids)])


def keep_truths(folder: Path, most_bytes: int, oldest_s: float) -> None:
    """Drop the oldest lines where all take too much, and those that were told too long ago.

    A truth comes after its answer, so what is older than the shards may be has no row any more.

    Args:
        folder: Of the recording.
        most_bytes: Bytes that all lines may take.
        oldest_s: Lines from before go, seconds since 1970; within an hour, not at once.

    Raises:
        OSError: The file cannot be written.
    """
    path = folder / TRUTHS
    try:
        with path.open("rb") as file:
            first, size = _told_s(file.readline()), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return
    if size <= most_bytes and first >= oldest_s - _LATE_S:
        return
    with _locked(path) as descriptor:
        kept = deque(line for line in _lines(descriptor) if _told_s(line) >= oldest_s)
        size = sum(map(len, kept))
        if size > most_bytes:
            while size > most_bytes * 3 // 4:  # room at once: the whole file is written
                size -= len(kept.popleft())
        _replace(descriptor, kept)


def _told_s(line: bytes) -> float:
    """Return when a line was told; infinite where it does not say so, as before it was noted."""
    try:
        return float(orjson.loads(line)["time"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _lines(descriptor: int) -> list[bytes]:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return list(file)


def _replace(descriptor: int, lines: Iterable[bytes]) -> None:
    """Write the lines in place: who waits for the lock appends to this very file."""
    text = b"".join(lines)
    size = os.fstat(descriptor).st_size
    os.pwrite(descriptor, text.ljust(size, b"\n"), 0)
    os.ftruncate(descriptor, len(text))
    os.fsync(descriptor)


def _is_of(line: bytes, ids: Collection[str]) -> bool:
    try:
        return str(orjson.loads(line)["id"]) in ids
    except (ValueError, KeyError, TypeError):
        return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
