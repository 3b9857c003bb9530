"""Where the table of a job goes: a file, a URL or standard output; a source is never written over.

Knows the names of files and no rows.
"""

import atexit
import gzip
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from models.files import sync
from scoring.folders import Found
from scoring.parts import has_job, has_rows
from scoring.rows import ScoreError
from scoring.sinks import check_format, is_result
from scoring.stream import print_file
from scoring.urls import file_system, is_url, url_errors, within_limit

STANDARD_OUTPUT = "-"
# Device and inode of a file.
_Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Output:
    """The table to be written.

    Attributes:
        name: As the user calls it.
        ending: ``.parquet``, ``.csv`` or ``.jsonl``.
        is_gzip: Whether it is compressed.
        path: The file itself: links are followed, so that none is replaced. Of another output, the
            place where the job's parts are beside.
    """

    name: str
    ending: str
    is_gzip: bool
    path: Path

    @classmethod
    def parse(cls, name: str | Path, kind: str = "") -> "Output":
        """Check before any work that the output can be written.

        Args:
            name: A path, a URL, or "-": standard output.
            kind: ``csv``, ``jsonl`` or ``parquet``; "": the name's ending says it.

        Raises:
            ScoreError: The ending is unknown, pyarrow is missing, or there is no such folder.
        """
        text = _local(str(name))
        plain = text.removesuffix(".gz")
        ending = f".{kind}" if kind else Path(plain).suffix.lower()
        if text == STANDARD_OUTPUT:
            ending = f".{kind or 'csv'}"
        is_gzip = plain != text
        check_format(text, ending)
        if is_gzip and ending == ".parquet":
            raise ScoreError(
                f"{name}: expected CSV or JSON Lines to compress, got Parquet, which is compressed "
                "within; name it .parquet"
            )
        if text == STANDARD_OUTPUT:
            folder = Path(tempfile.mkdtemp(prefix="foveal-score-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            return cls(text, ending, is_gzip, folder / "table")
        if is_url(text):
            return cls(text, ending, is_gzip, _cache() / hashlib.sha256(text.encode()).hexdigest())
        output = cls(text, ending, is_gzip, Path(os.path.realpath(text)))
        output._check_path()
        return output

    def without_sources(
        self, found: Sequence[Found], *, overwrite: bool, resume: bool
    ) -> list[Found]:
        """Return what was found, without the output of an earlier job among it.

        Args:
            found: The sources.
            overwrite: Whether a file that is no source may be written over.
            resume: Whether a job that has begun to write the file may go on.

        Raises:
            ScoreError: The output is a source, or a file that may not be written over, or rows of
                an earlier job would be lost.
        """
        if self.name == STANDARD_OUTPUT:
            if resume:
                raise ScoreError("--resume: expected --out to be a file, got standard output")
            return list(found)
        if has_rows(self.path) and not (resume or overwrite):
            raise ScoreError(
                f"{self.name}: expected a new table, got one that a job has begun; go on with "
                "--resume, or throw its rows away with --overwrite"
            )
        if not self._exists():
            return list(found)
        same = self._same(found)
        may_write = overwrite or (resume and has_job(self.path))
        is_ours = not is_url(self.name) and is_result(self.path, self.ending, self.is_gzip)
        if any(each.is_named for each in same) or (same and may_write and not is_ours):
            raise ScoreError(
                f"{self.name}: expected a file to write, got one of the sources; name another"
            )
        if not may_write:
            raise ScoreError(
                f"{self.name}: expected no file of that name, got one; name another, or write "
                "over it with --overwrite"
            )
        paths = {each.path for each in same}
        return [each for each in found if each.path not in paths]

    def write(self, join: Callable[[BinaryIO], None], table: Path) -> None:
        """Write the table and bring it to its place, whole.

        Args:
            join: Writes the rows.
            table: A file for it, in the file system of ``path``.

        Raises:
            ScoreError: It cannot be written there; the rows are kept.
        """
        with table.open("wb") as file:
            # No name and no date: the same rows are the same bytes.
            packed = gzip.GzipFile("", "wb", 6, file, 0) if self.is_gzip else nullcontext(file)
            with packed as target:
                join(cast(BinaryIO, target))
        if self.name == STANDARD_OUTPUT:
            print_file(table)
        elif is_url(self.name):
            with url_errors(self.name):
                system, inner = file_system(self.name)
                system.put_file(str(table), inner)
        else:
            sync(table)
            table.replace(self.path)

    def _check_path(self) -> None:
        for folder in (Path(self.name).parent, self.path.parent):
            if not folder.is_dir():
                raise ScoreError(
                    f"{self.name}: expected a file in a folder that exists, got no folder {folder}"
                )
        try:
            mode = self.path.lstat().st_mode
        except OSError:
            return
        if not stat.S_ISREG(mode):
            kind = "folder" if stat.S_ISDIR(mode) else "link, a pipe or a device"
            raise ScoreError(f"{self.name}: expected a file, got a {kind} of that name")

    def _exists(self) -> bool:
        if not is_url(self.name):
            return self.path.exists()
        with url_errors(self.name):
            system, inner = file_system(self.name)
            return bool(within_limit(self.name, partial(system.exists, inner)))

    def _same(self, found: Sequence[Found]) -> list[Found]:
        """Return what was found and is the output."""
        if is_url(self.name):
            system, inner = file_system(self.name)
            name = system.unstrip_protocol(inner)
            return [each for each in found if each.path in (name, self.name)]
        identity = _identity(self.path)
        return [each for each in found if _identity(_local(each.path)) == identity]


def _cache() -> Path:
    """Return the folder of jobs whose output is not on this machine."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "foveal" / "score"


def _local(path: str) -> str:
    """Return the path of a local file that is named by a URL."""
    for scheme in ("file://", "local://"):
        path = path.removeprefix(scheme)
    return path


def _identity(path: str | Path) -> _Identity | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - a million paths: pathlib takes twice as long
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
