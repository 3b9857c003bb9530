"""The first stage of scoring: arguments of the command line become sources, in order.

An argument's ending decides what it is: an archive, a table or an array is opened, unless its first
bytes are an image's; every other file is an image.
"""

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from models.image import ENDINGS, is_image
from models.junk import ending, is_in_hidden_folder, is_junk
from scoring.archives import TAR_ENDINGS, ArchiveSource
from scoring.arrays import ArraySource
from scoring.arrow import describes_dataset, saved_dataset
from scoring.files import FilesSource, open_binary
from scoring.folders import Found, walk
from scoring.formats import is_table, open_table
from scoring.lists import split_paths
from scoring.recorded import RecordedSource
from scoring.rows import ScoreError, Source
from scoring.tables import Columns
from scoring.urls import (
    check_scheme,
    file_system,
    is_http,
    is_url,
    url_errors,
    within_limit,
)
from service.record.reading import is_recording

_ARCHIVES = (".zip", *TAR_ENDINGS)
_ARRAYS = (".npy", ".npz")
_WILDCARDS = frozenset("*?[")


def list_sources(
    arguments: Sequence[str], columns: Columns, patterns: Sequence[str] = ()
) -> list[Source]:
    """Find and open the sources that the arguments name; see ``find`` and ``open_sources``."""
    return open_sources([each for each in find(arguments, patterns) if not each.is_junk], columns)


def find(arguments: Sequence[str], patterns: Sequence[str] = ()) -> list[Found]:
    """Find the files that the arguments name; opens none.

    A folder stands for all its files, recursively, sorted by path, except those in hidden folders
    (their names start with a dot); what cannot be read there is a row with an error. A pattern
    stands for its matches, sorted. ``-`` reads more arguments from standard input, one on each
    line, or with NULs between them. Files that are named as arguments are never junk.

    Args:
        arguments: Files, folders, patterns (``*``, ``?``, ``[…]``, ``**``), URLs and ``-``.
        patterns: Files in folders must match one of them by name or, if it has a ``/``, by path,
            in any case of letters; none matches all.

    Raises:
        ScoreError: A source does not exist or matches nothing, or there is no file at all.
    """
    listed: list[Found] = []
    for argument in arguments:
        for word in _with_standard_input([argument]):
            files = _expand(word, patterns)
            if argument == "-" and is_junk(_name(word)):  # the list is some tool's, not the user's
                files = (found._replace(is_junk=True) for found in files)
            listed += files
    if not listed:
        named = ", ".join(arguments) or "no argument"
        raise ScoreError(f"sources: expected at least one file, got none in {named}")
    return listed


def open_sources(
    listed: Sequence[Found], columns: Columns, *, strict: bool = False
) -> list[Source]:
    """Open what was found.

    A CSV is opened if it is named or matched, but not if it lies in a folder: there it is often a
    list of the images beside it.

    Args:
        listed: Files, at least one.
        columns: Columns of tables to use.
        strict: Whether junk in archives is rows, too.

    Raises:
        ScoreError: A table that is named is none or lacks a column.
    """
    containers = {
        number: _open(found, columns, strict=strict)
        for number, found in enumerate(listed)
        if _is_container(found) and not _holds_image(found.path)
    }
    failed = [each for each in containers.values() if isinstance(each, ScoreError)]
    if failed and len(failed) == len(listed):
        raise failed[0]
    sources: list[Source] = []
    files: list[Found] = []
    for number, found in enumerate(listed):
        container = containers.get(number)
        if container is None or isinstance(container, ScoreError):
            files.append(found._replace(error=str(container or found.error)))
            continue
        if files:
            sources.append(_files(files))
        files = []
        sources.append(container)
    return [*sources, _files(files)] if files else sources


def _files(found: Sequence[Found]) -> FilesSource:
    errors = {each.path: each.error for each in found if each.error}
    return FilesSource([each.path for each in found], errors=errors)


def kept_kinds(sources: Iterable[Source], keep: Sequence[str]) -> dict[str, str]:
    """Return the type of each kept column: the one type of all its sources, or string.

    Raises:
        ScoreError: No source has the column.
    """
    all_kinds = [source.kinds() for source in sources]
    kinds = {}
    for name in keep:
        found = {each[name] for each in all_kinds if name in each}
        if not found:
            raise ScoreError(f'--keep: expected a column of a table, got "{name}"')
        kinds[name] = found.pop() if len(found) == 1 else "string"
    return kinds


