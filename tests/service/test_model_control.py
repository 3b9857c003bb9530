"""Who may change what is served; that it is changed is in tests/e2e/test_v2_control.py."""

import asyncio
import gc
import weakref
from pathlib import Path

import pytest

from models.repository import ModelRepository
from service.errors import ForbiddenError, ServiceError, UnauthorizedError
from service.metrics import Meters
from service.model_control import ModelControl
from service.pipeline.catalog import Catalog
from service.pipeline.classifier import ServingLimits
from tests.service.protocols.desk import TOKEN, Desk
from tests.tiny import SIDE


def authorize(token: str, authorization: bytes) -> None:
    async def ask() -> None:
        meters = Meters(asyncio.get_running_loop())
        control = ModelControl(
            ModelRepository(Path("nowhere")), 1, ServingLimits(), meters, Catalog([], {}, "", {}),
            lambda _classifier: None, token=token,
        )  # fmt: skip
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
