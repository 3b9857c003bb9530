"""A user's Python that has imported torch already: each run of it is a fork.

An adoption imports torch, its exporters and what the user's code imports for longer than it works.
``forking_python`` starts the user's Python once, which imports all of these, and returns a program
to start in its place: it takes the path of a script and its words, as a Python does, and ends as
the script does. This file runs in the user's environment, so it imports only the standard library
and nothing of this project. Only on Linux.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PACKAGES = (
    "torchvision.transforms.v2",
    "timm",
    "timm.data",
    "transformers",
    "onnxscript",
    "torch._dynamo",
    "torch.onnx._internal.exporter._core",
)
_LONGEST = 1 << 17  # bytes of a request: an environment and words
_PR_SET_PDEATHSIG = 1

# Starts in hundredths of a second: no site, no environment.
_PROGRAM = """#!{python} -IS
import json, os, signal, socket, sys

link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
link.connect({address!r})
asked = {{"words": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(link, [json.dumps(asked).encode()], [0, 1, 2])
code = int(link.recv(16) or b"1")
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@contextmanager
def forking_python(python: Path, folder: Path) -> Iterator[Path]:
    """Make a program that runs scripts as a Python does, in forks of one process of it.

    Args:
        python: Of a user's environment.
        folder: An empty one, of a short path.
    """
    address = folder / "forks"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(address))
        listening.listen(64)
        words = [str(python), __file__]
        process = subprocess.Popen(words, stdin=listening.fileno(), stdout=subprocess.DEVNULL)
    program = folder / "python"
    program.write_text(_PROGRAM.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    try:
        yield program
    finally:
        process.kill()
        process.wait()


def _import_what_users_import() -> None:
    sys.path.pop(0)  # this file's folder
    for name in _PACKAGES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _accept(listening: socket.socket) -> tuple[socket.socket, bytes, list[int]]:
    """Fork for every connection; return in a fork, with what came over it."""
    while True:
        link, _ = listening.accept()
        content, files, _, _ = socket.recv_fds(link, _LONGEST, 3)
        if not os.fork():
            return link, content, files
        link.close()
        for file in files:
            os.close(file)


def _wait(pid: int, link: socket.socket) -> None:
    """Wait for a process, and tell its code; kill it if nobody asks any more."""
    process = os.pidfd_open(pid)
    ended, _, _ = select.select([process, link.fileno()], [], [])
    if process not in ended:
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    if process in ended:
        link.send(b"%d" % code)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Fork until the tests end; in a fork, run a script."""
    _end_with_parent()
    _import_what_users_import()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    link, content, files = _accept(socket.socket(fileno=os.dup(0)))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _end_with_parent()
    if pid := os.fork():
        return _wait(pid, link)
    _end_with_parent()
    for target, file in enumerate(files):
        os.dup2(file, target)
    os.closerange(3, 1 + max(int(path.name) for path in Path("/proc/self/fd").iterdir()))
    asked = json.loads(content)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = asked["words"]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
