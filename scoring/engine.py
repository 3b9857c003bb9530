"""The engine of this machine: the chunks of all sources are read, decoded and run, in order.

    read (a thread) -> decode, run (a thread for each core)

Both work at once, with a bounded queue between them. A slow image blocks only its own core, until
``WINDOW_ROWS`` rows after it wait to be written.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

from models.machine import available_cpus
from scoring.budget import Budget
from scoring.files import check_size, fetch_ahead
from scoring.local import LocalModel
from scoring.marks import Marks
from scoring.rows import CHUNK_BYTES, CHUNK_ROWS, Chunk, Source
from scoring.stages import OutputOptions, Scored, Stages
from scoring.urls import Fetches

# Finished rows that may wait for an unfinished one before them: at 30,000 rows/s, the second that
# the largest image takes. Fewer if all probabilities are written: they hold at most _WINDOW_BYTES.
WINDOW_ROWS = 1 << 15
_WINDOW_BYTES = 32 << 20
# Long ids and kept values count as more rows: as much as that of usual ones of a chunk.
_SLOT_BYTES = 1 << 16

# A reader that waits for a service is left behind: its thread ends with the process.
_READER_S = 1.0

# Number of a source, and the number of its finished rows.
Position = tuple[int, int]
# Scores all rows after a position, in order; yields the number of the source and a scored chunk.
Engine = Callable[[Sequence[Source], Position], Generator[tuple[int, Scored]]]


class LocalEngine:
    """All cores of this machine.

    Args:
        model: The model, loaded with one thread for a run, because each core has a run of its own.
        output: What is written for each row.
        threads: Chunks to work on at once; 0 is one for each core.
        marks: File of the rows that are being decoded; None: there is none.
    """

    def __init__(
        self,
        model: LocalModel,
        output: OutputOptions,
        threads: int = 0,
        marks: Path | None = None,
    ) -> None:
        self._threads = threads or available_cpus()
        self._stages = Stages(model, output, Marks(marks, self._threads) if marks else None)
        row_bytes = 4 * len(model.artifact.labels) if output.probabilities else 0
        rows = min(WINDOW_ROWS, _WINDOW_BYTES // row_bytes) if row_bytes else WINDOW_ROWS
        self._window = max(4 * self._threads, rows // CHUNK_ROWS)

    def __call__(
        self, sources: Sequence[Source], position: Position
    ) -> Generator[tuple[int, Scored]]:
        """Score all rows after a position, in order."""
        waiting: SimpleQueue[tuple[int, Future[Scored], int] | BaseException | None] = SimpleQueue()
        # Two bounds: encoded images are large, so few chunks are read ahead of the decoders;
        # results are small, so many may wait for a slow chunk before them.
        undecoded = Budget(3 * self._threads * CHUNK_BYTES)
        unwritten = Budget(self._window)
        stopping = Event()
        fetches = Fetches(check_size)

        def read() -> None:
            try:
                for number, chunk in read_from(sources, position):
                    image_bytes = max(CHUNK_BYTES, chunk.image_bytes)
                    slots = 1 + chunk.text_bytes // _SLOT_BYTES
                    undecoded.take(image_bytes)
                    unwritten.take(slots)
                    if stopping.is_set():
                        return
                    fetch_ahead(chunk, fetches)
                    future = pool.submit(self._stages, chunk)
                    del chunk  # it is freed when it is scored
                    future.add_done_callback(partial(_give, undecoded, image_bytes))
                    waiting.put((number, future, slots))
                waiting.put(None)
            except BaseException as error:
                waiting.put(error)

        with ThreadPoolExecutor(self._threads, "score") as pool:
            reader = Thread(target=read, name="read", daemon=True)
            reader.start()
            try:
                while (item := waiting.get()) is not None:
                    if isinstance(item, BaseException):
                        raise item
                    number, future, slots = item
                    yield number, future.result()
                    unwritten.give(slots)
            finally:
                # Also when the caller stops early: wake the reader wherever it waits, then end it.
                stopping.set()
                undecoded.close()
                unwritten.close()
                fetches.close()
                reader.join(_READER_S)
                fetches.close()  # it may have begun another one
                pool.shutdown(cancel_futures=True)


def _give(budget: Budget, amount: int, _: "Future[Scored]") -> None:
    budget.give(amount)


def read_from(sources: Sequence[Source], position: Position) -> Iterator[tuple[int, Chunk]]:
    """Stream the chunks of all sources after a position, with the number of the source."""
    first, done = position
    for number in range(first, len(sources)):
        row = done if number == first else 0
        for chunk in sources[number].chunks(row):
            chunk.place = number, row
            row += len(chunk.ids)
            yield number, chunk
