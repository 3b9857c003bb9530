"""Who may change what is served; that it is changed is in tests/e2e/test_v2_control.py."""

import asyncio
import gc
import gzip
import threading
import weakref
from pathlib import Path

import pytest

from models.repository import ModelRepository
from service.errors import ForbiddenError, ServiceError, UnauthorizedError
from service.metrics.meters import Meters
from service.rollout.catalog import Catalog
from service.rollout.loading import LoadOptions
from service.rollout.model_control import RETIRE_S, ModelControl
from tests.service.protocols.desk import TOKEN, Desk
from tests.tiny import SIDE, publish_tiny, random_images, tiny_logits


def authorize(token: str, authorization: bytes) -> None:
    async def ask() -> None:
        meters = Meters(asyncio.get_running_loop())
        control = ModelControl(
            ModelRepository(Path("nowhere")),
            1,
            LoadOptions(),
            meters,
            Catalog([], {}, "", {}),
            lambda _classifier: None,
            token=token,
        )
        try:
            control.authorize(authorization)
        finally:
            control.close()

    asyncio.run(ask())


def test_the_token_opens() -> None:
    authorize("secret", b"Bearer secret")
    authorize("secret", b"bearer  secret ")
    authorize("pässword", "Bearer pässword".encode())


@pytest.mark.parametrize(
    ("token", "authorization", "error", "match"),
    [
        ("", b"", ForbiddenError, "set FOVEAL_ADMIN_TOKEN"),
        ("", b"Bearer ", ForbiddenError, "set FOVEAL_ADMIN_TOKEN"),
        ("secret", b"", UnauthorizedError, "expected Bearer"),
        ("secret", b"Bearer", UnauthorizedError, "expected Bearer"),
        ("secret", b"Bearer secrets", UnauthorizedError, "expected Bearer"),
        ("secret", b"Basic secret", UnauthorizedError, "expected Bearer"),
        ("secret", b"Bearer \xff", UnauthorizedError, "expected Bearer"),
        ("secret", b"Bearer wrong", UnauthorizedError, "expected Bearer"),
    ],
)
def test_nothing_else_does(
    token: str, authorization: bytes, error: type[ServiceError], match: str
) -> None:
    with pytest.raises(error, match=match):
        authorize(token, authorization)


def test_an_unloaded_model_is_let_go_of(tiny_repository: Path) -> None:
    """Without the collector: what is loaded at start is frozen, and never collected."""
    desk = Desk(tiny_repository)
    gc.disable()
    try:
        head = {"Inference-Header-Content-Length": "0"}.items()
        assert desk.ask("/v2/models/tiny/infer", bytes(SIDE * SIDE), head).status == 200
        classifiers = [weakref.ref(classifier) for classifier in desk.control.catalog]
        bearer = {"Authorization": f"Bearer {TOKEN}"}.items()
        assert desk.ask("/v2/repository/models/tiny/unload", b"", bearer).status == 200
        assert [classifier() for classifier in classifiers] == [None, None]
        assert desk.ask("/v2/repository/models/tiny/load", b"", bearer).status == 200
        assert desk.ask("/v2/models/tiny/infer", bytes(SIDE * SIDE), head).status == 200
    finally:
        gc.enable()
        desk.close()


def test_a_body_that_is_being_expanded_keeps_its_version_alive(tmp_path: Path) -> None:
    """It is in flight although no row of it is in the queue yet."""
    publish_tiny(tmp_path)
    desk = Desk(tmp_path)
    images = random_images(3)
    expander_is_free = threading.Event()
    (old,) = desk.control.catalog

    async def replace_it() -> None:
        publish_tiny(tmp_path, gain=2.0)
        publish_tiny(tmp_path, gain=3.0)
        await desk.control.poll()
        await asyncio.sleep(3 * RETIRE_S)
        assert old not in list(desk.control.catalog)
        expander_is_free.set()

    try:
        desk.decoders.submit(expander_is_free.wait, 10)
        head = {"Inference-Header-Content-Length": "0", "Content-Encoding": "gzip"}
        body = gzip.compress(images.tobytes())
        answer = desk.ask_during(replace_it, "/v2/models/tiny/infer", body, head.items())
        assert answer.status == 200, answer
        size = int(answer.headers["inference-header-content-length"])
        assert b'"model_version":"1"' in answer.body[:size]
        logits = tiny_logits(images).tobytes()
        assert answer.body[size : size + len(logits)] == logits
    finally:
        desk.close()


def test_a_look_that_finds_nothing_new_changes_nothing(tmp_path: Path) -> None:
    publish_tiny(tmp_path)
    publish_tiny(tmp_path)
    (tmp_path / "tiny/2/model.onnx").write_bytes(b"broken")
    desk = Desk(tmp_path)
    try:
        before = desk.control.catalog
        desk.run(desk.control.poll())
        desk.run(desk.control.poll())
        assert desk.control.catalog is before
    finally:
        desk.close()
