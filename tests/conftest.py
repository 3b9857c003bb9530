"""Fixtures that several folders share: tiny models, a server and a command line on them."""

import gc
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx
import pytest

from models.image import encode_png
from models.repository import ModelRepository
from service.access.keys import add_key
from tests.certificates import make_certificate
from tests.guarded import ADMIN, PAGE, Guarded
from tests.server import RunningServer, free_port, running_server
from tests.shell import Shell
from tests.tiny import publish_tiny, random_images
from tests.trust import write_one_authority


@pytest.fixture(scope="session", autouse=True)
def trust(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Clients trust little, see ``tests.trust``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(write_one_authority(tmp_path_factory.mktemp("trust"))))
        yield


@pytest.fixture(scope="session", autouse=True)
def control_c() -> None:
    """Let commands that tests start hear SIGINT: a shell's background jobs are to ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector away from what lives as long as the tests: modules and items.

    They are millions of objects; each full collection would look at all of them again, for about
    half a second.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a closed-form model; version 1 is pinned, version 2 doubles the logits."""
    root = tmp_path_factory.mktemp("repository")
    publish_tiny(root)
    publish_tiny(root, gain=2.0)
    repository = ModelRepository(root)
    repository.set_default("tiny")
    repository.set_default("tiny", 1)
    return root


@pytest.fixture(scope="session")
def server(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """The real server, as shipped, on the tiny repository."""
    with running_server(tiny_repository, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def guarded(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A guarded service of two workers; a key without a limit, and one of 2 requests/s."""
    folder = tmp_path_factory.mktemp("guarded")
    keys, metrics_port = folder / "keys.toml", free_port()
    free, slow = add_key(keys, "free"), add_key(keys, "slow", 2, 4)
    certificate, key = make_certificate(folder, "first")
    with running_server(
        tiny_repository,
        folder,
        grpc_port=free_port(),
        workers=2,
        api_keys_file=keys,
        admin_token=ADMIN,
        cors_origins=f"{PAGE}, http://localhost:5173",
        tls_cert=certificate,
        tls_key=key,
        metrics_port=metrics_port,
        metrics_host="127.0.0.1",
    ) as server:
        yield Guarded(server, folder, free, slow, metrics_port)
        for secret in (free, slow, ADMIN):
            assert secret not in server.log


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tiny_repository: Path) -> Shell:
    return Shell(capsys, tiny_repository)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(encode_png(random_images(1)[0]))
    return path
