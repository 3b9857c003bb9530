"""The first stage of scoring: arguments of the command line become sources, in order.

An argument's ending decides what it is: an archive, a table or an array is opened, every other file
is an image.
"""

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from scoring.archives import TAR_ENDINGS, ArchiveSource
from scoring.arrays import ArraySource
from scoring.arrow import describes_dataset, saved_dataset
from scoring.files import FilesSource, file_system, is_url, url_errors
from scoring.folders import Found, walk
from scoring.formats import is_table, open_table
from scoring.lists import split_paths
from scoring.rows import ScoreError, Source
from scoring.tables import Columns

_ARCHIVES = (".zip", *TAR_ENDINGS)
_ARRAYS = (".npy", ".npz")
_WILDCARDS = frozenset("*?[")


def list_sources(
    arguments: Sequence[str], columns: Columns, pattern: str = "", skip: Path | None = None
) -> list[Source]:
    """List the sources that the arguments name.

    A folder stands for all its files, recursively, sorted by path, except hidden files and folders
    (their names start with a dot); what cannot be read there is a row with an error. A pattern
    stands for its matches, sorted. ``-`` reads more arguments from standard input, one on each
    line, or with NULs between them. A text (CSV, JSONL, a list) is opened if it is named or
    matched by its ending, but not if it lies in a folder: there it is often a list of the images
    beside it.

    Args:
        arguments: Files, folders, patterns (``*``, ``?``, ``[…]``, ``**``), URLs and ``-``.
        columns: Columns of tables to use.
        pattern: Files in folders must match it by name or, if it has a ``/``, by path; "" matches
            all.
        skip: A file to leave out, such as the output.

    Raises:
        ScoreError: A source does not exist or matches nothing, a table lacks a column, or there is
            no file at all.
    """
    words = _with_standard_input(arguments)
    listed = [found for word in words for found in _expand(word, pattern)]
    if skip is not None and skip.exists():
        listed = [found for found in listed if not _is_same_file(found.path, skip)]
    if not listed:
        named = ", ".join(arguments) or "no argument"
        raise ScoreError(f"sources: expected at least one file, got none in {named}")
    containers = {
        number: _open(found, columns) for number, found in enumerate(listed) if _is_container(found)
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
    is_other = found.path.lower().endswith((*_ARCHIVES, *_ARRAYS))
    return is_other or is_table(found.path, is_named=found.is_named)


def _open(found: Found, columns: Columns) -> Source | ScoreError:
    """Open a container; what was found in a folder and cannot be opened is a row with an error."""
    path, lower = found.path, found.path.lower()
    try:
        if is_table(path, is_named=found.is_named):
            return open_table(path, columns)
        return ArraySource(path) if lower.endswith(_ARRAYS) else ArchiveSource(path)
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


def _expand(source: str, pattern: str) -> Iterator[Found]:
    if is_url(source):
        yield from _expand_url(source, pattern)
    elif Path(source).is_dir():
        yield from _in_folder(source, pattern)
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
                yield Found(match, is_named=not source.endswith("*"))
            elif "**" not in source:
                yield from _in_folder(match, pattern)


def _expand_url(url: str, pattern: str) -> Iterator[Found]:
    with url_errors(url):
        system, inner = file_system(url)
        if _WILDCARDS & set(inner):
            found = [(path, True) for path in sorted(system.glob(inner)) if system.isfile(path)]
        elif system.isdir(inner):
            found = [
                (path, False)
                for path in sorted(system.find(inner))
                if _is_wanted(path.removeprefix(inner).lstrip("/"), pattern)
            ]
        else:
            found = [(inner, True)] if system.exists(inner) else []
        if not found:
            raise _no_source(url)
        for path, is_named in found:
            yield Found(system.unstrip_protocol(path), is_named)


def _in_folder(folder: str, pattern: str) -> Iterator[Found]:
    saved = saved_dataset(folder)
    if saved is not None:
        yield from map(Found, saved)
        return
    for found in walk(folder):
        is_wanted = _is_wanted(os.path.relpath(found.path, folder) if pattern else "", pattern)
        if is_wanted and not describes_dataset(found.path):
            yield found


def _is_wanted(path: str, pattern: str) -> bool:
    """Whether a path within a folder matches and is not hidden."""
    if any(part.startswith(".") for part in path.split("/")):
        return False
    return not pattern or PurePosixPath(path).match(pattern)


def _is_same_file(path: str, other: Path) -> bool:
    try:
        return Path(path).samefile(other)
    except OSError:
        return False


def _no_source(source: str) -> ScoreError:
    return ScoreError(
        f'source "{source}": expected a file, a folder or a pattern that matches, '
        "got none; check the path"
    )
