"""Read recordings: the samples of a folder of shards or of one tar, in the order of the files.

A shard that is being written, or whose writer was killed, is read up to its last whole sample. What
was erased is passed over.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import orjson

from service.record.sample import Sample
from service.record.shards import BLOCK, MARK, find_shards

# Longest JSON of a sample: a million probabilities.
_MOST_JSON = 32 << 20
# So many ids are looked for in a document's text before it is parsed.
_FEW = 8


class RecordingError(ValueError):
    """A recording cannot be read or changed; the message names where, expected and got."""


class Member(NamedTuple):
    """A file in a tar: its name, where its header begins, and its bytes."""

    name: str
    start: int
    size: int

    @property
    def content_at(self) -> int:
        """Return where its content begins."""
        return self.start + BLOCK


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample and where it lies.

    Attributes:
        sample: The sample.
        path: The tar.
        members: Its files there.
    """

    sample: Sample
    path: Path
    members: tuple[Member, ...]


def is_recording(path: Path) -> bool:
    """Whether a folder holds a recording."""
    try:
        return (path / MARK).is_file()
    except OSError:  # its name is too long
        return False


def tars_of(recording: Path) -> list[Path]:
    """Return the tars of a recording, oldest first: the folder's, or the one that is named.

    Raises:
        RecordingError: There is no recording.
    """
    if recording.is_file():
        return [recording]
    if not is_recording(recording):
        raise RecordingError(
            f"{recording}: expected a recording, got "
            f"{'another folder' if recording.is_dir() else 'none'}; "
            "FOVEAL_RECORD=0.01 makes the service record one request of a hundred"
        )
    return [each.path for each in find_shards(recording)]


def read(
    recording: Path, *, with_content: bool = True, ids: Collection[str] | None = None
) -> Iterator[Entry]:
    """Yield the entries of a recording.

    Args:
        recording: A folder of shards, or one tar.
        with_content: Whether images are read; else their content is empty.
        ids: Only requests with these; None: all.

    Raises:
        RecordingError: There is no recording, or a tar of it cannot be opened.
    """
    for path in tars_of(recording):
        try:
            file = path.open("rb")
        except FileNotFoundError:  # the ring deleted it meanwhile
            continue
        except OSError as error:
            raise RecordingError(
                f"{path}: expected to read it, got {error.strerror}; use the service's user"
            ) from None
        with file:
            yield from _entries(path, file, 0, with_content=with_content, ids=ids)


def entry_at(path: Path, start: int) -> Entry | None:
    """Return the first entry of a tar from a byte on, without its content; None: there is none."""
    with suppress(OSError), path.open("rb") as file:
        return next(_entries(path, file, start, with_content=False, ids=None), None)
    return None


def read_entry(path: Path, members: tuple[Member, ...]) -> Entry:
    """Read one entry again, with its content.

    Raises:
        RecordingError: It is gone: deleted or erased.
    """
    with suppress(OSError), path.open("rb") as file:
        found = _entry(path, file, list(members), with_content=True, ids=None)
        if found is not None:
            return found
    raise RecordingError(f"{path}: expected a sample at byte {members[0].start}, got none; retry")


def _entries(
    path: Path, file: IO[bytes], start: int, *, with_content: bool, ids: Collection[str] | None
) -> Iterator[Entry]:
    waiting: list[Member] = []
    for member in members_of(file, start):
        if waiting and _key(waiting[0].name) != _key(member.name):
            waiting.clear()  # files without their JSON
        waiting.append(member)
        if member.name.endswith(".json"):
            found = _entry(path, file, waiting, with_content=with_content, ids=ids)
            if found is not None:
                yield found
            waiting.clear()


def _entry(
    path: Path,
    file: IO[bytes],
    members: list[Member],
    *,
    with_content: bool,
    ids: Collection[str] | None,
) -> Entry | None:
    last = members[-1]
    if last.size > _MOST_JSON:
        return None
    file.seek(last.content_at)
    text = file.read(last.size)
    if ids is not None and len(ids) <= _FEW and not any(_quoted(id_) in text for id_ in ids):
        return None
    try:
        document = orjson.loads(text)
        is_wanted = ids is None or document["id"] in ids
    except (ValueError, KeyError, TypeError):  # half erased, or not ours
        return None
    if not is_wanted:
        return None
    ending, content = "", b""
    if len(members) > 1:
        first = members[0]
        ending = first.name.partition(".")[2]
        if with_content:
            file.seek(first.content_at)
            content = file.read(first.size)
            if len(content) < first.size:
                return None
    return Entry(Sample(_key(last.name), document, ending, content), path, tuple(members))


def _quoted(id_: str) -> bytes:
    return orjson.dumps(id_)


def _key(name: str) -> str:
    return name.partition(".")[0]


def members_of(file: IO[bytes], start: int = 0) -> Iterator[Member]:
    """Yield the regular files of a plain ustar that are there whole, from a header on.

    ``tarfile`` takes 60 us a file for what takes 5 here, and this is done for all of a recording.
    """
    position = start
    end = os.fstat(file.fileno()).st_size
    while position + BLOCK <= end:
        file.seek(position)
        head = file.read(BLOCK)
        if len(head) < BLOCK or not head[0]:
            return  # the end of the tar, or of what is written
        try:
            size = int(head[124:135], 8)
            checksum = int(head[148:154], 8)
        except ValueError:
            return
        if checksum != sum(head) - sum(head[148:156]) + 8 * ord(" "):
            return
        following = position + BLOCK + -(-size // BLOCK) * BLOCK
        if position + BLOCK + size > end:
            return
        if head[156:157] in b"0\0":
            yield Member(head[:100].rstrip(b"\0").decode("latin-1"), position, size)
        position = following
