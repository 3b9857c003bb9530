"""Load and unload while requests go on, by whoever knows the token."""

import threading
from collections.abc import Iterator

import httpx
import pytest

from models.image import encode_png
from models.repository import ModelRepository
from tests.e2e.triton import WIRES, triton
from tests.server import RunningServer, assert_error, free_port, running_server
from tests.tiny import assert_own_result, publish_tiny, random_images

pytestmark = pytest.mark.e2e

TOKEN = "open sesame"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
IMAGES = random_images(4, seed=14)
PNGS = [encode_png(image) for image in IMAGES]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    root = tmp_path_factory.mktemp("control") / "models"
    publish_tiny(root)
    repository = ModelRepository(root)
    repository.set_default("tiny")
    return repository


@pytest.fixture(scope="module")
def controlled(repository: ModelRepository) -> Iterator[RunningServer]:
    with running_server(
        repository.root,
        repository.root.parent,
        admin_token=TOKEN,
        grpc_port=free_port(),
        loaded_versions=1,
    ) as running:
        yield running


@pytest.fixture
def other(controlled: RunningServer, repository: ModelRepository) -> str:
    """A model of this test's own that is served."""
    name = f"other-{len(repository.names())}"
    publish_tiny(repository.root, name)
    assert post(controlled, f"models/{name}/load", headers=BEARER).status_code == 200
    return name


def post(server: RunningServer, path: str, **words: object) -> httpx.Response:
    return httpx.post(f"{server.url}/v2/repository/{path}", timeout=60, **words)  # type: ignore[arg-type]


def index(server: RunningServer) -> dict[str, str]:
    return {f"{m['name']}:{m['version']}": m["state"] for m in post(server, "index").json()}


def test_load_brings_a_new_version_while_requests_go_on(
    controlled: RunningServer, repository: ModelRepository, other: str
) -> None:
    def states() -> list[str | None]:
        served = index(controlled)
        return [served.get(version) for version in (f"{other}:1", "tiny:1", "tiny:2")]

    answers: list[httpx.Response] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=controlled.url, timeout=30) as client:
            while not stop.is_set():
                answers.append(client.post("/predict", content=PNGS[0]))

    publish_tiny(repository.root, gain=2.0)
    assert states() == ["READY", "READY", "UNAVAILABLE"]
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(3):
            assert post(controlled, "models/tiny/load", headers=BEARER).status_code == 200
    finally:
        stop.set()
        asking.join()
    assert states() == ["READY", "UNAVAILABLE", "READY"]
    said = [answer.json() for answer in answers]
    assert {document["version"] for document in said} <= {1, 2}
    for document in said:
        assert_own_result(document["results"][0], IMAGES[0], gain=float(document["version"]))
    assert httpx.post(f"{controlled.url}/predict", content=PNGS[0]).json()["version"] == 2
    assert controlled.metric("foveal_model_info", model="tiny", version="2") == 1
    assert controlled.metric("foveal_model_info", model="tiny", version="1") == 0


@pytest.mark.parametrize("wire", WIRES)
def test_unload_and_load_again(controlled: RunningServer, other: str, wire: str) -> None:
    bearer = {"authorization": BEARER["Authorization"]}
    with triton(controlled, wire) as client:
        client.unload_model(other, headers=bearer)
        assert not client.is_model_ready(other) and client.is_model_ready("tiny")
        assert index(controlled)[f"{other}:1"] == "UNAVAILABLE"
        response = httpx.post(f"{controlled.url}/models/{other}/predict", content=PNGS[0])
        assert_error(response, 404, "expected one of .*tiny:")
        assert httpx.get(f"{controlled.url}/readyz").status_code == 200
        client.load_model(other, headers=bearer)
        assert client.is_model_ready(other)
    response = httpx.post(f"{controlled.url}/models/{other}/predict", content=PNGS[1])
    assert_own_result(response.json()["results"][0], IMAGES[1])


def test_a_load_that_fails_leaves_what_was_served(
    controlled: RunningServer, repository: ModelRepository, other: str
) -> None:
    (repository.path(other, 1) / "model.onnx").write_bytes(b"broken")
    response = post(controlled, f"models/{other}/load", headers=BEARER)
    assert_error(response, 400, "1 answers; 1 refused: .*sha256")
    response = httpx.post(f"{controlled.url}/models/{other}/predict", content=PNGS[1])
    assert_own_result(response.json()["results"][0], IMAGES[1])


def test_who_may(controlled: RunningServer, other: str) -> None:
    for verb in ("load", "unload"):
        for headers in (
            {},
            {"Authorization": TOKEN},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": "Bearer"},
        ):
            response = post(controlled, f"models/tiny/{verb}", headers=headers)
            assert_error(response, 401, "expected Bearer")
            assert response.headers["www-authenticate"] == "Bearer"
        response = post(controlled, f"models/nothing/{verb}", headers=BEARER)
        assert_error(response, 404, "expected one of .*tiny")
    config = {"parameters": {"config": "{}"}}
    response = post(controlled, "models/tiny/load", headers=BEARER, json=config)
    assert_error(response, 400, "models come from the repository")
    response = post(controlled, "models/tiny/unload", headers=BEARER, content=b"{")
    assert_error(response, 400, "expected JSON")
    response = post(
        controlled,
        f"models/{other}/unload",
        headers=BEARER,
        json={"parameters": {"unload_dependents": True}},
    )
    assert response.status_code == 200
    assert TOKEN not in controlled.log
