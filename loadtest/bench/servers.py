"""The servers that Foveal is compared with, each in an environment of its own, pinned to its cores.

Environments are made under ``.peers/`` on first use. The scripts are in ``peer_servers/``.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
_ORT, _PILLOW = "onnxruntime==1.31.1", "pillow==13.0.0"


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare with.

    Attributes:
        name: As the table prints it.
        requirements: What its environment needs, pinned.
        command: Words after the environment's ``bin/``; {port} is filled in.
        path: Route of a prediction.
        is_multipart: Whether it takes a form with the file ``images``.
    """

    name: str
    requirements: tuple[str, ...]
    command: str
    path: str
    is_multipart: bool = False


ALL_PEERS = (
    Peer(
        "bentoml",
        ("bentoml==1.4.39", _ORT, _PILLOW, "numpy", "uvloop", "httptools"),
        "bentoml serve bentoml_stock:Stock --port {port}",
        "/predict",
        True,
    ),
    Peer(
        "fastapi",
        ("fastapi", "uvicorn==0.54.0", _ORT, _PILLOW, "numpy", "uvloop", "httptools"),
        "uvicorn fastapi_plain:app --port {port} --no-access-log --log-level warning",
        "/predict",
    ),
    Peer(
        "litserve",
        ("litserve==0.2.19", "python-multipart", _ORT, _PILLOW, "numpy"),
        "python litserve_batched.py",
        "/predict",
        True,
    ),
    Peer(
        "mosec",
        ("mosec==0.9.8", _ORT, _PILLOW, "numpy"),
        "python mosec_batched.py --port {port}",
        "/inference",
    ),
)


def foveal(port: int) -> list[str]:
    """Return the command that serves this checkout."""
    bentoml = Path(sys.executable).parent / "bentoml"
    return [
        str(bentoml),
        "serve",
        "service.app:Foveal",
        "--port",
        str(port),
        "--working-dir",
        str(HERE.parents[1]),
    ]


def command_of(peer: Peer, port: int) -> list[str]:
    """Return the command that serves a peer; its environment is made if it is not there."""
    first, *rest = peer.command.format(port=port).split()
    return [str(environment(peer) / first), *rest]


def environment(peer: Peer) -> Path:
    """Return the ``bin`` of a peer's environment; make it if it is not there."""
    folder = Path(os.environ.get("FOVEAL_PEERS", ".peers")).absolute() / peer.name
    if not (folder / ".made").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q", *peer.requirements]
        subprocess.run(pip, check=True)
        (folder / ".made").touch()
    return folder / "bin"


@contextmanager
def serving(command: list[str], port: int, cpus: str, variables: dict[str, str]) -> Iterator[int]:
    """Run a server pinned to its CPUs, from the peers' folder, until the block ends.

    Args:
        command: Words.
        port: For the name of its log, in the folder for temporary files.
        cpus: As ``taskset -c`` takes them.
        variables: Added to the environment.

    Yields:
        The process's number; the server is perhaps not ready yet.
    """
    log = Path(tempfile.gettempdir()) / f"foveal-bench-{port}.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            ["taskset", "-c", cpus, *command],
            cwd=HERE / "peer_servers",
            stdout=output,
            stderr=output,
            env={**os.environ, "PEER_PORT": str(port), "BENTOML_DO_NOT_TRACK": "True", **variables},
            start_new_session=True,
        )
    try:
        yield server.pid
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(server.pid, number)
                time.sleep(1.0)
            except ProcessLookupError:
                break
        server.wait()


def wait_ready(url: str, content: bytes, media_type: str) -> None:
    """Wait until a server answers a request like those that will be counted.

    Raises:
        TimeoutError: It does not within 60 s.
    """
    deadline = time.monotonic() + 60
    while True:
        try:
            request = urllib.request.Request(url, content, {"Content-Type": media_type})
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{url}: expected an answer within 60 s, got {error}") from None
            time.sleep(0.25)
