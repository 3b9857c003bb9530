"""A worker's ties to its supervisor: it ends with it, and shows that its event loop turns.

``join`` runs when the worker is imported, ``Worker.give_way`` when its models begin to load on a
thread, ``Worker.start`` when they are loaded. Without a
supervisor (a service inside another program) there is no worker, and nothing is tied.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from service.workers.balance import Balance
from service.workers.board import Board

logger = logging.getLogger("foveal.worker")

# Seconds between two signs of life.
BEAT_S = 1.0
# What the supervisor passes on: its process, the board's descriptor, the listening socket's.
VARIABLE = "FOVEAL_SUPERVISOR"
# How often a worker that loads looks whether another is ready, seconds.
GIVE_WAY_S = 0.05
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Worker:
    """This process as its supervisor sees it.

    Args:
        supervisor: Its process.
        board: The shared memory.
        slot: This worker's entries in it.
        listener: Descriptor of the listening socket.

    Attributes:
        was_signalled: Whether a SIGHUP came before ``start``.
    """

    def __init__(self, supervisor: int, board: Board, slot: int, listener: int) -> None:
        self._supervisor = supervisor
        self._board = board
        self._slot = slot
        self._listener = listener
        self._balance: Balance | None = None
        self.was_signalled = False

    def begin(self) -> None:
        """End with the supervisor from now on, and remember a SIGHUP instead of ending by it."""
        _die_with(self._supervisor)
        self._board.enter(self._slot)
        signal.signal(signal.SIGHUP, self._remember)

    @property
    def has_ready_peers(self) -> bool:
        """Whether another worker has loaded its models: clients are better served there."""
        return any(ready for slot, ready in enumerate(self._board.ready) if slot != self._slot)

    def give_way(self, loop: asyncio.AbstractEventLoop) -> None:
        """Leave new connections to workers that are ready, until this one is."""
        if len(self._board) > 2:
            self._balance = self._new_balance(loop)
            self._give_way(loop)

    def _give_way(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._balance is not None and not self._board.ready[self._slot]:
            if self.has_ready_peers:
                self._balance.hold()
            loop.call_later(GIVE_WAY_S, self._give_way, loop)

    def announce(self) -> float:
        """Say that the models are loaded.

        Returns:
            Seconds until every worker that still loads has given way.
        """
        self._board.ready[self._slot] = 1
        return 2 * GIVE_WAY_S if len(self._board) > 2 else 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> Balance | None:
        """Accept connections, and show from now on that the loop turns.

        Returns:
            What counts connections, None where one worker takes them all.
        """
        board, slot = self._board, self._slot
        board.connections[slot] = 0
        board.loading[slot] = 0
        board.ready[slot] = 1
        self._beat(loop)
        if self._balance is not None:
            self._balance.release()
            return self._balance
        return self._new_balance(loop) if len(board) > 2 else None

    def _new_balance(self, loop: asyncio.AbstractEventLoop) -> Balance:
        return Balance(loop, self._listener, self._board.connections, self._slot)

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Mark the time in which a model loads: the loop may stand still, as it does not hang."""
        self._board.loading[self._slot] = 1
        try:
            yield
        finally:
            self._board.loading[self._slot] = 0

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._board.beats[self._slot] += 1
        loop.call_later(BEAT_S, self._beat, loop)

    def _remember(self, _number: int, _frame: FrameType | None) -> None:
        self.was_signalled = True


def join(index: int | None) -> Worker | None:
    """Tie this process to the supervisor that started it.

    Args:
        index: Number of the worker, from 1; None: it has no supervisor.

    Returns:
        None without a supervisor of ours.
    """
    words = os.environ.get(VARIABLE, "").split()
    if not words or index is None:
        return None
    supervisor, descriptor, listener = map(int, words)
    worker = Worker(supervisor, Board(descriptor), index - 1, listener)
    worker.begin()
    return worker


def log_as_bentoml() -> None:
    """Log through BentoML's handlers, in its format; it disables the loggers that it finds."""
    ours = logging.getLogger("foveal")
    ours.handlers = logging.getLogger("bentoml").handlers
    ours.setLevel(logging.INFO)
    ours.propagate = False
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == ours.name and isinstance(logger, logging.Logger):
            logger.disabled = False


def end_worker(drain: Callable[[], None]) -> None:
    """End this process in order, as its GPU works again only in another: the supervisor starts it.

    Args:
        drain: Makes it unready at once; what it accepted is answered after that.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        return  # it ends already
    logger.error("the GPU does no further work in this process, which ends; another one starts")
    drain()
    signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def stopping_at_once() -> Iterator[None]:
    """Let SIGTERM end the process: a worker that still loads has accepted nothing."""
    previous = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _die_with(supervisor: int) -> None:
    """End this process when its supervisor ends, in whatever way, also if it already has.

    SIGKILL: a worker whose loop hangs would not follow a milder signal, and would keep the port.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(supervisor,), name="supervisor", daemon=True).start()
    if os.getppid() != supervisor:  # it ended before the call
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(supervisor: int) -> None:
    while os.getppid() == supervisor:
        time.sleep(BEAT_S)
    os.kill(os.getpid(), signal.SIGKILL)
