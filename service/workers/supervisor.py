"""The supervisor's part: replace workers that end or hang, stop them all in time.

``bentoml serve`` starts workers by circus; ``install`` adds to circus' arbiter what it lacks:

- a worker that ends is replaced at once, not at the next check ten seconds later; a check that
  comes meanwhile is passed over, where its refusal would be logged as a traceback;
- a worker whose event loop does not turn for ``HANG_S`` is killed, and so replaced;
- metrics are in a folder of this service's own, and the gauges of a worker end with it;
- a stop closes the listening socket first and kills what is left after the drain time;
- SIGHUP goes to every worker, and a worker begins with SIGHUP ignored;
- a signal to stop that comes before there are workers ends the process, where circus would keep it
  for its loop and then refuse it, being busy with the start.

Leans on names inside circus and BentoML; tests/service/workers/test_circus.py lists them.
"""

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.utils.circus import Arbiter
from circus.exc import ConflictError  # type: ignore[import-untyped]
from circus.sighandler import SysHandler  # type: ignore[import-untyped]
from circus.watcher import Watcher  # type: ignore[import-untyped]

from service.workers import early
from service.workers.board import Board, create_board
from service.workers.forked import ForkedProcess
from service.workers.metric_folder import VARIABLE as METRICS_VARIABLE
from service.workers.metric_folder import forget_gauges, own_folder
from service.workers.worker import BEAT_S, VARIABLE

logger = logging.getLogger("foveal.supervisor")

# What the log says once all workers are ready, by the address that they listen on.
Welcome = Callable[[tuple[str, int]], Iterable[str]]

# A loop that does not turn for so long hangs: the longest run of a batch is far below it.
HANG_S = 10.0
# After the drain time workers cut what is left and end; that takes them well below this.
_END_S = 2.0
_RETRY_S = 0.05
_DRAINING = b'{"error":"not ready: the service is stopping; retry elsewhere"}'
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nretry-after: 1\r\nconnection: close\r\n\r\n%s"
) % (len(_DRAINING), _DRAINING)
API_SOCKET = "_bento_api_server"


