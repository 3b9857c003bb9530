"""A candidate version sees a share of the requests: as a shadow, unseen, or as a canary."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.artifact import ModelArtifact
from models.image import encode_png
from models.repository import ModelRepository
from models.rollout import Rollout, Share
from tests.e2e.test_swap import WORKERS, wait_for
from tests.e2e.triton import WIRES, triton
from tests.guarded import ADMIN
from tests.server import RunningServer, Wire, assert_error, free_port, post, running_server
from tests.tiny import (
    THRESHOLDS,
    assert_own_result,
    build_tiny,
    model_without_black,
    publish_tiny,
    random_images,
    tiny_model,
    tiny_probabilities,
)

pytestmark = pytest.mark.e2e

BEARER = {"Authorization": f"Bearer {ADMIN}"}
IMAGES = random_images(64, seed=31)
PNGS = [encode_png(image) for image in IMAGES]
IDS = [f"user-{i}" for i in range(64)]
CANARY = {"canary": {"version": 2, "fraction": 0.3}}
# Version 2's logits are version 1's with the other sign: no first label is the same.
GAINS = {1: 1.0, 2: -1.0}


def publish_both(root: Path, name: str) -> None:
    """Version 1 is pinned, version 2 is the candidate."""
    for gain in GAINS.values():
        publish_tiny(root, name, gain=gain)
    ModelRepository(root).set_default(name, 1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("candidates") / "models"
    publish_both(root, "tiny")
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[RunningServer]:
    with running_server(
        root, root.parent, reload_s=0.1, admin_token=ADMIN, grpc_port=free_port()
    ) as running:
        yield running


@pytest.fixture
def name(server: RunningServer, root: Path) -> Iterator[str]:
    """A model of this test's own, the default one while it runs."""
    repository = ModelRepository(root)
    name = f"tiny-{len(repository.names())}"
    publish_both(root, name)
    repository.set_default(name)
    control = f"{server.url}/v2/repository/models/{name}"
    assert httpx.post(f"{control}/load", headers=BEARER).status_code == 200
    yield name
    assert httpx.post(f"{control}/unload", headers=BEARER).status_code == 200


def put(server: RunningServer, name: str, body: object) -> httpx.Response:
    return httpx.put(f"{server.url}/models/{name}/traffic", headers=BEARER, json=body)


def answered_by(server: RunningServer, path: str = "/predict", **headers: str) -> list[int]:
    """Which version answers each id; every answer is checked."""
    versions = []
    with Wire(server) as wire:
        for i, request_id in enumerate(IDS):
            lines = (f"X-Request-Id: {request_id}", *(f"{k}: {v}" for k, v in headers.items()))
            said = wire.send(post(path, PNGS[i], *lines)).answer().json()
            assert_own_result(said["results"][0], IMAGES[i], gain=GAINS[said["version"]])
            versions.append(said["version"])
    return versions


def test_a_canary_answers_its_share_and_the_same_ids(server: RunningServer, name: str) -> None:
    assert set(answered_by(server)) == {1}
    assert put(server, name, CANARY).json() == {
        "model": name,
        "version": 1,
        "shadow": None,
        "canary": CANARY["canary"],
    }
    few = answered_by(server)
    assert 64 * 0.1 < few.count(2) < 64 * 0.5
    assert answered_by(server) == few == answered_by(server, f"/models/{name}/predict")
    assert set(answered_by(server, f"/models/{name}/versions/1/predict")) == {1}
    put(server, name, {"canary": {"version": 2, "fraction": 0.7}})
    more = answered_by(server)
    assert few.count(2) < more.count(2) < 64
    assert all(b == 2 for a, b in zip(few, more, strict=True) if a == 2)
    put(server, name, {"canary": {"version": 2, "fraction": 1}})
    assert set(answered_by(server)) == {2}
    put(server, name, {})
    assert set(answered_by(server)) == {1}
    assert server.metric("foveal_requests_total", model=name, version="2", status="200") > 0


def test_without_an_id_chance_decides(server: RunningServer, name: str) -> None:
    put(server, name, {"canary": {"version": 2, "fraction": 0.5}})
    with Wire(server) as wire:
        said = [wire.send(post("/predict", PNGS[0])).answer().json() for _ in range(64)]
    assert {document["version"] for document in said} == {1, 2}


