"""The servers that Foveal is compared with, each in an environment of its own, pinned to its cores.

Environments are made under ``.peers/`` on first use. The scripts are in ``peer_servers/``.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.serving import is_answered, running

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


def peers_folder() -> Path:
    """Return the folder of the peers' environments: ``FOVEAL_PEERS``, or ``.peers`` here."""
    return Path(os.environ.get("FOVEAL_PEERS", ".peers")).absolute()


def environment(peer: Peer) -> Path:
    """Return the ``bin`` of a peer's environment; make it if it is not there."""
    folder = peers_folder() / peer.name
    if not (folder / ".made").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q", *peer.requirements]
        subprocess.run(pip, check=True)
        (folder / ".made").touch()
    return folder / "bin"


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """A request like those that will be counted; a server that answers it is ready."""

    url: str
    content: bytes
    media_type: str


@contextmanager
def serving(
    command: list[str], port: int, cpus: str, variables: dict[str, str], probe: Probe
) -> Iterator[int]:
    """Run a server pinned to its CPUs, from the peers' folder, until the block ends.

    Args:
        command: Words that start it.
        port: Its port; also in the name of its log, which is in the folder for temporary files.
        cpus: CPUs as ``taskset -c`` takes them.
        variables: Added to the environment.
        probe: Request that it must answer before the block begins.

    Yields:
        Its process number.

    Raises:
        LoadTestError: It ended, or did not answer within a minute.
    """
    with running(
        ["taskset", "-c", cpus, *command],
        Path(tempfile.gettempdir()) / f"foveal-bench-{port}.log",
        lambda: is_answered(probe.url, probe.content, probe.media_type),
        variables={"PEER_PORT": str(port), "BENTOML_DO_NOT_TRACK": "True", **variables},
        cwd=HERE / "peer_servers",
    ) as pid:
        yield pid
