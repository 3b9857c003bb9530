"""Start the service: everything that can be wrong is checked first, then ``bentoml serve`` runs.

Knows the command line of BentoML; the service itself is ``app``.
"""

import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from models.artifact import ArtifactError
from models.repository import ModelRepository
from service.settings import SettingsError, load_settings

HOME = Path(__file__).resolve().parent.parent


def launch(
    models: Path, host: str, port: int, workers: int | None = None, device: str | None = None
) -> NoReturn:
    """Become ``bentoml serve``: the same process, so whoever stops it stops the service.

    Args:
        models: Model repository.
        host: Address to listen on.
        port: Port to listen on.
        workers: Processes sharing the port; None: as FOVEAL_WORKERS says.
        device: Where models run; None: as FOVEAL_DEVICE says.

    Raises:
        ArtifactError: There is no model in ``models``.
        SettingsError: A FOVEAL_* variable is wrong, or the port is not to be had.
    """
    if not ModelRepository(models).names():
        raise ArtifactError(f"{models}: expected a folder of <name>/<version>/, got no model in it")
    _check_port(host, port)
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    os.environ["FOVEAL_MODELS"] = str(models.resolve())
    for name, value in (("FOVEAL_WORKERS", workers), ("FOVEAL_DEVICE", device)):
        if value is not None:
            os.environ[name] = str(value)
    os.environ.setdefault("FOVEAL_GRPC_HOST", host)
    settings = load_settings()
    if settings.grpc_port and importlib.util.find_spec("grpc") is not None:
        _check_port(
            settings.grpc_host,
            settings.grpc_port,
            "FOVEAL_GRPC_HOST and FOVEAL_GRPC_PORT, 0 for none",
        )
    words = ["bentoml", "serve", "service.app:Foveal", "--working-dir", str(HOME)]
    words += ["--host", host, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", *words])


def _check_port(host: str, port: int, how: str = "--host and --port") -> None:
    """See to it that the service could listen there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise SettingsError(
            f"{host}:{port}: expected a free port of this machine, got: {error.strerror}; "
            f"choose others with {how}"
        ) from None
