"""What is seen of a program that runs a while: a bar on a terminal, nothing elsewhere."""

import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from export.waiting import run_watched
from tests.server import ROOT

SLEEP = "import time; time.sleep({})"
PROGRAM = """
import sys
from export.waiting import run_watched
inner = [sys.executable, "-c", {inner!r}]
code, said = run_watched(inner, 60, "birds.onnx", lambda: (1, 3, "of 3 batches run"))
assert (code, said) == (0, ""), (code, said)
"""


def start(seconds: float, stderr: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", PROGRAM.format(inner=SLEEP.format(seconds))]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stderr=stderr
    )


def on_terminal(seconds: float) -> str:
    leader, follower = pty.openpty()
    with start(seconds, follower) as process:
        os.close(follower)
        said = b""
        try:
            while part := os.read(leader, 4096):
                said += part
        except OSError:  # how Linux says that the last process has closed it
            pass
    os.close(leader)
    assert process.returncode == 0
    return said.decode()


def in_a_log(seconds: float) -> str:
    with start(seconds, subprocess.PIPE) as process:
        _, said = process.communicate()
    assert process.returncode == 0
    return said.decode()


@pytest.mark.parametrize(
    ("run", "seconds", "is_shown"),
    [(on_terminal, 1.5, True), (on_terminal, 0, False), (in_a_log, 1.5, False)],
)
def test_a_long_run_is_shown_on_a_terminal_alone(
    run: Callable[[float], str], seconds: float, *, is_shown: bool
) -> None:
    said = run(seconds)
    assert ("birds.onnx" in said and "of 3 batches run" in said) == is_shown, said
    assert is_shown or said == ""


def test_a_program_that_does_not_end_is_killed() -> None:
    started = time.monotonic()
    words = [sys.executable, "-c", SLEEP.format(60)]
    with pytest.raises(subprocess.TimeoutExpired):
        run_watched(words, 0.7, "sleep", lambda: (0, None, ""))
    assert time.monotonic() - started < 30


def test_what_a_program_says_and_how_it_ends_are_returned() -> None:
    words = [sys.executable, "-c", "import sys; print('no', file=sys.stderr); sys.exit(3)"]
    pipes = {"stderr": subprocess.PIPE}
    assert run_watched(words, 60, "x", lambda: (0, None, ""), **pipes) == (3, "no\n")
    with pytest.raises(FileNotFoundError):
        run_watched(["/no/such/program"], 1, "x", lambda: (0, None, ""))