@pytest.mark.parametrize("wire", WIRES)
def test_v2_goes_by_its_own_id(server: RunningServer, name: str, wire: str) -> None:
    put(server, name, CANARY)
    expected = answered_by(server)
    got = []
    with triton(server, wire) as client:
        for request_id in IDS:
            pixels = client.input(IMAGES[:1])
            response = client.infer(name, [pixels], request_id=request_id).get_response()
            is_document = isinstance(response, dict)
            got.append(response["model_version"] if is_document else response.model_version)
    assert list(map(int, got)) == expected


def test_workers_send_an_id_to_the_same_version(two_workers: RunningServer) -> None:
    publish_both(two_workers.log_path.parent / "models", "split")
    put(two_workers, "split", CANARY)
    line = "split: rollout is "
    wait_for(lambda: two_workers.log.count(line) == WORKERS, two_workers, "workers differ")
    first = answered_by(two_workers, "/models/split/predict")
    assert 2 in first
    for _ in range(8):  # each on a connection of its own, to either worker
        assert answered_by(two_workers, "/models/split/predict") == first


def test_a_shadow_is_compared_and_never_seen(server: RunningServer, name: str) -> None:
    put(server, name, {"shadow": {"version": 2, "fraction": 1}})
    assert set(answered_by(server)) == {1}

    def rows(outcome: str = "") -> float:
        wanted = {"outcome": outcome} if outcome else {}
        return server.metric("foveal_shadow_rows_total", model=name, version="2", **wanted)

    wait_for(lambda: rows() == 64, server, "not all rows are accounted for")
    assert rows("agreed") == rows("failed") == 0
    assert rows("differed") + rows("dropped") == 64 and rows("differed") > 0
    assert server.metric("foveal_shadow_difference_count", model=name) == rows("differed")
    assert server.metric("foveal_shadow_seconds_count", model=name) > 0
    assert server.metric("foveal_requests_total", model=name, version="2") == 0
    put(server, name, {"shadow": None})
    answered_by(server)
    assert rows() == 64


def test_a_shadow_that_agrees(server: RunningServer, root: Path, name: str) -> None:
    publish_tiny(root, name, gain=2.0)
    put(server, name, {"shadow": {"version": 3, "fraction": 1}})
    assert set(answered_by(server)) == {1}
    agreed = {"outcome": "agreed", "model": name, "version": "3"}
    wait_for(
        lambda: server.metric("foveal_shadow_rows_total", **agreed) > 0, server, "nothing agreed"
    )
    assert server.metric("foveal_shadow_rows_total", model=name, outcome="differed") == 0


def test_a_shadow_of_several_labels_agrees_on_all_of_them(
    server: RunningServer, root: Path
) -> None:
    """Version 2 answers the same; version 3 the same probabilities, but by lower thresholds."""
    name = "tiny-of-several"
    for thresholds in (THRESHOLDS, THRESHOLDS, (0.0, 0.0, 0.0, 0.0)):
        publish_tiny(root, name, task="multi-label", thresholds=thresholds)
    ModelRepository(root).set_default(name, 1)
    assert httpx.post(f"{server.url}/v2/repository/models/{name}/load", headers=BEARER).is_success
    several = tiny_probabilities(IMAGES, task="multi-label") >= np.array(THRESHOLDS)
    image = PNGS[int(several.sum(axis=1).argmin())]
    for version, outcome in ((2, "agreed"), (3, "differed")):
        put(server, name, {"shadow": {"version": version, "fraction": 1}})
        said = httpx.post(f"{server.url}/models/{name}/predict", content=image).json()
        assert said["version"] == 1 and len(said["results"][0]["labels"]) < 4
        rows = {"model": name, "version": str(version)}
        wait_for(
            lambda rows=rows: server.metric("foveal_shadow_rows_total", **rows) == 1,  # type: ignore[misc]
            server,
            "the row is not accounted for",
        )
        assert server.metric("foveal_shadow_rows_total", outcome=outcome, **rows) == 1


def test_a_row_without_an_answer_is_a_failed_one(
    server: RunningServer, root: Path, name: str
) -> None:
    """Its difference is no number: it would make the sum of all differences none."""
    publish_tiny(root, name, model=model_without_black())
    put(server, name, {"shadow": {"version": 3, "fraction": 1}})
    rows = {"model": name, "version": "3"}
    black = encode_png(np.zeros((8, 8, 1), np.uint8))
    for count, image in enumerate((black, PNGS[0]), 1):
        said = httpx.post(f"{server.url}/predict", content=image).json()
        assert (said["model"], said["version"]) == (name, 1)
        wait_for(
            lambda count=count: server.metric("foveal_shadow_rows_total", **rows) == count,  # type: ignore[misc]
            server,
            "the row is not accounted for",
        )
    assert server.metric("foveal_shadow_rows_total", outcome="failed", **rows) == 1
    assert server.metric("foveal_shadow_rows_total", outcome="agreed", **rows) == 1
    assert server.metric("foveal_shadow_difference_count", **rows) == 1
    assert server.metric("foveal_shadow_difference_sum", **rows) < 1e-6
    assert server.metric("foveal_drift_sums_total", model=name, quantity="entropy") > 0


