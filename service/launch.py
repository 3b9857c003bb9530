"""Start the service: check models, settings and ports, then run ``bentoml serve``.

Knows BentoML's command line; the service itself is in ``app``.
"""

import contextlib
import gc
import importlib
import importlib.util
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click

from models.artifact import ArtifactError
from models.repository import ModelRepository
from service.access.access import open_access
from service.settings import SettingsError, load_settings, served_names
from service.workers import early
from service.workers.left_out import leave_out
from service.workers.metric_folder import own_folder

HOME = Path(__file__).resolve().parent.parent


def prepare(
    models: Path,
    host: str,
    port: int,
    workers: int | None = None,
    device: str | None = None,
    max_image_pixels: int | None = None,
) -> list[str]:
    """Check all that a start needs, and listen.

    Args:
        models: Model repository.
        host: Address to listen on.
        port: Port to listen on; 0: a free one, which the log says.
        workers: Processes that share the port (default: FOVEAL_WORKERS).
        device: Where models run (default: FOVEAL_DEVICE).
        max_image_pixels: Most pixels of an image (default: FOVEAL_MAX_IMAGE_PIXELS).

    Returns:
        The words for ``become_bentoml``.

    Raises:
        ArtifactError: ``models`` holds no model, or not the default one of the settings.
        SettingsError: A FOVEAL_* variable or a file that it names is wrong, or a port is not free.
    """
    configure(models, workers, device, max_image_pixels)
    port = check_port(host, port)
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    os.environ.setdefault("FOVEAL_GRPC_HOST", host)
    os.environ.setdefault("FOVEAL_METRICS_HOST", host)
    settings = load_settings()
    served_names(ModelRepository(models), settings.default_model)
    is_tls = open_access(settings).certificate is not None
    if settings.metrics_port:
        check_port(
            settings.metrics_host,
            settings.metrics_port,
            "FOVEAL_METRICS_HOST and FOVEAL_METRICS_PORT",
        )
    if settings.grpc_port and importlib.util.find_spec("grpc") is not None:
        check_port(
            settings.grpc_host,
            settings.grpc_port,
            "FOVEAL_GRPC_HOST and FOVEAL_GRPC_PORT, 0 for none",
        )
    if not is_tls:
        _listen(host, port)
    words = ["serve", "service.app:Foveal", "--working-dir", str(HOME)]
    return [*words, "--host", host, "--port", str(port)]


def configure(
    models: Path,
    workers: int | None = None,
    device: str | None = None,
    max_image_pixels: int | None = None,
) -> None:
    """Set the FOVEAL_* variables that options stand for.

    Raises:
        ArtifactError: ``models`` holds no model.
    """
    if not ModelRepository(models).names():
        raise ArtifactError(f"{models}: expected a folder of <name>/<version>/, got no model in it")
    # Not resolved: a link is followed at each poll, as it may lead elsewhere by then.
    os.environ["FOVEAL_MODELS"] = str(models.absolute())
    for name, value in (
        ("FOVEAL_WORKERS", workers),
        ("FOVEAL_DEVICE", device),
        ("FOVEAL_MAX_IMAGE_PIXELS", max_image_pixels),
    ):
        if value is not None:
            os.environ[name] = str(value)


def become_bentoml(words: list[str], last: Callable[[], None]) -> NoReturn:
    """Become ``bentoml serve``, in this process: a signal to it then reaches the service.

    What an import makes stays, so the garbage collector finds nothing in it: ``app`` turns it on,
    before there are workers. Of BentoML's commands only the one that serves is imported. It empties
    a folder for metrics at its start: ours, not the one that other services of this user may write
    to.

    Args:
        words: What ``prepare`` returned.
        last: Called when all is imported, before the service starts, and before an error of
            BentoML is shown; raises what ends the process instead.
    """
    gc.disable()
    leave_out()
    command = importlib.import_module("bentoml_cli.serve").serve_command
    importlib.import_module("bentoml._internal.context").server_context.service_type = "cli"
    container = importlib.import_module(
        "bentoml._internal.configuration.containers"
    ).BentoMLContainer
    with contextlib.suppress(OSError):  # the supervisor logs it
        folder = own_folder(Path(container.bentoml_home.get()))
        container.prometheus_multiproc_dir.set(str(folder))
    # Not its main(), which would make of Ctrl-C an "Aborted!" of its own.
    try:
        with command.make_context("bentoml", words) as context:
            last()
            command.invoke(context)
    except click.ClickException as error:
        last()  # Ctrl-C in the import of a compiled module comes out as an error of that
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    sys.exit()


def _listen(host: str, port: int) -> None:
    """Answer probes from now on: importing the service takes seconds on a busy machine."""
    try:
        early.begin(host, port)
    except OSError as error:
        raise SettingsError(_not_free(host, port, error)) from None


def check_port(host: str, port: int, how: str = "--host and --port") -> int:
    """Check that the service can listen on an address; return its port, a free one for 0.

    Raises:
        SettingsError: It cannot.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise SettingsError(_not_free(host, port, error, how)) from None


def _not_free(host: str, port: int, error: OSError, how: str = "--host and --port") -> str:
    return (
        f"{host}:{port}: expected a free port of this machine, got: {error.strerror}; "
        f"choose others with {how}"
    )
