"""Shards: the tar files that a recording consists of, one writer each.

A shard is a plain tar (POSIX ustar), written from its beginning to its end and never changed but by
``erase``, which overwrites. A sample is one write: whatever kills the writer, all before the last
sample is whole, and a reader stops where the file was cut. The writer holds a lock on its shard as
long as it writes.
"""

import contextlib
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

import orjson

MARK = "recording.json"
BLOCK = 512
_END = bytes(2 * BLOCK)
# ustar's fields before and behind size, time, checksum: mode 0600, no owner, a regular file.
_MODE = b"0000600\x000000000\x000000000\x00"
_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(32 + 32 + 8 + 8 + 155 + 12)
_CONSTANT = sum(_MODE) + sum(_TAIL) + 8 * ord(" ")
MOST_NAME = 100


def member(name: bytes, content: bytes, at_s: float) -> tuple[bytes, bytes, bytes]:
    """Return a file of a tar: header, content, padding.

    ``tarfile`` makes the same header in 15 us, this takes 2: it is made for each answer.

    Args:
        name: At most ``MOST_NAME`` bytes of ASCII.
        content: Below 8 GiB, as ustar's sizes are.
        at_s: Its time, seconds since 1970.
    """
    numbers = b"%011o\x00%011o\x00" % (len(content), int(at_s))
    checksum = _CONSTANT + sum(name) + sum(numbers)
    head = b"%b%b%b%06o\x00 %b" % (name.ljust(MOST_NAME, b"\0"), _MODE, numbers, checksum, _TAIL)
    return head, content, bytes(-len(content) % BLOCK)


class Shard:
    """A shard that is being written, by one thread of one process.

    Args:
        folder: Of the recording; it exists.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.opened_at = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(self.opened_at))
        part = int(self.opened_at % 1 * 1e6)
        self.path = folder / f"{stamp}.{part:06d}-{os.getpid()}.tar"
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.size = 0
        self._keys: dict[str, int] = {}

    def unique(self, key: str) -> str:
        """Return a key that no other sample of this shard has: clients may repeat their ids."""
        seen = self._keys.get(key, 0)
        self._keys[key] = seen + 1
        return key if not seen else self.unique(f"{key}_{seen + 1}")

    def append(self, parts: list[bytes]) -> None:
        """Write whole samples, all or none.

        Raises:
            OSError: The disk is full, or gone.
        """
        whole = b"".join(parts)
        view = memoryview(whole)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            # What is half written would hide what comes after it.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.size)
                os.lseek(self._file, self.size, os.SEEK_SET)
            raise
        self.size += len(whole)

    def close(self) -> None:
        """End the tar; an empty one is deleted."""
        try:
            if self.size:
                with contextlib.suppress(OSError):
                    os.write(self._file, _END)
            else:
                self.path.unlink(missing_ok=True)
        finally:
            os.close(self._file)


def make_folder(folder: Path) -> None:
    """Make the folder of a recording, for its owner alone, with the file that says what it is.

    Raises:
        OSError: It cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mark = folder / MARK
    if not mark.exists():
        folder.chmod(0o700)
        descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, orjson.dumps({"format": 1}) + b"\n")
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Found:
    """A shard on the disk: where, its bytes and when it was last written, seconds since 1970."""

    path: Path
    size: int
    written_at: float


def find_shards(folder: Path) -> list[Found]:
    """Return the shards of a folder, oldest first; what goes meanwhile is left out."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".tar") and not entry.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat(follow_symlinks=False)
                    found.append(Found(Path(entry.path), stat.st_size, stat.st_mtime))
    return sorted(found, key=lambda each: each.path.name)


def is_written(path: Path) -> bool:
    """Whether a process writes a shard now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def keep_ring(folder: Path, most_bytes: int, oldest_s: float) -> int:
    """Delete the oldest shards that nobody writes, until the others are within the bounds.

    Args:
        folder: Of the recording.
        most_bytes: Bytes that may stay.
        oldest_s: Shards that were last written before, seconds since 1970, go.

    Returns:
        Bytes that are there now.
    """
    found = find_shards(folder)
    total = sum(each.size for each in found)
    for each in found:
        if total <= most_bytes and each.written_at >= oldest_s:
            continue
        if is_written(each.path):
            continue
        each.path.unlink(missing_ok=True)
        total -= each.size
    return total
