"""The truth about answers, told to a real service of two workers by every wire, and read back."""

import contextlib
import csv
import gzip
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from models.image import encode_png
from models.repository import ModelRepository
from models.rollout import Rollout, Share
from service.record.index import Index
from service.record.reading import is_recording
from service.record.truths import read_truths
from tests.guarded import Guarded, until
from tests.server import START_S, RunningServer, assert_error, free_port, running_server
from tests.shell import Shell
from tests.tiny import LABELS, SIDE, publish_tiny, random_images, tiny_logits

pytestmark = pytest.mark.e2e

IMAGES = random_images(24, seed=31)
PNGS = [encode_png(image) for image in IMAGES]
BEST = tiny_logits(IMAGES).argmax(axis=1).tolist()
WORST = tiny_logits(IMAGES).argmin(axis=1).tolist()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Two workers with feedback; version 2, a shadow of all rows, answers the contrary."""
    folder = tmp_path_factory.mktemp("told")
    publish_tiny(folder / "models")
    publish_tiny(folder / "models", gain=-1.0)
    publish_tiny(folder / "models", "several", task="multi-label")
    repository = ModelRepository(folder / "models")
    repository.set_default("tiny")
    repository.set_default("tiny", 1)
    repository.set_rollout("tiny", Rollout(shadow=Share(2, 1.0)))
    with running_server(
        folder / "models", folder, workers=2, feedback_rows=5000, grpc_port=free_port()
    ) as running:
        until(lambda: running.log.count("ready after") == 2, "two workers", START_S)
        yield running


def ask(server: RunningServer, i: int, **headers: str) -> str:
    """Classify an image over a connection of its own; return the answer's id."""
    answer = httpx.post(f"{server.url}/predict", content=PNGS[i], headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-request-id"]


def tell(server: RunningServer, truths: Any, model: str = "tiny") -> httpx.Response:
    return httpx.post(f"{server.url}/models/{model}/feedback", json=truths, timeout=60)


def rows(server: RunningServer, outcome: str, **labels: str) -> float:
    labels = {"model": "tiny", "version": "1", "outcome": outcome} | labels
    return server.metric("foveal_feedback_rows_total", **labels)


def until_recorded(recording: Path, ids: list[str], count: int) -> None:
    """Wait for the recording, which begins with its first row, and then for so many rows of ids."""
    until(lambda: is_recording(recording), "a recording", 60)
    until(lambda: len(Index(recording).find(ids)) == count, "all are recorded", 60)


@contextlib.contextmanager
def counting(server: RunningServer, expected: dict[str, int]) -> Iterator[None]:
    """Assert what a block adds to the rows by outcome, of all workers."""
    before = {outcome: rows(server, outcome) for outcome in expected}
    yield

    def added() -> dict[str, float]:
        return {outcome: rows(server, outcome) - before[outcome] for outcome in expected}

    assert added() == expected


def asked_of_both(server: RunningServer) -> tuple[list[str], set[str]]:
    """Ask 24 pictures until both workers answered some; return ids and the workers' prefixes."""
    deadline, prefixes = time.monotonic() + 60, set[str]()
    while len(prefixes) < 2:  # the worker that is free first takes a connection
        assert time.monotonic() < deadline, "one worker answered all"
        ids = [ask(server, i) for i in range(24)]
        prefixes = {name.partition("-")[0] for name in ids}
    return ids, prefixes


def test_whoever_gets_the_truth_finds_the_answer(told: RunningServer) -> None:
    """Each request and each truth is a connection of its own: of either worker."""
    with counting(told, {"right": 12, "wrong": 12, "abstained": 0}):
        ids, _ = asked_of_both(told)
        for i, name in enumerate(ids):
            truth = BEST[i] if i % 2 else WORST[i]
            answer = tell(told, {"id": name, "index": truth})
            assert answer.status_code == 200, answer.text
            outcome = "right" if i % 2 else "wrong"
            assert answer.json() == {"model": "tiny", "version": 1, "outcome": outcome}


def test_a_clients_own_id(told: RunningServer) -> None:
    with counting(told, {"right": 1}):
        assert ask(told, 0, **{"X-Request-Id": "order-17/a"}) == "order-17/a"
        answer = tell(told, {"id": "order-17/a", "row": 0, "label": LABELS[BEST[0]]})
        assert answer.json()["outcome"] == "right"


def test_the_same_truth_counts_once_and_another_is_refused(told: RunningServer) -> None:
    name = ask(told, 0)
    refused = told.metric("foveal_feedback_refused_total", model="tiny", reason="conflict")
    with counting(told, {"right": 1, "wrong": 0}):
        for outcome in ("right", *["duplicate"] * 6):  # of both workers
            answer = tell(told, {"id": name, "index": BEST[0]})
            assert (answer.status_code, answer.json()["outcome"]) == (200, outcome)
        assert_error(tell(told, {"id": name, "index": WORST[0]}), 409, "one truth")
    now = told.metric("foveal_feedback_refused_total", model="tiny", reason="conflict")
    assert now == refused + 1


@pytest.mark.parametrize("form", ["list", "lines", "gzip"])
def test_several_at_once(told: RunningServer, form: str) -> None:
    truths: list[Any] = [{"id": ask(told, i), "index": BEST[i]} for i in range(6)]
    truths[1] = {"id": "never-answered", "index": 0}
    truths[2]["label"] = truths[2].pop("index") and "no such label"
    truths[3]["index"] = WORST[3]
    truths.append(truths[0])
    body, headers = json.dumps(truths).encode(), {"content-type": "application/json"}
    if form == "lines":
        body = b"\n".join(json.dumps(truth).encode() for truth in truths) + b"\n"
        headers = {"content-type": "application/x-ndjson"}
    elif form == "gzip":
        body, headers = gzip.compress(body), headers | {"content-encoding": "gzip"}
    with counting(told, {"right": 3, "wrong": 1}):
        answer = httpx.post(f"{told.url}/models/tiny/feedback", content=body, headers=headers)
    document = answer.json()
    assert answer.status_code == 200, answer.text
    assert {key: document[key] for key in ("right", "wrong", "abstained", "duplicate")} == {
        "right": 3,
        "wrong": 1,
        "abstained": 0,
        "duplicate": 1,
    }
    assert [(each["item"], each["status"]) for each in document["refused"]] == [(1, 404), (2, 400)]
    assert "never-answered" in document["refused"][0]["error"]


def test_rows_of_a_form_of_which_some_are_no_images(told: RunningServer) -> None:
    """A row is a place among the results, as the client counts them."""
    files = [("f", png) for png in (PNGS[0], b"no image", PNGS[1], PNGS[2])]
    answer = httpx.post(f"{told.url}/predict", files=files)
    assert [sorted(result) for result in answer.json()["results"]][1] == ["error"]
    name = answer.headers["x-request-id"]
    truths = [
        {"id": name, "row": row, "index": BEST[i]} for row, i in ((0, 0), (2, 1), (3, 2), (1, 0))
    ]
    document = tell(told, truths).json()
    assert document["right"] == 3
    assert [(each["item"], each["status"]) for each in document["refused"]] == [(3, 404)]


def test_v2_over_http_and_classify(told: RunningServer) -> None:
    answer = httpx.post(
        f"{told.url}/v2/models/tiny/infer",
        content=IMAGES[:5].tobytes(),
        headers={"Inference-Header-Content-Length": "0"},
    )
    assert answer.status_code == 200, answer.text
    name = answer.headers["x-request-id"]
    truths = [{"id": name, "row": i, "index": BEST[i]} for i in range(5)]
    answer = httpx.post(f"{told.url}/classify", files={"image": PNGS[7]})
    truths.append({"id": answer.headers["x-request-id"], "index": BEST[7]})
    assert tell(told, truths).json()["right"] == 6


def test_v2_over_grpc_and_its_streams(told: RunningServer) -> None:
    with grpc.insecure_channel(told.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        _, call = stub.ModelInfer.with_call(pixels(3))
        ((_, name),) = [p for p in call.trailing_metadata() if p[0] == "x-request-id"]
        stream = stub.ModelStreamInfer(
            iter([pixels(4), pixels(5)]), metadata=[("x-request-id", "of-a-stream")]
        )
        assert [bool(answer.error_message) for answer in stream] == [False, False]
    truths = [{"id": name, "index": BEST[3]}]
    truths += [{"id": f"of-a-stream-{i}", "index": BEST[4 + i]} for i in range(2)]
    document = tell(told, truths).json()
    assert document["right"] == 3, document


def pixels(*numbers: int, model: str = "tiny") -> Any:
    """A V2 request of some images, by their numbers."""
    asked = pb.ModelInferRequest(
        model_name=model, raw_input_contents=[IMAGES[list(numbers)].tobytes()]
    )
    asked.inputs.add(name="images", datatype="UINT8", shape=[len(numbers), SIDE, SIDE, 1])
    return asked


@pytest.mark.parametrize("own", ["", "s" * 128], ids=["the service's", "the longest"])
def test_each_message_of_a_stream_has_its_own_id(tmp_path: Path, own: str) -> None:
    """By it the truth finds its answer, remembered or recorded, also behind one that failed."""
    publish_tiny(tmp_path / "models")
    recording = tmp_path / "recording"
    settings: dict[str, Any] = {"record": 1, "record_folder": recording, "grpc_port": free_port()}
    with running_server(tmp_path / "models", tmp_path, feedback_rows=64, **settings) as server:
        with grpc.insecure_channel(server.grpc_address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            asked = [pixels(0), pixels(1, model="none"), pixels(2, 3), pixels(4)]
            metadata = [("x-request-id", own)] if own else []
            stream = stub.ModelStreamInfer(iter(asked), metadata=metadata)
            answers = list(stream)
            ((_, whole),) = [p for p in stream.trailing_metadata() if p[0] == "x-request-id"]
        assert [bool(answer.error_message) for answer in answers] == [False, True, False, False]
        ids = [each.infer_response.parameters["x-request-id"].string_param for each in answers]
        assert ids == [f"{whole}-{number}" for number in range(4)] and whole.startswith(own)
        told_of = [(ids[0], 0, 0), (ids[2], 0, 2), (ids[2], 1, 3), (ids[3], 0, 4)]
        until_recorded(recording, ids, 4)
        for (name, row), document in Index(recording).find(ids).items():
            image = next(i for one, place, i in told_of if (one, place) == (name, row))
            assert document["index"] == BEST[image] and document["protocol"] == "v2_grpc"
        truths = [{"id": name, "row": row, "index": BEST[i]} for name, row, i in told_of[1:]]
        assert tell(server, truths).json()["right"] == 3
        assert_error(tell(server, {"id": ids[1], "index": 0}), 404, ids[1][:9])
    # After a restart only the recording knows them.
    with running_server(tmp_path / "models", tmp_path, feedback_rows=64, **settings) as server:
        truths.append({"id": ids[0], "index": WORST[0]})
        document = tell(server, truths).json()
        assert (document["duplicate"], document["wrong"]) == (3, 1), document


def test_multi_label_answers(told: RunningServer) -> None:
    answer = httpx.post(f"{told.url}/models/several/predict", content=PNGS[0])
    (result,) = answer.json()["results"]
    name = answer.headers["x-request-id"]
    assert_error(tell(told, {"id": name, "index": 0}, "several"), 400, "labels or indexes")
    document = tell(told, {"id": name, "labels": result["labels"]}, "several").json()
    assert document["outcome"] == "right"


def test_the_shadow_of_the_same_row_is_compared(told: RunningServer) -> None:
    """Version 2 answers the contrary of version 1: worse where that is right."""

    def pairs(outcome: str) -> float:
        labels = {"model": "tiny", "version": "2", "outcome": outcome}
        return told.metric("foveal_feedback_pairs_total", **labels)

    before = {outcome: pairs(outcome) for outcome in ("better", "worse")}
    deadline = time.monotonic() + 60
    while min(pairs(outcome) - before[outcome] for outcome in before) < 3:
        assert time.monotonic() < deadline, "no row was answered by both"
        ids = [ask(told, i) for i in range(8)]
        time.sleep(0.05)  # the shadow runs behind the answers, and drops rows while it is busy
        truths = [
            {"id": name, "index": BEST[i] if i < 4 else WORST[i]} for i, name in enumerate(ids)
        ]
        assert tell(told, truths).json()["refused"] == []


def test_answers_of_a_killed_worker_are_remembered(told: RunningServer) -> None:
    ids, prefixes = asked_of_both(told)
    victim = told.workers()[0]
    before = told.log.count("ready after")
    os.kill(victim.pid, signal.SIGKILL)
    until(lambda: told.log.count("ready after") > before, "another worker", START_S)
    truths = [{"id": name, "index": BEST[i]} for i, name in enumerate(ids)]
    document = tell(told, truths).json()
    assert (document["right"], document["refused"]) == (24, [])
    assert len({ask(told, 0).partition("-")[0] for _ in range(60)} - prefixes) == 1


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b"7", 400, "expected"),
        (b'{"id":"a"}', 400, "label"),
        (b'{"id":"never","label":"top"}', 404, "never"),
        (b"[" * 100_000, 400, "JSON"),
        (b"[" + b"{}," * 5000 + b"{}]", 413, "5000"),
        (b" " * (1 << 20) + b"{}", 413, "bytes"),
        (b'{"id":"\xff"}', 400, "JSON"),
    ],
)
def test_bodies_that_are_refused(told: RunningServer, body: bytes, status: int, says: str) -> None:
    answer = httpx.post(f"{told.url}/models/tiny/feedback", content=body)
    assert_error(answer, status, says)


