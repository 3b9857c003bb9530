"""Erase samples from a recording: their bytes are overwritten where they lie.

Nothing moves, so it works while the service writes the same shard, and what a kill interrupts is
finished by the next erasure: a sample's JSON, by which it is found, goes last. The space comes back
when the ring deletes the shard.
"""

import os
from collections.abc import Collection
from pathlib import Path

from service.record.reading import Member, RecordingError, read, tars_of
from service.record.shards import BLOCK, is_written, member
from service.record.truths import erase_truths

# A type that no reader of tars extracts or counts as a file.
_ERASED = b"Z"
_PIECE = 1 << 20


def erase(recording: Path, ids: Collection[str]) -> int:
    """Erase all rows of some requests, and what was fed back about them.

    Args:
        recording: A folder of shards, or one tar.
        ids: Of the requests.

    Returns:
        How many rows were erased.

    Raises:
        RecordingError: There is no recording, or it cannot be written.
    """
    count = 0
    by_path: dict[Path, list[tuple[Member, ...]]] = {}
    for entry in read(recording, with_content=False, ids=ids):
        by_path.setdefault(entry.path, []).append(entry.members)
    for path, samples in by_path.items():
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _not_written(path, error) from None
        try:
            for members in samples:
                for each in members:
                    _overwrite(descriptor, each)
                count += 1
            os.fsync(descriptor)
        except OSError as error:
            raise _not_written(path, error) from None
        finally:
            os.close(descriptor)
    if recording.is_dir():
        erase_truths(recording, ids)
    return count


def erase_all(recording: Path) -> int:
    """Delete all shards, and what was fed back; of those that are written now, erase every row.

    Returns:
        How many rows there were.

    Raises:
        RecordingError: There is no recording, or it cannot be written.
    """
    ids = {entry.sample.id for entry in read(recording, with_content=False)}
    count = erase(recording, ids)
    for path in tars_of(recording):
        if not is_written(path):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _not_written(path, error) from None
    return count


def _overwrite(descriptor: int, each: Member) -> None:
    """Overwrite a file's content, then its header: name and time."""
    left, position = each.size, each.content_at
    while left:
        left_now = min(left, _PIECE)
        position += os.pwrite(descriptor, bytes(left_now), position)
        left = each.content_at + each.size - position
    head = bytearray(member(b"erased", b"", 0)[0])
    head[124:135] = b"%011o" % each.size
    head[156:157] = _ERASED
    checksum = sum(head) - sum(head[148:156]) + 8 * ord(" ")
    head[148:156] = b"%06o\0 " % checksum
    assert len(head) == BLOCK, "a header is one block; this is a bug"
    os.pwrite(descriptor, bytes(head), each.start)


def _not_written(path: Path, error: OSError) -> RecordingError:
    return RecordingError(
        f"{path}: expected to write it, got {error.strerror}; use the service's user"
    )
