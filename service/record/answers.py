"""Answers of late, found by the id of their request and the row: what a truth is joined with.

One file a worker, mapped into memory, in the service's own folder. Its worker alone adds to it;
every worker finds answers in all of them, also in those of workers that were killed, and notes the
truth of a row under a lock. A file holds the last N rows and never grows: a ring of records, each
of which names the one before it in the same slot of a hash table.

    file: rows so far | head of each slot | records
"""

import contextlib
import fcntl
import itertools
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

# Number, key, number of the one before it in its slot, time; version, model; what was answered, in
# 16 bytes; truth; flags. Numbers begin with 1; 0: none.
_ONE = struct.Struct("<QQQdIIif8xII")
_SEVERAL = struct.Struct("<QQQdII16sII")
_NUMBER = struct.Struct("<Q")
_TRUTH = struct.Struct("<I")
_TRUTH_AT = 56
RECORD_BYTES = _ONE.size
_HEAD_BYTES = 8
_LOCK = "answers.lock"
SHADOW, ABSTAINED, SEVERAL = 1, 2, 4
# Of a multi-label model's answer, one record holds so many labels.
LABELS_A_RECORD = 128
# Odd numbers that spread the rows, and the records, of one request over the keys.
_ROW, _PART = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
_64 = (1 << 64) - 1


def key_of(request_id: bytes) -> int:
    """Return the number that stands for an id, the same in every process; never 0."""
    return int.from_bytes(blake2b(request_id, digest_size=8).digest(), "little") or 1


