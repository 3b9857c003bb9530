"""Arrow files as sources: IPC streams and files, Feather, and what ``save_to_disk`` writes.

A file is mapped, so a batch that is not compressed takes no memory of its own. Each batch is
validated: the offsets in it are a stranger's. Needs pyarrow.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scoring.arrow_table import DAMAGED, ArrowTable, line_of, need_pyarrow
from scoring.files import FileSource, check_rows, open_binary
from scoring.messages import batch_rows
from scoring.rows import CHUNK_BYTES, CHUNK_ROWS, Chunk, Row, ScoreError, chunked
from scoring.tables import Columns
from scoring.urls import is_url

try:  # the `score` extra
    import pyarrow
    import pyarrow.ipc
except ImportError:
    pyarrow = None

ENDINGS = (".arrow", ".arrows", ".feather", ".ft", ".ipc")
# A file begins with this, then it is a stream; Feather's first version was another format.
_FILE, _FEATHER_1 = b"ARROW1\0\0", b"FEA1"
_STATE_BYTES = 1 << 24


class ArrowSource(FileSource):
    """The rows of one Arrow file.

    Args:
        path: A local path or a URL.
        columns: Columns to use.

    Raises:
        ScoreError: Not an Arrow file, or a column is missing.
    """

    def __init__(self, path: str, columns: Columns) -> None:
        need_pyarrow(path)
        super().__init__(path)
        self._count: int | None = None
        try:
            with ExitStack() as stack:
                schema = pyarrow.ipc.open_stream(self._open(stack)).schema
            self._table = ArrowTable(path, schema, columns)
            if not is_url(path):
                self._count = self._count_rows()
        except DAMAGED as error:
            if isinstance(error, ScoreError):
                raise
            raise ScoreError(f"{path}: expected an Arrow file, got: {line_of(error)}") from None

    def count(self) -> int | None:
        """Return the number of rows, None behind a URL."""
        return self._count

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Stream rows ``start`` to ``stop``; damage becomes a last row with an error."""
        first = 0
        try:
            with ExitStack() as stack:
                for batch in pyarrow.ipc.open_stream(self._open(stack)):
                    lower, upper = max(start, first), first + batch.num_rows
                    if stop is not None:
                        upper = min(upper, stop)
                    if lower < upper:
                        batch.validate(full=True)
                        part = batch.slice(lower - first, upper - lower)
                        for chunk in self._batch(part, lower):
                            yield chunk
                            start += len(chunk.ids)
                    first += batch.num_rows
                    if stop is not None and first >= stop:
                        return
        except DAMAGED as error:
            if is_url(self._path) and isinstance(error, OSError):
                raise  # the network failed: the job can resume later without a loss
            damage = ScoreError(f"table: expected a whole Arrow file, got: {line_of(error)}")
            ids = (f"{self.name}#{i}" for i in range(max(start, first), self._end(first, stop)))
            yield from chunked(Row(id_, damage) for id_ in ids)

    def kinds(self) -> dict[str, str]:
        """Return the kept columns that it has, with their types."""
        return self._table.kinds()

    def _open(self, stack: ExitStack) -> Any:
        """Return the file, its stream still to be read."""
        if is_url(self._path):
            file = stack.enter_context(open_binary(self._path))
        else:
            with open_binary(self._path) as checked:  # no pipe, no device
                if not os.fstat(checked.fileno()).st_size:
                    raise ScoreError(f"{self._path}: expected an Arrow file, got an empty file")
                mapped = pyarrow.memory_map(f"/proc/self/fd/{checked.fileno()}")
            file = stack.enter_context(mapped)
        begin = file.read(len(_FILE))
        if begin[:4] == _FEATHER_1:
            raise ScoreError(
                f"{self._path}: expected Feather's version 2, got version 1; read it with pandas "
                "and write it again"
            )
        if begin != _FILE:
            file.seek(0)
        return file

    def _count_rows(self) -> int | None:
        """Return the number of rows; None if only reading them finds the damage in them.

        Raises:
            ScoreError: A batch expands too much, or announces more rows than it can have.
        """
        rows = 0
        size_bytes = Path(self._path).stat().st_size
        try:
            with ExitStack() as stack:
                file = self._open(stack)
                for count in batch_rows(pyarrow.ipc.MessageReader.open_stream(file)):
                    rows += count
                    check_rows(self._path, rows, size_bytes)
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, ScoreError):
                raise
            return None
        return rows

    def _batch(self, batch: Any, first: int) -> Iterator[Chunk]:
        if self._table.may_share:
            yield from chunked(self._one_by_one(batch, first), is_declared=True)
            return
        bytes_each = max(1, batch.nbytes // batch.num_rows)
        step = max(1, min(CHUNK_ROWS, CHUNK_BYTES // bytes_each))
        for begin in range(0, batch.num_rows, step):
            yield self._table.chunk(batch.slice(begin, step), first + begin)

    def _one_by_one(self, batch: Any, first: int) -> Iterator[Row]:
        """Yield rows that may be the same memory: each takes as much as all of it."""
        for row in range(batch.num_rows):
            one = self._table.chunk(batch.slice(row, 1), first + row)
            truth = one.truths[0] if one.truths else None
            images = one.images
            assert isinstance(images, list), "a table's rows may differ; this is a bug"
            yield Row(one.ids[0], images[0], truth, one.kept[0] if one.kept else ())

    def _end(self, first: int, stop: int | None) -> int:
        """Return the row after the last one that damage costs: one row if they are not counted."""
        if stop is not None and self._count is not None:
            return min(stop, self._count)
        return first + 1 if self._count is None else self._count


def saved_dataset(folder: str) -> list[str] | None:
    """Return the files of a folder that Hugging Face's ``save_to_disk`` wrote, None of another one.

    Raises:
        ScoreError: Its rows are chosen by a file of numbers, which old versions wrote.
    """
    root = Path(folder)
    splits = _read(root / "dataset_dict.json")
    if splits is not None:
        names = [name for name in splits.get("splits", ()) if _is_plain(name)]
        parts = [saved_dataset(str(root / name)) or [] for name in names]
        return [path for part in parts for path in part] or None
    state = _read(root / "state.json")
    if state is None or not (root / "dataset_info.json").is_file():
        return None
    if state.get("_indices_data_files"):
        raise ScoreError(
            f"{folder}: expected a dataset without chosen rows, got indices; load it, call "
            "flatten_indices() and save it again"
        )
    files = [each.get("filename") for each in state.get("_data_files") or ()]
    return [os.path.join(folder, name) for name in files if _is_plain(name)] or None  # noqa: PTH118 - keeps ./


def describes_dataset(path: str) -> bool:
    """Whether a file holds no images but describes a folder that ``save_to_disk`` wrote."""
    folder, _, name = path.rpartition("/")
    if name not in ("dataset_dict.json", "dataset_info.json", "state.json"):
        return False
    try:
        return saved_dataset(folder or ".") is not None
    except ScoreError:
        return False


def _read(path: Path) -> dict[str, Any] | None:
    """Return a JSON object from a small file, None if there is none."""
    try:
        if not path.is_file() or path.stat().st_size > _STATE_BYTES:
            return None
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _is_plain(name: object) -> bool:
    """Whether it is a name of what lies in the folder, not a path out of it."""
    return isinstance(name, str) and bool(name) and "/" not in name and name not in (".", "..")
