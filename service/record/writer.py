"""The thread that writes recordings: takes what was asked from a bounded queue, makes samples.

It never holds anyone up: what has no room in the queue is dropped and counted, and after each burst
of work the thread rests as long as the burst took, so that the event loop has the interpreter. When
the disk is full, or the folder is not to be written, it stops, says so once, and tries again after
``RETRY_S``.
"""

import contextlib
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service.metrics.families import RECORD_BYTES, RECORD_ROWS, RECORD_STOPPED
from service.record.asked import Asked, samples
from service.record.sample import dump
from service.record.shards import Shard, keep_ring, make_folder, member
from service.record.truths import keep_truths

logger = logging.getLogger("foveal.record")

# What may wait for the thread, and what it makes at once before it rests.
QUEUE_BYTES = 16 << 20
_BURST = 64
_BURST_BYTES = 1 << 20
# Once it wakes, so long until it writes, or until a quarter of the queue is full: what comes
# meanwhile is written together. Of 35 rows a second one takes 80 us so, 150 with 0.25 s.
_GATHER_S = 1.0
_GATHER_BYTES = QUEUE_BYTES // 4
# At most this much in a shard, and a sixteenth of the ring: what is deleted at once.
_SHARD_BYTES = 64 << 20
_LEAST_SHARD_BYTES = 64 << 10
_LEAST_TRUTH_BYTES = 1 << 20
# A shard ends after this long, so that what is older than allowed can go; an idle one, too.
_SHARD_S = 3600.0
_WAKE_S = 20.0
RETRY_S = 60.0
WRITTEN, DROPPED, FAILED = "written", "dropped", "failed"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a recording may take.

    Attributes:
        folder: Where its shards are.
        most_bytes: Of all its shards, of all workers together.
        days: After which they are deleted.
        workers: Processes that write there.
        keeps_exif: Whether images are kept as they came.
        keep: Which rows, as metrics name it.
    """

    folder: Path
    most_bytes: int
    days: float
    workers: int = 1
    keeps_exif: bool = False
    keep: str = "all"

    @property
    def shard_bytes(self) -> int:
        """Return the size at which a shard ends."""
        share = self.most_bytes // (16 * self.workers)
        return max(_LEAST_SHARD_BYTES, min(_SHARD_BYTES, share))

    @property
    def truth_bytes(self) -> int:
        """Return what the truths may take, beside the shards: a line is 60 bytes, a row 1.5 KiB."""
        return max(_LEAST_TRUTH_BYTES, self.most_bytes // 16)

    def oldest_s(self, now_s: float) -> float:
        """Return the time before which nothing is kept, seconds since 1970."""
        return now_s - self.days * 86_400

    @property
    def shard_s(self) -> float:
        """Return the age at which a shard ends, seconds."""
        return min(_SHARD_S, self.days * 86_400 / 4)


class Writer:
    """Writes what is put in.

    Args:
        bounds: What the recording may take.
        clock: Seconds since 1970.
    """

    def __init__(self, bounds: Bounds, clock: Callable[[], float] = time.time) -> None:
        self._bounds = bounds
        self._clock = clock
        self._waiting: deque[tuple[Asked, set[int] | None, int]] = deque()
        self._put_bytes = self._taken_bytes = 0
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._failed: Counter[tuple[str, str]] = Counter()
        self._is_asleep = False
        self._is_closing = False
        self._wake = threading.Event()
        self._shard: Shard | None = None
        self._stopped_until = self._ring_at = 0.0
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    def put(self, asked: Asked, rows: set[int] | None) -> None:
        """Queue a request, or drop it where there is no room; on one thread, the event loop's.

        Args:
            asked: The request.
            rows: As in ``asked.samples``.
        """
        size = asked.size
        if self._put_bytes - self._taken_bytes + size > QUEUE_BYTES:
            self._dropped[_labels(asked)] += asked.rows if rows is None else len(rows)
            return
        self._put_bytes += size
        self._waiting.append((asked, rows, size))
        if self._is_asleep or self._put_bytes - self._taken_bytes > _GATHER_BYTES:
            self._wake.set()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits and end the shard."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not (self._is_closing and not self._waiting):
            began = time.monotonic()
            try:
                if self._waiting:
                    self._write_burst()
                self._end_old()
            except OSError as error:
                self._stop(error)
            except Exception:
                logger.exception("recording failed; this is a bug")
            self._count_dropped()
            if self._is_closing:
                continue
            if self._waiting:
                time.sleep(time.monotonic() - began)
            else:
                self._sleep()
                if not self._is_closing:
                    self._wake.wait(_GATHER_S)
        self._end_shard()

    def _sleep(self) -> None:
        self._is_asleep = True
        if not self._waiting and not self._is_closing:  # nothing came since it was looked at
            self._wake.wait(_WAKE_S)
        self._is_asleep = False
        self._wake.clear()

    def _write_burst(self) -> None:
        """Make and write the samples of some requests, in one write."""
        parts: list[bytes] = []
        written: Counter[tuple[str, str]] = Counter()
        size = count = 0
        try:
            shard = self._open()
        except OSError:
            self._lose()
            raise
        while self._waiting and count < _BURST and size < _BURST_BYTES:
            asked, rows, counted = self._waiting.popleft()
            self._taken_bytes += counted
            try:
                for key, document, ending, content in samples(
                    asked, rows, keeps_exif=self._bounds.keeps_exif
                ):
                    name = shard.unique(key).encode()
                    if ending:
                        parts += member(name + b"." + ending.encode(), content, asked.time)
                    parts += member(name + b".json", dump(document), asked.time)
                    written[_labels(asked)] += 1
                    size += len(content)
                    count += 1
            except Exception:  # the others of the burst are written
                logger.exception("a request could not be recorded; this is a bug")
        try:
            shard.append(parts)
        except OSError:
            self._failed.update(written)
            self._lose()
            raise
        for labels, count in written.items():
            RECORD_ROWS.labels(*labels, WRITTEN).inc(count)

    def _open(self) -> Shard:
        """Return the shard that is written now, a new one where the old one is full.

        Raises:
            OSError: The folder cannot be written, or the disk has no room for a shard.
        """
        bounds = self._bounds
        if self._clock() < self._stopped_until:
            raise BlockingIOError
        if self._shard is not None and self._shard.size >= bounds.shard_bytes:
            self._end_shard()
        if self._shard is None:
            make_folder(bounds.folder)
            # Every worker may write one shard more before it looks again.
            room = bounds.most_bytes - bounds.workers * (bounds.shard_bytes + _BURST_BYTES)
            self._keep_ring(room)
            disk = os.statvfs(bounds.folder)
            if disk.f_bavail * disk.f_frsize < 2 * bounds.shard_bytes:
                raise OSError(28, "the disk is nearly full", str(bounds.folder))
            self._shard = Shard(bounds.folder)
            if self._stopped_until:
                logger.info("recording goes on in %s", bounds.folder)
            self._stopped_until = 0.0
            RECORD_STOPPED.labels(bounds.keep).set(0)
        return self._shard

    def _end_old(self) -> None:
        """End a shard that is old, and delete what is too old, also while nothing comes."""
        now = time.time()
        if self._shard is not None and now - self._shard.opened_at >= self._bounds.shard_s:
            self._end_shard()
        if self._stopped_until:  # tried again whether or not something comes: the metric says so
            with contextlib.suppress(BlockingIOError):
                self._open()
        if now >= self._ring_at:
            self._ring_at = now + self._bounds.shard_s
            if self._bounds.folder.is_dir():
                self._keep_ring(self._bounds.most_bytes)

    def _keep_ring(self, most_bytes: int) -> None:
        bounds = self._bounds
        oldest_s = bounds.oldest_s(self._clock())
        kept_bytes = keep_ring(bounds.folder, max(most_bytes, 0), oldest_s)
        keep_truths(bounds.folder, bounds.truth_bytes, oldest_s)
        RECORD_BYTES.labels(bounds.keep).set(kept_bytes)

    def _end_shard(self) -> None:
        shard, self._shard = self._shard, None
        if shard is not None:
            with contextlib.suppress(OSError):
                shard.close()

    def _stop(self, error: OSError) -> None:
        """Stop recording for a while; answers go on."""
        self._end_shard()
        if isinstance(error, BlockingIOError):
            return
        if not self._stopped_until:
            logger.error(
                "recording stopped: %s: %s; it is tried again every %d s, requests are answered",
                self._bounds.folder,
                error.strerror,
                RETRY_S,
            )
        self._stopped_until = self._clock() + RETRY_S
        RECORD_STOPPED.labels(self._bounds.keep).set(1)

    def _lose(self) -> None:
        """Drop what waits: it must not hold memory while nothing can be written."""
        while self._waiting:
            asked, rows, counted = self._waiting.popleft()
            self._taken_bytes += counted
            self._failed[_labels(asked)] += asked.rows if rows is None else len(rows)

    def _count_dropped(self) -> None:
        for counts, outcome in ((self._dropped, DROPPED), (self._failed, FAILED)):
            for labels in list(counts):
                RECORD_ROWS.labels(*labels, outcome).inc(counts.pop(labels))


def _labels(asked: Asked) -> tuple[str, str]:
    return asked.artifact.name, str(asked.artifact.version)
