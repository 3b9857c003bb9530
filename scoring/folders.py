"""The files of a folder, sorted by path; links, loops and unreadable folders in it are bounded.

A link to what lies in the folder is followed, once on the way down. A link that leads out of it is
found with an error: whoever made the folder does not choose which other files are read.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from models.junk import is_junk
from scoring.rows import ScoreError

# Identity of a folder: device and inode.
_Identity = tuple[int, int]


class Found(NamedTuple):
    """A file to score, or the reason why it is not read.

    Attributes:
        path: Its path.
        is_named: Whether an argument names or matches the file itself.
        error: Why it is not read; "" if it is.
        is_junk: Whether it is left there by a system or a tool, and no image.
    """

    path: str
    is_named: bool = False
    error: str = ""
    is_junk: bool = False


class _Level(NamedTuple):
    """A folder on the way down: its entries still to visit, and how it was reached."""

    entries: Iterator["os.DirEntry[str]"]
    above: tuple[_Identity, ...]
    is_linked: bool


def walk(folder: str) -> Iterator[Found]:
    """Yield the files of a folder, recursively; hidden folders are passed over.

    Raises:
        ScoreError: The folder itself cannot be read.
    """
    root, prefix = os.path.realpath(folder), f"{folder.rstrip('/')}/"
    try:
        levels = [_enter(folder, (), is_linked=False)]
    except OSError as error:
        raise ScoreError(f"{folder}: expected a readable folder, got: {error.strerror}") from None
    while levels:
        level = levels[-1]
        entry = next(level.entries, None)
        if entry is None:
            levels.pop()
            continue
        is_link = entry.is_symlink()
        if entry.name.startswith("."):
            if not os.path.isdir(entry.path):  # noqa: PTH112 - unlike entry.is_dir, never raises
                yield Found(entry.path, is_junk=True)
        elif is_link and not _is_within(root, entry.path):
            yield Found(entry.path, error=_leads_out(entry.path))
        elif not os.path.isdir(entry.path):  # noqa: PTH112 - unlike entry.is_dir, never raises
            yield Found(entry.path, is_junk=is_junk(entry.path.removeprefix(prefix)))
        else:
            try:
                below = _enter(entry.path, level.above, is_linked=level.is_linked or is_link)
            except OSError as error:
                reason = f"file: expected a readable folder, got: {error.strerror}"
                yield Found(entry.path, error=reason)
                continue
            if below.above[-1] in level.above:  # a circle: what is in it is found anyway
                continue
            if is_link and level.is_linked:
                reason = "file: expected a file or a folder, got a link within a linked folder"
                yield Found(entry.path, error=reason)
                continue
            levels.append(below)


def _enter(path: str, above: tuple[_Identity, ...], *, is_linked: bool) -> _Level:
    """Raise OSError if the folder cannot be read."""
    status = Path(path).stat()
    with os.scandir(path) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    return _Level(iter(entries), (*above, (status.st_dev, status.st_ino)), is_linked)


def _is_within(root: str, path: str) -> bool:
    target = os.path.realpath(path)
    return target == root or target.startswith(f"{root.rstrip('/')}/")


def _leads_out(path: str) -> str:
    kind = "folder" if os.path.isdir(path) else "file"  # noqa: PTH112 - never raises
    return (
        f"{kind}: expected one within the folder, got a link that leads out of it; "
        f"name the {kind} as a source to score it"
    )
