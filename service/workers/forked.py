"""Workers forked from their supervisor, which has imported all that they import.

circus starts each worker as a new interpreter, which imports for a second what the supervisor
holds already. A fork has it at once, and shares its memory until one of the two writes to it.
Only on Linux: elsewhere system libraries may not be used between a fork and an exec.

The worker's main function, its environment and its descriptors are those of a new interpreter.
Leans on names inside circus, BentoML and prometheus-client; tests/service/workers/test_circus.py
lists them.
"""

import atexit
import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import bentoml._internal.log
import prometheus_client.values
import psutil  # type: ignore[import-untyped]
from _bentoml_impl.worker.service import main  # type: ignore[import-untyped]
from bentoml._internal.configuration.containers import BentoMLContainer
from circus.process import Process  # type: ignore[import-untyped]
from opentelemetry.trace import NoOpTracerProvider

# What makes a worker's own state as it is imported; all else is the same in every process.
_OWN_MODULE = "service.app"
_MODULE = "_bentoml_impl.worker.service"
_configure_logging: Callable[[], None] = bentoml._internal.log.configure_server_logging


class _Child(psutil.Process):  # type: ignore[misc]
    """A child process with what circus asks of a ``Popen``."""

    stdout = stderr = None
    returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, None while it runs; -signal if one ended it."""
        if self.returncode is None:
            try:
                self.returncode = self.wait(0)
            except psutil.TimeoutExpired:
                return None
            if self.returncode is None:  # circus has reaped it
                self.returncode = 0
        return self.returncode


class ForkedProcess(Process):  # type: ignore[misc]
    """One of circus' processes, forked where it runs BentoML's worker.

    Attributes:
        is_here: Whether this process was forked so, with all that its supervisor had configured.
    """

    is_here = False

    def spawn(self) -> None:
        """Fork the worker; start any other command as circus does."""
        words = self.format_args(sockets_fds=self._get_sockets_fds())
        if words[1:3] != ["-m", _MODULE]:
            super().spawn()
            return
        self.started = time.time()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal between the fork and ``_become`` would be told to the supervisor.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # ZeroMQ's threads hold no lock
                pid = os.fork()
            if pid == 0:
                self._become(words[2:], mask)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._worker = _Child(pid)

    def _become(self, words: list[str], mask: set[int | signal.Signals]) -> NoReturn:
        """Run the worker; never return into the supervisor's code."""
        status = 1
        ForkedProcess.is_here = True
        try:
            _leave_the_supervisor(has_input=not self.close_child_stdin)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.setsid()
            if self.working_dir:
                os.chdir(self.working_dir)
            os.environ.clear()
            os.environ.update(self.env)
            sys.modules.pop(_OWN_MODULE, None)
            if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
                values: Any = prometheus_client.values
                values.ValueClass = values.MultiProcessValue()
            bentoml._internal.log.configure_server_logging = _log_to_all
            bentoml._internal.log._component_name.cache_clear()  # the supervisor's, once it logged
            sys.argv = words
            main(words[1:], prog_name=words[0])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            _end(status)


def configure_bentoml(read: Callable[[], None]) -> None:
    """Read BentoML's configuration in a worker, unless its supervisor has; make no vain spans.

    Args:
        read: Reads it.
    """
    if not ForkedProcess.is_here:
        read()
    if BentoMLContainer.tracing.exporter_type.get() is None:  # no span would be sent
        BentoMLContainer.tracer_provider.set(NoOpTracerProvider())


def _leave_the_supervisor(*, has_input: bool) -> None:
    """Give up its signal handlers, its exit functions and its descriptors."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    atexit._clear()
    # Its objects stay: nothing here may close what they hold, by number, later.
    gc.freeze()
    null = os.open(os.devnull, os.O_RDWR)
    if not has_input:
        os.dup2(null, 0)
    for path in list(Path("/proc/self/fd").iterdir()):
        descriptor = int(path.name)
        try:
            if not os.get_inheritable(descriptor):
                os.dup2(null, descriptor, inheritable=False)
        except OSError:  # the folder's own, closed by now
            continue


def _log_to_all() -> None:
    """Configure logging as BentoML does, and keep the loggers that there are: it disables them."""
    _configure_logging()
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False


def _end(status: int) -> NoReturn:
    """End the process as an interpreter does, without the supervisor's frames."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