def test_methods_and_models(told: RunningServer) -> None:
    assert_error(httpx.get(f"{told.url}/models/tiny/feedback"), 405, "POST")
    assert_error(tell(told, {"id": "a", "index": 0}, "none"), 404, "none")


def test_it_is_off_by_default(server: RunningServer) -> None:
    answer = tell(server, {"id": "a", "index": 0})
    assert_error(answer, 403, "FOVEAL_FEEDBACK_ROWS")


def test_it_needs_a_key_where_predict_does(guarded: Guarded) -> None:
    answer = guarded.request("POST", "/models/tiny/feedback", json={"id": "a", "index": 0})
    assert answer.status_code == 401
    answer = guarded.request(
        "POST", "/models/tiny/feedback", guarded.free, json={"id": "a", "index": 0}
    )
    assert answer.status_code == 403 and "FOVEAL_FEEDBACK_ROWS" in answer.text


def test_the_command(told: RunningServer, shell: Shell, tmp_path: Path) -> None:
    ids = [ask(told, i) for i in range(4)]
    path = tmp_path / "truths.csv"

    def write(*lines: tuple[object, ...]) -> None:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("id", "row", "label", "ignored"), *lines])

    command = ("feedback", path, "--model", "tiny", "--url", told.url)
    write(*((name, 0, LABELS[BEST[i]], "x") for i, name in enumerate(ids)))
    result = shell.plain(*map(str, command))
    assert (result.code, result.out) == (0, "tiny: 4 right; 0 refused\n"), result.error
    result = shell.plain(*map(str, command))
    assert (result.code, result.out) == (0, "tiny: 4 duplicate; 0 refused\n")
    write((ids[0], "", LABELS[WORST[0]], ""), ("none", 0, "top", ""), (ids[1], "x", "top", ""))
    result = shell.plain(*map(str, command), "--json")
    assert result.code == 1
    assert [line for line, _ in result.document["refused"]] == [2, 3, 4]
    for text, says in (("", "none"), ("id,other\n", "id, other"), ("\xff", "")):
        path.write_text(text, encoding="latin-1")
        result = shell.plain(*map(str, command))
        assert result.code == 1 and str(path) in result.error and says in result.error
    result = shell.plain("feedback", str(path), "--model", "tiny", "--url", "http://127.0.0.1:1")
    assert result.code == 1


