"""How a run ends before its time: a signal, a full disk, no memory. One line says how to go on.

Imports only the standard library: a signal is heard before torch is imported.
"""

import errno
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.errors import RunError

# Of a disk that takes no more: full, over a quota, above a limit of sizes, read-only.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# What torch says of the CPU's memory.
_NO_MEMORY = "can't allocate memory"


class StoppedError(RunError):
    """A signal ended the run.

    Attributes:
        exit_code: 128 and the signal's number, as shells report it.
    """

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.exit_code = 128 + signum


class _Terminated(BaseException):
    """SIGTERM; no library catches it as an error."""


@contextmanager
def explained(arguments: Sequence[str], progress: Callable[[], str]) -> Iterator[None]:
    """Let SIGTERM, Ctrl-C, a full disk and a lack of memory end the block with one line.

    Args:
        arguments: The words of the command line after ``foveal``.
        progress: Returns how far the run is, for the message: ``runs/a: epoch 3 of 20``.

    Raises:
        StoppedError: A signal came.
        RunError: The disk or the memory is full.
    """
    received: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {each: signal.getsignal(each) for each in signals}

    def stop(signum: int, _frame: Any) -> None:
        for each in signals:  # a second one ends the process at once
            signal.signal(each, signal.SIG_DFL)
        received.append(signum)
        if signum == signal.SIGTERM and _has_peers():
            return  # Lightning tells the other processes, and all end after the same step
        # Lightning ends the processes of other devices after a KeyboardInterrupt.
        raise KeyboardInterrupt if signum == signal.SIGINT else _Terminated

    for each in signals:
        signal.signal(each, stop)
    words = [word for word in arguments if word not in ("--resume", "--overwrite")]
    again = f"continue with: {shlex.join(['foveal', *words, '--resume'])}"
    try:
        yield
    except BaseException as error:
        if received:
            name = signal.Signals(received[0]).name
            message = f"{progress()}: stopped by {name}; {again}"
            raise StoppedError(message, received[0]) from None
        reason = _disk(error)
        if reason:
            raise RunError(
                f"{progress()}: expected room on the disk, got {reason}; free some, then {again}"
            ) from error
        reason = _memory(error)
        if reason:
            raise RunError(
                f"{progress()}: expected enough memory, got {reason}; lower --batch-size, "
                "--size, --widths or --hidden"
            ) from error
        raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _has_peers() -> bool:
    """Return whether this process trains together with others."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    return bool(distributed and distributed.is_available() and distributed.is_initialized())


def describe_progress(run: Path, epochs: int) -> str:
    """Return how far a run is: its folder and the rows of its ``metrics.csv`` that are kept.

    An epoch's row is written before its checkpoint, without which the epoch runs again.
    """
    curves = run / "metrics.csv"
    try:
        done = len(curves.read_text(encoding="utf-8").splitlines()) - 1
        written_ns = curves.stat().st_mtime_ns
    except OSError:
        return f"{run}: 0 of {epochs} epochs done"
    try:
        is_kept = (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns >= written_ns
    except OSError:
        is_kept = False
    return f"{run}: {max(0, done if is_kept else done - 1)} of {epochs} epochs done"


def _disk(error: BaseException) -> str:
    """Return why the disk took no more, "" if that is not the error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _DISK:
            return cause.strerror or "an error"
        cause = cause.__cause__ or cause.__context__
    return ""


def _memory(error: BaseException) -> str:
    """Return what was not to be had of memory, "" if that is not the error."""
    text = str(error)
    is_cpu = isinstance(error, RuntimeError) and _NO_MEMORY in text
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or is_cpu:
        return (text.splitlines() or ["none"])[0].split(_NO_MEMORY)[-1].lstrip(": ") or "none"
    return ""
