"""Sender processes: started, released at one moment, waited for."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from loadtest.errors import LoadTestError

_HOME = Path(__file__).resolve().parent.parent
# From the release to the first request: time to open connections.
_START_S = 0.3
_LOOK_S = 0.1


def run_together(
    commands: Sequence[Sequence[str]],
    logs: Sequence[Path],
    limit_s: float,
    on_time: Callable[[float], None] = lambda _: None,
) -> None:
    """Run one process per command until all have ended.

    Each prints a line when it is ready, then reads the moment to start from its standard input,
    seconds of ``time.monotonic``: that clock is the machine's.

    Args:
        commands: Words of each command.
        logs: Files for the standard error of each.
        limit_s: Time limit, seconds after the start.
        on_time: Called repeatedly with the seconds since the start.

    Raises:
        LoadTestError: One ended with a code other than 0, or not in time.
    """
    processes: list[subprocess.Popen[str]] = []
    try:
        for command, log in zip(commands, logs, strict=True):
            with log.open("w") as said:
                process = subprocess.Popen(
                    command,
                    cwd=_HOME,
                    text=True,
                    stderr=said,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            processes.append(process)
        for process in processes:
            _pipe(process.stdout).readline()  # its line that it is ready, or its end
        start_at = time.monotonic() + _START_S
        for process in processes:
            with contextlib.suppress(BrokenPipeError):
                _pipe(process.stdin).write(f"{start_at!r}\n")
                _pipe(process.stdin).flush()
        for process, log in zip(processes, logs, strict=True):
            _wait(process, start_at, limit_s, on_time)
            if process.returncode:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                why = last[0] if last else f"exit code {process.returncode}"
                raise LoadTestError(f"load: expected samples of every process, got: {why}")
    finally:
        for process in processes:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                _pipe(process.stdin).close()
            _pipe(process.stdout).close()


def _wait(
    process: "subprocess.Popen[str]",
    start_at: float,
    limit_s: float,
    on_time: Callable[[float], None],
) -> None:
    while process.poll() is None:
        elapsed_s = time.monotonic() - start_at
        if elapsed_s > limit_s:
            raise LoadTestError(f"load: expected an end within {limit_s:.0f} s, got none")
        on_time(max(0.0, elapsed_s))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_S)


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None, "a pipe was asked for; this is a bug"
    return pipe