class Supervisor:
    """One arbiter, its workers and their board.

    Args:
        arbiter: circus' arbiter, before it starts.
        descriptor: The board's memory.
        drain_timeout_s: Time that workers have to answer what they accepted.
        is_tls: Whether connections begin with TLS: then no answer in plain text can be given.
        metrics: Folder of the workers' metric files; None: BentoML's.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        arbiter: Any,
        descriptor: int,
        drain_timeout_s: float,
        *,
        is_tls: bool = False,
        metrics: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._arbiter = arbiter
        self._metrics = metrics
        self._board = board = Board(descriptor)
        self._is_tls = is_tls
        self._wanted = 0
        self._welcome: Welcome | None = None
        self._clock = clock
        self._loop: Any = arbiter.loop.asyncio_loop
        self._check = arbiter.manage_watchers
        arbiter.manage_watchers = self._check_unless_busy  # what circus calls every ten seconds
        self._is_stopping = False
        self._ticked_at = clock()
        self._seen = [(0, 0, self._ticked_at)] * len(board)  # pid, beats, when they changed
        listener = arbiter.sockets[API_SOCKET].fileno()
        if sys.platform == "linux" and len(arbiter.watchers) == 1:  # --reload has a second one
            Watcher._process_class = ForkedProcess
        for watcher in arbiter.watchers:
            watcher.env[VARIABLE] = f"{os.getpid()} {descriptor} {listener}"
            if metrics is not None:
                watcher.env[METRICS_VARIABLE] = str(metrics)
            watcher.graceful_timeout = drain_timeout_s + _END_S
            watcher.hooks["before_spawn"] = self._before_spawn
            watcher.hooks["after_spawn"] = self._after_spawn
            watcher.hooks["after_reap"] = self._after_reap

    def start(self) -> None:
        """Take the signals over from circus, and watch the workers."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            self._loop.add_signal_handler(number, self._stop, number)
        self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        self._loop.add_signal_handler(signal.SIGCHLD, self._replace)
        self._loop.call_later(BEAT_S, self._tick)

    def _workers(self) -> list[Any]:
        return [p for watcher in self._arbiter.watchers for p in watcher.processes.values()]

    def _before_spawn(self, **_: Any) -> bool:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited, unlike a handler
        return True

    def _after_spawn(self, **_: Any) -> bool:
        if threading.current_thread() is threading.main_thread():
            self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        return True

    def _after_reap(
        self, watcher: Any, process_pid: int, exit_code: int | None = None, **_: Any
    ) -> None:
        was_ready = self._board.clear(process_pid)
        if self._metrics is not None:
            forget_gauges(self._metrics, process_pid)
        ended = (
            f"by {signal.Signals(-exit_code).name}"
            if exit_code and exit_code < 0
            else f"with exit code {exit_code}"
        )
        if self._is_stopping:
            if exit_code not in (0, None, -signal.SIGTERM):  # what it was sent
                logger.error("worker %d ended %s during the stop", process_pid, ended)
            return
        logger.error("worker %d ended %s; another one starts", process_pid, ended)
        if was_ready:
            # In a container BentoML replaces none. One that never got ready is not replaced there:
            # the container ends, so that its platform sees a start that fails.
            watcher.respawn = True
            self._loop.call_soon(self._manage)

    def _replace(self) -> None:
        """Reap what ended; who was ready is replaced at once, others at circus' next check."""
        if not self._is_stopping:
            self._arbiter.reap_processes()

    def _manage(self) -> None:
        if not self._is_stopping:
            self._unless_busy(self._check, self._manage)

    def _check_unless_busy(self) -> Any:
        with contextlib.suppress(ConflictError):
            return self._check()

    def _unless_busy(self, call: Callable[[], Any], again: Callable[[], None]) -> None:
        """Call the arbiter, or try again soon: it does one thing at a time and refuses others."""
        try:
            call()
        except ConflictError:
            self._loop.call_later(_RETRY_S, again)

    def greet_with(self, welcome: Welcome | None, workers: int) -> None:
        """Log something once so many workers are ready.

        Args:
            welcome: Returns its lines; called with the address of the listening socket.
            workers: How many are ready when the start is over.
        """
        self._welcome, self._wanted = welcome, workers

    def _greet(self) -> None:
        """Log, once, where the workers listen: a turn after all are ready and have said so."""
        if self._welcome is None:
            return
        board = self._board
        ready = [slot for slot in range(len(board)) if board.ready[slot] and board.beats[slot] > 1]
        if len(ready) >= self._wanted:
            welcome, self._welcome = self._welcome, None
            host, port, *_ = self._arbiter.sockets[API_SOCKET].getsockname()
            for line in welcome((host, port)):
                logger.info("%s", line)

    def _tick(self) -> None:
        """Kill the workers whose loop hangs."""
        self._greet()
        now = self._clock()
        # A machine or container that was suspended: nobody could beat meanwhile.
        was_away = now - self._ticked_at > HANG_S / 2
        self._ticked_at = now
        board, alive = self._board, {process.pid for process in self._workers()}
        for slot, (pid, beats, since) in enumerate(self._seen):
            state = (board.pids[slot], board.beats[slot])
            if was_away or board.loading[slot] or state != (pid, beats):
                self._seen[slot] = (*state, now)
            elif pid in alive and board.ready[slot] and now - since > HANG_S:
                logger.error("worker %d hangs: no turn of its loop for %.0f s", pid, now - since)
                self._seen[slot] = (*state, now)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if not self._is_stopping:
            self._loop.call_later(BEAT_S, self._tick)

    def _hang_up(self) -> None:
        """Pass SIGHUP on: each worker looks at the repository."""
        for process in self._workers():
            with contextlib.suppress(Exception):  # it has just ended
                process.send_signal(signal.SIGHUP)

    def _stop(self, number: int) -> None:
        if not self._is_stopping:
            logger.info("stopping by %s", signal.Signals(number).name)
            self._is_stopping = True
            for listener in self._arbiter.sockets.values():
                self._refuse(listener)
            self._end()

    def _end(self) -> None:
        self._unless_busy(self._arbiter.stop, self._end)

    def _refuse(self, listener: socket.socket) -> None:
        """Answer the connections that nobody accepted, and have the kernel refuse further ones.

        The socket is shut down, not closed: every worker holds it, also one that hangs.
        """
        for _ in range(socket.SOMAXCONN):
            try:
                connection, _address = listener.accept()
            except OSError:
                break
            with connection, contextlib.suppress(OSError):
                connection.setblocking(False)
                if not self._is_tls:
                    with contextlib.suppress(BlockingIOError):
                        connection.recv(1 << 20)  # what is unread would reset the answer
                    connection.send(_ANSWER)
                connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):  # macOS shuts down no listening socket
            listener.shutdown(socket.SHUT_RDWR)


def install(
    workers: int,
    drain_timeout_s: float,
    welcome: Welcome | None = None,
    is_tls: bool = False,
) -> None:
    """Supervise the workers of the arbiter that BentoML starts next in this process."""
    gc.freeze()  # what was imported stays, here and in the workers
    gc.enable()  # ``launch`` turned it off
    descriptor = create_board(2 * workers)  # circus may run twice as many for a moment
    SysHandler._register = lambda _: None
    start = Arbiter.start

    def supervised(arbiter: Any, cb: Callable[[Any], Any] | None = None) -> None:
        early.end(arbiter.sockets[API_SOCKET])
        supervisor = Supervisor(
            arbiter,
            descriptor,
            drain_timeout_s,
            is_tls=is_tls,
            metrics=_metrics_folder(),
        )
        supervisor.greet_with(welcome, workers)
        supervisor.start()
        start(arbiter, cb)

    Arbiter.start = supervised  # type: ignore[assignment,method-assign]


def _metrics_folder() -> Path | None:
    try:
        return own_folder(Path(BentoMLContainer.bentoml_home.get()))
    except OSError as error:
        logger.warning("metrics are in the folder that all services of this user share: %s", error)
        return None