def model_key(name: str) -> int:
    """Return the number that stands for a model's name."""
    return zlib.crc32(name.encode())


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered for one row.

    Attributes:
        at: ``time.monotonic`` of the answer, seconds; of one clock in all processes.
        version: That answered.
        index: Of the first label; of no meaning for a multi-label model.
        confidence: Its probability, 0 to 1; of no meaning for a multi-label model.
        is_several: Whether a multi-label model answered; ``Answers.given`` has its labels.
        is_shadow: Whether no client saw it.
        is_abstained: Whether the model gave no label.
        truth: What was noted as true, by ``Answers.note``; 0: nothing yet.
    """

    at: float
    version: int
    index: int
    confidence: float
    is_several: bool
    is_shadow: bool
    is_abstained: bool
    truth: int
    _file: "_File"
    _number: int
    _key: int


class _File:
    """One mapped file."""

    def __init__(self, descriptor: int, rows: int) -> None:
        slots = 1 << max(rows - 1, 1).bit_length()
        self.rows = rows
        self.mask = slots - 1
        self.first = _HEAD_BYTES + 8 * slots
        self.size = self.first + rows * RECORD_BYTES
        self.memory = _mapped(descriptor, self.size)
        self.heads = memoryview(self.memory)[: self.first].cast("Q")  # the first is the count

    def offset(self, number: int) -> int:
        return self.first + (number - 1) % self.rows * RECORD_BYTES

    def oldest(self) -> int:
        """Return the first number that is not about to be written over."""
        return max(1, self.heads[0] - self.rows + 1 + self.rows // 64)

    def find(self, key: int) -> Iterator[tuple[int, bytes]]:
        """Yield number and record of each answer with a key, the newest first."""
        number, oldest = self.heads[1 + (key & self.mask)], self.oldest()
        while number >= oldest:
            offset = self.offset(number)
            record = self.memory[offset : offset + RECORD_BYTES]
            found, its_key, before = struct.unpack_from("<QQQ", record)
            if found != number or _NUMBER.unpack_from(self.memory, offset)[0] != number:
                return  # it is being written over
            if its_key == key:
                yield number, record
            if before >= number:
                return
            number = before


def _mapped(descriptor: int, size: int) -> mmap.mmap:
    """Map a file whose room on the disk is taken: a page without room would end the process."""
    if os.fstat(descriptor).st_size < size:
        os.posix_fallocate(descriptor, 0, size)
    return mmap.mmap(descriptor, size)


class Answers:
    """The answers of all workers; ``add`` is for the loop's thread, the rest for any.

    Args:
        folder: The service's own, for the files of all workers.
        rows: How many answered rows each worker remembers.

    Raises:
        OSError: There is no room in the folder.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        self._folder = folder
        self._rows = rows
        self._files: dict[str, _File] = {}
        for number in itertools.count():
            name = f"answers-{number}"
            # Open for good, and so locked: the kernel gives the lock back when this process ends,
            # and the next worker goes on where it ended.
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            self._own = self._files[name] = _File(descriptor, rows)
            break

    def add(
        self, key: int, row: int, at: float, model: tuple[int, int], answer: tuple[int, float, int]
    ) -> None:
        """Keep the answer for one row.

        Args:
            key: ``key_of`` its request.
            row: Its number in the request, from 0.
            at: ``time.monotonic``, seconds.
            model: ``model_key`` and version.
            answer: Index and probability of the first label, and flags.
        """
        file = self._own
        heads = file.heads
        key = (key + row * _ROW) & _64
        number, slot = heads[0] + 1, 1 + (key & file.mask)
        name, version = model
        index, confidence, flags = answer
        _ONE.pack_into(
            file.memory,
            file.offset(number),
            number,
            key,
            heads[slot],
            at,
            version,
            name,
            index,
            confidence,
            0,
            flags,
        )
        # In this order: whoever is killed in between leaves no slot that names half a record.
        heads[0] = number
        heads[slot] = number

    def add_several(
        self, key: int, row: int, at: float, model: tuple[int, int], given: bytes, flags: int = 0
    ) -> None:
        """Keep the labels that one row of a multi-label model got.

        Args:
            key: As of ``add``.
            row: As of ``add``.
            at: As of ``add``.
            model: As of ``add``.
            given: A bit a label, the first label the highest of the first byte.
            flags: As of ``add``.
        """
        file = self._own
        heads = file.heads
        name, version = model
        parts = range((len(given) + 15) // 16)
        for part in reversed(parts):  # the first, which stands for the row, last
            own = (key + row * _ROW + part * _PART) & _64
            number, slot = heads[0] + 1, 1 + (own & file.mask)
            piece = given[16 * part : 16 * part + 16]
            record = number, own, heads[slot], at, version, name, piece, 0, flags | SEVERAL
            _SEVERAL.pack_into(file.memory, file.offset(number), *record)
            heads[0] = number
            heads[slot] = number

    def find(self, key: int, row: int, model: int) -> list[Answer]:
        """Return what was answered for a row, within ``locked``: the newest first, shadows' too.

        Args:
            key: ``key_of`` the request.
            row: Number of the row in it, from 0.
            model: ``model_key``.
        """
        own = (key + row * _ROW) & _64
        found = [
            answer
            for file in self._files.values()
            for number, record in file.find(own)
            if (answer := _read(file, number, own, record, model)) is not None
        ]
        return sorted(found, key=lambda answer: -answer.at)

    def given(self, answer: Answer, labels: int) -> bytes | None:
        """Return the bits of the labels that a multi-label model gave a row.

        Args:
            answer: As ``find`` returned it.
            labels: How many the model has.

        Returns:
            A bit a label, as in ``add_several``; None if a part was written over meanwhile.
        """
        bits = b""
        for part in range((labels + LABELS_A_RECORD - 1) // LABELS_A_RECORD):
            for _, record in answer._file.find((answer._key + part * _PART) & _64):
                _, _, _, at, version, _, piece, _, flags = _SEVERAL.unpack(record)
                if (at, version, bool(flags & SHADOW)) == (
                    answer.at,
                    answer.version,
                    answer.is_shadow,
                ):
                    bits += piece
                    break
            else:
                return None
        return bits

    def note(self, answer: Answer, truth: int) -> None:
        """Note what is true of a row, within ``locked``.

        Args:
            answer: As ``find`` returned it.
            truth: A number that stands for the truth, 1 to 2^32 - 1.
        """
        file, offset = answer._file, answer._file.offset(answer._number)
        if answer._number >= file.oldest():
            _TRUTH.pack_into(file.memory, offset + _TRUTH_AT, truth)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other workers, and other threads, from noting a truth meanwhile.

        Within it, answers of workers that came since the last time are found, too.
        """
        descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._open_others()
            yield
        finally:
            os.close(descriptor)

    def _open_others(self) -> None:
        """Map the files of workers that came since."""
        for path in self._folder.glob("answers-*"):
            if path.name in self._files:
                continue
            descriptor = os.open(path, os.O_RDWR)
            try:
                if os.fstat(descriptor).st_size >= self._own.size:
                    self._files[path.name] = _File(descriptor, self._rows)
            finally:
                os.close(descriptor)


def _read(file: _File, number: int, key: int, record: bytes, model: int) -> Answer | None:
    _, _, _, at, version, name, index, confidence, truth, flags = _ONE.unpack(record)
    if name != model:
        return None
    return Answer(
        at,
        version,
        index,
        confidence,
        bool(flags & SEVERAL),
        bool(flags & SHADOW),
        bool(flags & ABSTAINED),
        truth,
        file,
        number,
        key,
    )
