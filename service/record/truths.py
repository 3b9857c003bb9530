"""What is known to be true of recorded rows: a line of JSON each, in the recording's folder.

``{"id": …, "row": 0, "index": 3}``, or ``"label"`` in the place of ``"index"``; of a multi-label
model ``"indexes"`` or ``"labels"``. Lines of one row replace earlier ones.
"""

import contextlib
import csv
import fcntl
import os
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
_NAMES = ("index", "label", "indexes", "labels")


def add_truths(folder: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append lines; several processes may do so at once.

    Raises:
        OSError: The folder cannot be written.
    """
    make_folder(folder)
    text = b"".join(orjson.dumps(dict(line)) + b"\n" for line in lines)
    with _locked(folder / TRUTHS) as descriptor:
        os.lseek(descriptor, 0, os.SEEK_END)
        view = memoryview(text)
        while view:
            view = view[os.write(descriptor, view) :]


def read_truths(recording: Path) -> Truths:
    """Return the truths that a recording has; one tar has none.

    Raises:
        RecordingError: They cannot be read.
    """
    path = recording / TRUTHS
    truths: Truths = {}
    try:
        with path.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a cut line
                    document = orjson.loads(line)
                    key = str(document["id"]), int(document.get("row", 0))
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
    if not path.exists():
        return
    with _locked(path) as descriptor:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(0)
            kept = [line for line in file if not _is_of(line, ids)]
        text = b"".join(kept)
        # In place: who waits for the lock appends to this very file.
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
