"""A process that has imported what the service imports, and forks into one service after another.

A start of ``bentoml serve`` imports for longer than it serves a test. This process imports all but
``service.app`` once; each fork runs ``bentoml serve`` with its own environment, words and log.
What is imported depends on none of them: BentoML reads its variables when it serves, and what
reads ``FOVEAL_*`` is ``service.app``. The product starts its workers the same way. Only on Linux.

    fork(words, cwd, environment, log)   the process, as ``subprocess.Popen`` shows one
"""

import ast
import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
_LONGEST = 1 << 17  # bytes of one request: an environment and a command


class Forked:
    """A forked process, with those of ``subprocess.Popen``'s methods that the tests use.

    Args:
        link: Where the fork server writes its pid and, at its end, its status: a line each.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._lines = link.makefile("r")
        self.pid = int(self._lines.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._link, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            self.returncode = int(self._lines.readline())
            self._lines.close()
            self._link.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork(words: list[str], cwd: Path, environment: dict[str, str], log: IO[bytes]) -> Forked:
    """Run ``bentoml`` with these arguments in a process that is forked from the fork server."""
    ours, theirs = socket.socketpair()
    asked = json.dumps({"words": words, "cwd": str(cwd), "environment": environment}).encode()
    with theirs:
        socket.send_fds(_started(), [asked], [log.fileno(), theirs.fileno()])
    return Forked(ours)


@functools.cache
def _started() -> socket.socket:
    """Start the fork server, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forkserver"],
            cwd=ROOT,
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _import_what_the_service_imports() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("bentoml_cli.cli", "bentoml._internal.service.loader", "bentoml.serving"):
            importlib.import_module(name)
        for node in ast.walk(ast.parse((ROOT / "service/app.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                with contextlib.suppress(ModuleNotFoundError):  # an extra that is not installed
                    importlib.import_module(node.module)
    # BentoML disables the loggers that there are when it serves; usually these come later.
    bentoml = importlib.import_module("bentoml._internal.log")
    bentoml.SERVER_LOGGING_CONFIG["disable_existing_loggers"] = False
    gc.collect()
    gc.freeze()


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork for every request; return in a fork, with its request, and None at the end."""
    running: dict[int, tuple[int, int]] = {}  # a process' descriptor: its pid, where to report
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fd != requests.fileno():
                selector.unregister(key.fd)
                os.close(key.fd)
                pid, link = running.pop(key.fd)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                _report(link, status)
                os.close(link)
                continue
            content, descriptors, _, _ = socket.recv_fds(requests, _LONGEST, 2)
            if not content:
                for pid, _ in running.values():
                    os.kill(pid, signal.SIGKILL)
                return None
            log, link = descriptors
            if not (pid := os.fork()):
                selector.close()
                requests.close()
                _leave(log)
                return dict(json.loads(content))
            os.close(log)
            _report(link, pid)
            process = os.pidfd_open(pid)
            running[process] = pid, link
            selector.register(process, selectors.EVENT_READ)


def _report(link: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(link, b"%d\n" % number)


def _leave(log: int) -> None:
    """Keep none of the fork server's descriptors but the log, as both outputs."""
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    os.closerange(3, 1 + max(int(path.name) for path in Path("/proc/self/fd").iterdir()))


def main() -> None:
    """Serve forks until the tests end; in a fork, become ``bentoml``."""
    _import_what_the_service_imports()
    asked = _serve(socket.socket(fileno=os.dup(0)))
    if asked is None:
        return
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["bentoml", *asked["words"]]
    importlib.import_module("bentoml_cli.cli").cli(prog_name="bentoml")


if __name__ == "__main__":
    main()