def _is_container(found: Found) -> bool:
    if found.error:
        return False
    if not is_url(found.path) and is_recording(Path(found.path)):
        return True
    is_other = found.path.lower().endswith((*_ARCHIVES, *_ARRAYS))
    return is_other or is_table(found.path, is_named=found.is_named)


def _holds_image(path: str) -> bool:
    """Whether a file whose name says otherwise is an image."""
    if is_url(path):
        return False
    try:
        with open_binary(path) as file:
            return is_image(file.read(16))
    except (ScoreError, OSError):
        return False


def _open(found: Found, columns: Columns, *, strict: bool) -> Source | ScoreError:
    """Open a container; what was found in a folder and cannot be opened is a row with an error."""
    path, lower = found.path, found.path.lower()
    try:
        if not is_url(path) and is_recording(Path(path)):
            return RecordedSource(path)
        if is_table(path, is_named=found.is_named):
            return open_table(path, columns)
        if lower.endswith(_ARRAYS):
            return ArraySource(path)
        return ArchiveSource(path, strict=strict)
    except ScoreError as error:
        if found.is_named:
            raise
        return error


def _with_standard_input(arguments: Sequence[str]) -> Iterator[str]:
    for word in arguments:
        if word == "-":
            yield from map(os.fsdecode, split_paths(sys.stdin.buffer.read()))
        else:
            yield word


def _expand(source: str, patterns: Sequence[str]) -> Iterator[Found]:
    if is_url(source):
        yield from _expand_url(source, patterns)
    elif Path(source).is_dir():
        yield from _in_folder(source, patterns)
    elif os.path.lexists(source):
        yield Found(source, is_named=True)
    else:
        # Path.glob rejects absolute patterns.
        found = glob.glob(source, recursive=True)  # noqa: PTH207
        matches = sorted(found) if _WILDCARDS & set(source) else []
        if not matches:
            raise _no_source(source)
        for match in matches:
            # A pattern with ** matches folders and what is in them: each file once.
            if not Path(match).is_dir():
                is_named = not source.endswith("*")
                yield Found(match, is_named=is_named, is_junk=is_junk(_name(match)))
            elif "**" not in source:
                yield from _in_folder(match, patterns)


def _expand_url(url: str, patterns: Sequence[str]) -> Iterator[Found]:
    is_pattern = bool(_WILDCARDS & set(url.partition("://")[2].partition("?")[0]))
    is_file = not url.endswith("/") and (is_http(url) or ending(url) in ENDINGS)
    if is_file and not is_pattern:
        check_scheme(url)
        yield Found(url, is_named=True)  # without asking: if it is missing, that is its row's error
        return
    with url_errors(url):
        system, inner = file_system(url)
        if is_pattern:
            paths = sorted(system.glob(inner))
            found = [(path, True, is_junk(_name(path))) for path in paths if system.isfile(path)]
        elif within_limit(url, partial(system.isdir, inner)):
            within = [
                (path, path.removeprefix(inner).lstrip("/")) for path in sorted(system.find(inner))
            ]
            found = [
                (path, False, is_junk(name))
                for path, name in within
                if not is_in_hidden_folder(name) and _is_wanted(name, patterns)
            ]
        else:
            is_there = within_limit(url, partial(system.exists, inner))
            found = [(inner, True, False)] if is_there else []
        if not found:
            raise _no_source(url)
        for path, is_named, is_left in found:
            yield Found(system.unstrip_protocol(path), is_named, is_junk=is_left)


def _in_folder(folder: str, patterns: Sequence[str]) -> Iterator[Found]:
    if is_recording(Path(folder)):
        yield Found(folder, is_named=True)
        return
    saved = saved_dataset(folder)
    if saved is not None:
        yield from map(Found, saved)
        return
    for found in walk(folder):
        is_wanted = not patterns or _is_wanted(os.path.relpath(found.path, folder), patterns)
        if is_wanted and not describes_dataset(found.path):
            yield found


def _is_wanted(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path within a folder matches one of the patterns, in any case of letters."""
    if not patterns:
        return True
    lower = PurePosixPath(path.lower())
    return any(lower.match(pattern.lower()) for pattern in patterns)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _no_source(source: str) -> ScoreError:
    return ScoreError(
        f'source "{source}": expected a file, a folder or a pattern that matches, '
        "got none; check the path"
    )
