"""Where the tests' service runs: the same suite for the source tree and for what is shipped.

The variable FOVEAL_TEST_PLACE chooses it:

    (unset)        the source tree
    bento:HOME     ``bentoml serve foveal:latest`` from the store in HOME
    image:NAME     a container of that image, locked down: a stranger's user id, a root that cannot
                   be written, no capabilities, 512 MiB
    nginx:HOME     as bento:HOME, behind nginx with deploy/nginx/foveal.conf
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.serving import free_port
from tests.forkserver import Forked, fork

ROOT = Path(__file__).resolve().parent.parent
BENTOML = Path(sys.executable).with_name("bentoml")
NGINX_CONF = ROOT / "deploy/nginx/foveal.conf"
CONTAINER = (
    "--read-only",
    "--user=12345:12345",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--memory=512m",
    "--memory-swap=512m",
    "--pids-limit=200",
)


def inherited() -> dict[str, str]:
    """This process's environment without what configures the service."""
    ours = ("FOVEAL_", "BENTOML_", "ORT_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _of_imports(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that decide what is imported, and with which allocator and threads."""
    kinds = ("PYTHON", "LD_PRELOAD", "MALLOC_", "OMP_")
    return {name: value for name, value in environment.items() if name.startswith(kinds)}


_AT_IMPORT = _of_imports(os.environ)


def chosen() -> tuple[str, str]:
    """The place's kind and what follows its colon."""
    kind, _, rest = os.environ.get("FOVEAL_TEST_PLACE", "source").partition(":")
    assert kind in ("source", "bento", "image", "nginx"), f"FOVEAL_TEST_PLACE: got {kind!r}"
    return kind, rest


@dataclass(frozen=True)
class Start:
    """What a server is started with.

    Attributes:
        repository: The model repository.
        folder: Where BentoML's home goes.
        port: For HTTP.
        grpc_port: For gRPC; 0: off.
        variables: The settings, ``FOVEAL_*``.
        bentoml_config: BentoML's own configuration file.
    """

    repository: Path
    folder: Path
    port: int
    grpc_port: int = 0
    variables: dict[str, str] = field(default_factory=dict)
    bentoml_config: Path | None = None

    def open(self, log_path: Path) -> subprocess.Popen[bytes]:
        """Start it from nothing; its output goes to the log."""
        kind, rest = chosen()
        words, cwd, environment = self._container(rest) if kind == "image" else self._process(rest)
        with log_path.open("wb") as log:
            return subprocess.Popen(
                words, cwd=cwd, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def fork(self, log_path: Path) -> subprocess.Popen[bytes] | Forked:
        """Start it likewise; from the source tree on Linux, in a process that has its imports."""
        kind, rest = chosen()
        is_source = kind in ("source", "nginx") and sys.platform == "linux"
        if not is_source or self.bentoml_config is not None:
            return self.open(log_path)
        (_, *words), cwd, environment = self._process(rest)
        if _of_imports(environment) != _AT_IMPORT:
            return self.open(log_path)
        with log_path.open("wb") as log:
            return fork(words, cwd, environment, log)

    def _process(self, store: str) -> tuple[list[str], Path, dict[str, str]]:
        home = self.folder / "bentoml"
        environment = {
            **inherited(),
            "FOVEAL_GRPC_PORT": "0",  # unless asked for: servers of tests run side by side
            "FOVEAL_GRPC_HOST": "127.0.0.1",
            **self.variables,
            "FOVEAL_MODELS": str(self.repository),
            "BENTOML_HOME": str(home),
        }
        if self.bentoml_config is not None:
            environment["BENTOML_CONFIG"] = str(self.bentoml_config)
        what, cwd = "service.app:Foveal", ROOT
        if store:  # outside the source tree, to import nothing from it
            home.mkdir(exist_ok=True)
            if not (home / "bentos").exists():
                (home / "bentos").symlink_to(Path(store) / "bentos")
            what, cwd = "foveal:latest", self.folder
            if self.repository == ROOT / "models":
                del environment["FOVEAL_MODELS"]
        words = [str(BENTOML), "serve", what, "--host", "127.0.0.1", "--port", str(self.port)]
        return words, cwd, environment

    def _container(self, image: str) -> tuple[list[str], Path, dict[str, str]]:
        variables = {**self.variables, "FOVEAL_GRPC_PORT": "8001" if self.grpc_port else "0"}
        words = ["podman", "run", "--rm", *CONTAINER, f"--publish=127.0.0.1:{self.port}:3000"]
        if self.grpc_port:
            words.append(f"--publish=127.0.0.1:{self.grpc_port}:8001")
        if self.repository != ROOT / "models":
            self.repository.chmod(0o755)  # pytest's own folders are for their user alone
            words.append(f"--volume={self.repository}:/models:ro")
            variables["FOVEAL_MODELS"] = "/models"
        words += [f"--env={name}={value}" for name, value in variables.items()]
        return [*words, image], self.folder, dict(os.environ)


def has_nginx() -> bool:
    return shutil.which("nginx", path="/usr/sbin:/usr/bin") is not None


@dataclass(frozen=True)
class Front:
    """Where a proxy listens."""

    port: int
    grpc_port: int


@contextlib.contextmanager
def nginx(port: int, grpc_port: int, folder: Path) -> Iterator[Front]:
    """Run nginx with the shipped configuration in front of a service, on free ports."""
    front = Front(free_port(), free_port())
    text = NGINX_CONF.read_text()
    for shipped, here in (
        ("listen 80;", f"listen 127.0.0.1:{front.port};"),
        ("listen 9001 http2;", f"listen 127.0.0.1:{front.grpc_port} http2;"),
        ("server 127.0.0.1:3000;", f"server 127.0.0.1:{port};"),
        ("server 127.0.0.1:8001;", f"server 127.0.0.1:{grpc_port or 1};"),
    ):
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, here)
    where = folder / f"nginx-{front.port}"
    where.mkdir()
    (where / "foveal.conf").write_text(text)
    temporary = "".join(
        f"{kind}_temp_path {where}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""  # pytest's folders are for their user alone
    (where / "nginx.conf").write_text(
        f"daemon off;\n{user}\npid {where}/pid;\nerror_log {where}/error.log;\n"
        f"worker_processes 1;\nevents {{ worker_connections 1024; }}\n"
        f"http {{\naccess_log off;\n{temporary}include {where}/foveal.conf;\n}}\n"
    )
    words = ["nginx", "-p", str(where), "-c", str(where / "nginx.conf"), "-e", f"{where}/error.log"]
    with subprocess.Popen(words, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}) as process:
        try:
            deadline = time.monotonic() + 10
            while not _listens(front.port):
                assert process.poll() is None, (where / "error.log").read_text()
                assert time.monotonic() < deadline, "nginx does not listen"
                time.sleep(0.02)
            yield front
        finally:
            process.terminate()
    log_text = (where / "error.log").read_text()
    assert "[alert]" not in log_text and "[emerg]" not in log_text, log_text


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