def test_rows_are_bounded(tmp_path: Path) -> None:
    """The oldest are forgotten; a restart forgets all."""
    publish_tiny(tmp_path / "models")
    with running_server(tmp_path / "models", tmp_path, feedback_rows=64) as server:
        ids = [ask(server, i % 24) for i in range(100)]
        truths = [{"id": name, "index": BEST[i % 24]} for i, name in enumerate(ids)]
        document = tell(server, truths).json()
        assert document["right"] == 63  # of 64 the oldest is about to be written over
        assert [each["item"] for each in document["refused"]] == list(range(37))
        assert np.isclose(server.metric("foveal_feedback_bin_rows_total", model="tiny"), 63)
    with running_server(tmp_path / "models", tmp_path, feedback_rows=64) as server:
        assert_error(tell(server, truths[-1]), 404, "FOVEAL_FEEDBACK_ROWS")


def test_a_forgotten_answer_counts_if_it_is_recorded(tmp_path: Path) -> None:
    """Once, also after a restart, and its truth stays with the recording."""
    publish_tiny(tmp_path / "models")
    recording = tmp_path / "recording"
    settings: dict[str, Any] = {"feedback_rows": 64, "record": 1, "record_folder": recording}
    with running_server(tmp_path / "models", tmp_path, **settings) as server:
        ids = [ask(server, i % 24) for i in range(100)]
        until_recorded(recording, ids, 100)
        truths = [{"id": name, "index": BEST[i % 24]} for i, name in enumerate(ids)]
        truths[1]["index"] = WORST[1]
        document = tell(server, [*truths, {"id": "never", "index": 0}]).json()
        assert (document["right"], document["wrong"]) == (99, 1)
        assert [each["item"] for each in document["refused"]] == [100]
        assert_error(tell(server, truths[1] | {"index": BEST[1]}), 409, "one truth")
        assert rows(server, "right") == 99 and rows(server, "wrong") == 1
    assert read_truths(recording) == {(each["id"], 0): each["index"] for each in truths}
    with running_server(tmp_path / "models", tmp_path, **settings) as server:
        document = tell(server, truths).json()
        assert (document["duplicate"], document["right"], document["refused"]) == (100, 0, [])