def test_rows_for_a_busy_shadow_are_dropped(server: RunningServer, root: Path, name: str) -> None:
    publish_tiny(root, name, tiny_model(is_slow=True))
    put(server, name, {"shadow": {"version": 3, "fraction": 1}})
    with Wire(server) as wire:
        for _ in range(8):
            wire.send(*(post("/predict", png) for png in PNGS))  # batches follow each other at once
            for image in IMAGES:
                said = wire.answer().json()
                assert said["version"] == 1
                assert_own_result(said["results"][0], image)

    def rows(**labels: str) -> float:
        return server.metric("foveal_shadow_rows_total", model=name, **labels)

    wait_for(lambda: rows() == 8 * 64, server, "not all rows are accounted for")
    assert rows(outcome="dropped") > 0 < rows(outcome="agreed")


def test_a_candidate_with_other_labels_or_task_is_refused(
    server: RunningServer, root: Path, name: str
) -> None:
    """At once, with the reason; one that is in ``repository.json`` nevertheless gets nothing."""

    def build(folder: Path, version: int) -> ModelArtifact:
        artifact = build_tiny(folder, name, version, tiny_model())
        return replace(artifact, labels=("a", *artifact.labels[1:]), golden=())

    repository = ModelRepository(root)
    repository.publish(name, build)
    publish_tiny(root, name, task="multi-label")
    cases = (
        (3, 'got "a" as label 0, not "top"'),
        (4, "got the task multi-label, not single-label"),
    )
    for version, reason in cases:
        why = f"{name}:{version}: expected the images, labels and task of {name}:1, {reason}"
        for kind in ("canary", "shadow"):
            assert_error(put(server, name, {kind: {"version": version, "fraction": 1}}), 400, why)
        settings = repository.settings()
        rollouts = {**settings.rollouts, name: Rollout(canary=Share(version, 1.0))}
        repository._write_settings(replace(settings, rollouts=rollouts))
        line = f"{name}:{version} gets no share of the requests: {why}"
        wait_for(lambda line=line: line in server.log, server, line)  # type: ignore[misc]
        assert set(answered_by(server)) == {1}


def test_a_candidate_that_decodes_at_a_scale_gets_its_share(
    server: RunningServer, root: Path, name: str
) -> None:
    def build(folder: Path, version: int) -> ModelArtifact:
        artifact = build_tiny(folder, name, version, tiny_model(gain=-1.0), -1.0)
        return replace(artifact, image=replace(artifact.image, scaled_decoding=True))

    ModelRepository(root).publish(name, build)
    both = {kind: {"version": 3, "fraction": 1} for kind in ("canary", "shadow")}
    said = put(server, name, both).json()
    assert said["canary"] == said["shadow"] == {"version": 3, "fraction": 1}
    answer = httpx.post(f"{server.url}/predict", content=PNGS[0]).json()
    assert answer["version"] == 3


def test_who_may_and_what_is_understood(server: RunningServer, name: str) -> None:
    url = f"{server.url}/models/{name}/traffic"
    assert_error(httpx.put(url, json=CANARY), 401, "expected Bearer")
    assert_error(httpx.get(url), 401, "expected Bearer")
    assert_error(httpx.post(url, headers=BEARER), 405, "expected GET or PUT")
    assert_error(put(server, "none", CANARY), 400, 'model "none": expected one of tiny')
    for body, match in (
        ([], "expected a JSON object"),
        ({"mirror": None}, 'expected an object of "shadow" and "canary"'),
        ({"canary": {"version": 9, "fraction": 0.1}}, "no version 9; available: 1, 2"),
        ({"canary": {"version": 2, "fraction": 1.1}}, "expected a fraction from 0 to 1, got 1.1"),
        ({"canary": {"version": "2", "fraction": 1}}, "expected a version from 1, got '2'"),
        ({"shadow": {"version": 2}}, "shadow: expected"),
    ):
        assert_error(put(server, name, body), 400, match)
    coded = httpx.put(url, headers=BEARER | {"Content-Encoding": "gzip"}, content=b"{}")
    assert_error(coded, 415, "content-encoding: expected none on this route")
    assert httpx.get(url, headers=BEARER).json()["canary"] is None
