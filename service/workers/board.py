"""Memory that the supervisor shares with its workers: what each one does, in whole numbers.

Each worker writes its own slot, the supervisor clears the slots of the dead. A slot is read without
a lock: its numbers are independent of each other, and each is written at once.
"""

import contextlib
import mmap
import os
import tempfile

_PID, _READY, _LOADING, _BEATS, _CONNECTIONS, _FIELDS = range(6)
_WORD = 8  # bytes of a number
# Connections of a slot without a worker: more than any worker has.
NOBODY = 1 << 40


class Board:
    """The shared memory: a column of numbers for each field, an entry for each slot.

    Args:
        descriptor: File of the memory, as ``create_board`` returns it.

    Attributes:
        pids: Process of the slot; 0: none.
        ready: 1 once the worker has loaded its models.
        loading: 1 while the worker loads a model; onnxruntime may then hold the interpreter.
        beats: Turns of the worker's loop that were counted, about one a second.
        connections: HTTP connections that are open; ``NOBODY`` without a worker.
    """

    def __init__(self, descriptor: int) -> None:
        cells = memoryview(mmap.mmap(descriptor, 0)).cast("q")
        self.pids = cells[_PID::_FIELDS]
        self.ready = cells[_READY::_FIELDS]
        self.loading = cells[_LOADING::_FIELDS]
        self.beats = cells[_BEATS::_FIELDS]
        self.connections = cells[_CONNECTIONS::_FIELDS]

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self.pids)

    def enter(self, slot: int) -> None:
        """Take a slot for this process, which begins to load."""
        self.ready[slot] = self.beats[slot] = 0
        self.loading[slot] = 1
        self.pids[slot] = os.getpid()

    def clear(self, pid: int) -> bool:
        """Free the slot of a process that ended; return whether it was ready."""
        with contextlib.suppress(ValueError):
            slot = self.pids.tolist().index(pid)
            was_ready = bool(self.ready[slot])
            self.pids[slot] = self.ready[slot] = self.loading[slot] = 0
            self.connections[slot] = NOBODY
            return was_ready
        return False


def create_board(slots: int) -> int:
    """Make the memory of a board that child processes inherit; return its descriptor."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("foveal-board", 0)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.set_inheritable(descriptor, True)
    os.ftruncate(descriptor, slots * _FIELDS * _WORD)
    board = Board(descriptor)
    for slot in range(slots):
        board.connections[slot] = NOBODY
    return descriptor
