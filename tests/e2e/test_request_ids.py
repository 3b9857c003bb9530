"""Every answer carries ``X-Request-Id``: the client's if it is fit, else one of the service."""

import re
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from models.image import encode_png
from tests.guarded import Guarded
from tests.server import RunningServer, Wire, get, post
from tests.tiny import SIDE, random_images

pytestmark = pytest.mark.e2e

IMAGES = random_images(2, seed=29)
PNG = encode_png(IMAGES[0])
OURS = re.compile("[0-9a-f]{12}-[0-9a-f]+")
FIT = ["a", "0", "~" * 128, "9b2f6c1e-5d0a-4a8e", '{"a":[1]}', "A/B+C=="]
UNFIT = ["", "~" * 129, "two words", "tab\there", "caf\xe9", "\xff"]
V2 = b'{"inputs":[{"name":"images","datatype":"UINT8","shape":[1,1],"data":[0]}]}'
ROUTES = {
    "an image": (post("/predict", PNG), 200),
    "no image": (post("/predict", b"x"), 400),
    "no model": (post("/models/none/predict", PNG), 404),
    "a form": (post("/classify", b"x"), 400),
    "v2": (get("/v2/models/tiny"), 200),
    "v2 refused": (post("/v2/models/tiny/infer", V2), 400),
    "no route": (get("/nothing"), 404),
    "no method": (get("/predict"), 405),
    "BentoML": (get("/readyz"), 200),
    "metrics": (get("/metrics"), 200),
    "the page": (get("/"), 200),
    "BentoML's refusal": (post("/readyz", b"x"), 405),
}


def with_line(request: bytes, line: str) -> bytes:
    head, empty, body = request.partition(b"\r\n\r\n")
    return head + b"\r\n" + line.encode("latin-1") + empty + body


@pytest.mark.parametrize("route", ROUTES)
def test_every_answer_has_an_id(server: RunningServer, route: str) -> None:
    request, status = ROUTES[route]
    with Wire(server) as wire:
        for line, expected in (("X-Request-Id: mine", "mine"), ("x-request-id:  b-2 ", "b-2")):
            answer = wire.send(with_line(request, line)).answer()
            assert (answer.status, answer.headers["x-request-id"]) == (status, expected)
        ids = [wire.send(request).answer().headers["x-request-id"] for _ in range(3)]
    assert all(OURS.fullmatch(given) for given in ids), ids
    assert len(set(ids)) == 3, ids


@pytest.mark.parametrize("sent", FIT)
def test_a_fit_id_comes_back(server: RunningServer, sent: str) -> None:
    with Wire(server) as wire:
        answer = wire.send(post("/predict", PNG, f"X-Request-Id: {sent}")).answer()
        assert (answer.status, answer.headers["x-request-id"]) == (200, sent)
        answer = wire.send(post("/predict", PNG)).answer()  # not the last one's
        assert OURS.fullmatch(answer.headers["x-request-id"])


@pytest.mark.parametrize("sent", UNFIT)
def test_an_unfit_id_is_replaced(server: RunningServer, sent: str) -> None:
    with Wire(server) as wire:
        answer = wire.send(post("/predict", PNG, f"X-Request-Id: {sent}")).answer()
        assert answer.status == 200
        assert OURS.fullmatch(answer.headers["x-request-id"])


def test_of_several_the_first_fit_one_counts(server: RunningServer) -> None:
    lines = ("X-Request-Id: no id", "X-Request-Id: first", "X-Request-Id: second")
    with Wire(server) as wire:
        assert wire.send(post("/predict", PNG, *lines)).answer().headers["x-request-id"] == "first"


def test_pipelined_answers_keep_their_ids(server: RunningServer) -> None:
    ids = [f"id-{i}" for i in range(20)]
    with Wire(server) as wire:
        wire.send(*(post("/predict", PNG, f"X-Request-Id: {name}") for name in ids))
        assert [wire.answer().headers["x-request-id"] for _ in ids] == ids


@pytest.mark.parametrize(
    ("path", "lines", "status"),
    [
        ("/predict", "Host: a\r\nContent-Length: x", 400),
        ("/predict", "Content-Length: 1", 400),
        ("/predict", "Host: a\r\nContent-Length: 999999999", 413),
        ("/livez", "Host: a\r\nContent-Length: 999999999", 413),
    ],
)
def test_a_request_that_is_cut_off_has_its_id(
    server: RunningServer, path: str, lines: str, status: int
) -> None:
    with Wire(server) as wire:
        head = f"POST {path} HTTP/1.1\r\nX-Request-Id: cut\r\n{lines}\r\n\r\n"
        answer = wire.send(head.encode()).answer()
        assert (answer.status, answer.headers["x-request-id"]) == (status, "cut")
        assert wire.is_closed()


def test_what_is_no_request_gets_an_id(server: RunningServer) -> None:
    with Wire(server) as wire:
        answer = wire.send(b"nonsense\r\n\r\n").answer()
        assert answer.status == 400
        assert OURS.fullmatch(answer.headers["x-request-id"])


def test_workers_give_different_ids(two_workers: RunningServer) -> None:
    prefixes: set[str] = set()
    for _ in range(200):  # each connection goes to one worker
        answer = httpx.post(f"{two_workers.url}/predict", content=PNG)
        prefixes.add(answer.headers["x-request-id"].partition("-")[0])
        if len(prefixes) == 2:
            return
    raise AssertionError(f"expected ids of two workers, got those of {prefixes}")


def test_refusals_at_the_door_have_an_id(guarded: Guarded) -> None:
    headers = {"X-Request-Id": "mine", "Origin": "http://localhost:5173"}
    for answer in (
        guarded.predict(headers=headers),
        guarded.request("GET", "/schema.json", headers=headers),
    ):
        assert (answer.status_code, answer.headers["x-request-id"]) == (401, "mine")
        assert answer.headers["access-control-expose-headers"] == "*"


def inference(pixels: bytes = IMAGES[:1].tobytes()) -> Any:
    asked = pb.ModelInferRequest(model_name="tiny", raw_input_contents=[pixels])
    asked.inputs.add(name="images", datatype="UINT8", shape=[1, SIDE, SIDE, 1])
    return asked


def test_calls_over_grpc_end_with_their_id(two_wires: RunningServer) -> None:
    def id_of(call: Any) -> str:
        (found,) = [value for key, value in call.trailing_metadata() if key == "x-request-id"]
        assert isinstance(found, str)
        return found

    with grpc.insecure_channel(two_wires.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for method, asked in (
            (stub.ModelInfer, inference()),
            (stub.ServerReady, pb.ServerReadyRequest()),
            (stub.ModelMetadata, pb.ModelMetadataRequest(name="tiny")),
        ):
            for sent in FIT:
                assert id_of(method.with_call(asked, metadata=[("x-request-id", sent)])[1]) == sent
            assert OURS.fullmatch(id_of(method.with_call(asked)[1]))
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(inference(b"x"), metadata=[("x-request-id", "mine")])
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert id_of(refused.value) == "mine"
        stream = stub.ModelStreamInfer(
            iter([inference(), inference()]), metadata=[("x-request-id", "of-the-stream")]
        )
        assert [bool(answer.error_message) for answer in stream] == [False, False]
        assert id_of(stream) == "of-the-stream"


def test_a_call_without_a_key_has_its_id(guarded: Guarded) -> None:
    with guarded.channel() as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(inference(), metadata=[("x-request-id", "mine")])
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert ("x-request-id", "mine") in [tuple(pair) for pair in refused.value.trailing_metadata()]
