"""Bodies and messages of an allowed size that cost much, through the real server."""

import contextlib
import gzip
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.image import encode_png
from tests.loop_watch import probed_s, worker_bytes
from tests.server import RunningServer, assert_error, free_port, running_server
from tests.tiny import random_images, tiny_logits
from tests.unfinished import WINDOW_BYTES, Unfinished, unfinished

grpc = pytest.importorskip("grpc")

from tritonclient.grpc import service_pb2 as pb  # noqa: E402 - needs the extra
from tritonclient.grpc import service_pb2_grpc  # noqa: E402

pytestmark = pytest.mark.e2e

MIB = 1 << 20
INFER = "/v2/models/tiny/infer"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
OPTIONS = [("grpc.max_send_message_length", -1)]
IMAGES = random_images(2, seed=6)
# Of one answer while this machine runs other tests, too; before the limits it was 5 to 40 s.
HELD_S = 0.5
GROWTH_BYTES = 50 * MIB
RECEIVE_S = 3.0
BUDGET_MIB = 128
# Messages of the largest size that the budget has room for.
FITTING = 5


@pytest.fixture(scope="module")
def server(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """The default limits, but for a budget that a few large bodies fill."""
    with pytest.MonkeyPatch.context() as patch:
        # Else glibc keeps blocks of up to 32 MiB once one of that size was freed.
        patch.setenv("MALLOC_MMAP_THRESHOLD_", str(MIB))
        with running_server(
            tiny_repository,
            tmp_path_factory.mktemp("hostile"),
            grpc_port=free_port(),
            max_inflight_mib=BUDGET_MIB,
            receive_timeout_s=RECEIVE_S,
            decode_threads=2,
        ) as running:
            yield running


@pytest.fixture
def channel(server: RunningServer) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc_address, options=OPTIONS) as channel:
        yield channel


def infer_request() -> Any:
    message = pb.ModelInferRequest(model_name="tiny", raw_input_contents=[IMAGES.tobytes()])
    message.inputs.add(name="images", datatype="UINT8", shape=IMAGES.shape)
    return message


def is_answered(channel: Any) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    response = stub.ModelInfer(infer_request())
    got = np.frombuffer(response.raw_output_contents[0], np.float32).reshape(2, -1)
    np.testing.assert_array_equal(got, tiny_logits(IMAGES))


def until(count: Callable[[], int], wanted: int) -> int:
    """Count until there are as many, or the time for a message to arrive is long over."""
    deadline = time.monotonic() + 2 * RECEIVE_S
    while (counted := count()) < wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return counted


def shrinks(server: RunningServer, to_bytes: int) -> None:
    """Assert that the server's memory comes down to this soon."""
    deadline = time.monotonic() + 10
    while (now := worker_bytes(server)) > to_bytes:
        assert time.monotonic() < deadline, (
            f"{(now - to_bytes) // MIB} MiB more than {to_bytes // MIB}"
        )
        time.sleep(0.1)


def is_held(server: RunningServer, work: Callable[[], object], rounds: int = 3) -> bool:
    """Whether another client waits for long in every round of some work; one is enough if not."""
    return all(probed_s(server, work) >= HELD_S for _ in range(rounds))


def peak_growth(server: RunningServer, work: Callable[[], object]) -> tuple[int, int]:
    """Return by how many bytes the server grew during some work, and after it."""
    before = peak = worker_bytes(server)
    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        peak = max(peak, worker_bytes(server))
        time.sleep(0.01)
    return peak - before, worker_bytes(server) - before


@pytest.mark.parametrize(
    ("body", "content_type", "match"),
    [
        (b'{"inputs":[{"data":[' + b"{}," * (8 * MIB), "application/json", "MAX_JSON_BYTES"),
        (b"--b\r\n\r\n\r\n" * (3 * MIB), "multipart/form-data; boundary=b", "at most 256 fields"),
    ],
    ids=["json", "form"],
)
def test_a_large_body_holds_up_nobody(
    server: RunningServer, body: bytes, content_type: str, match: str
) -> None:
    path = INFER if content_type == "application/json" else "/predict"

    def send() -> None:
        answer = httpx.post(
            server.url + path, content=body, headers={"content-type": content_type}, timeout=60
        )
        assert_error(answer, 413, match)

    assert not is_held(server, send)
    assert peak_growth(server, send)[1] < GROWTH_BYTES


@pytest.mark.parametrize("unit", [b"\x2a\x00", b"\x32\x00", b"\x3a\x00"])
@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_message_of_millions_of_fields_holds_up_nobody(
    server: RunningServer, channel: Any, unit: bytes, compression: Any
) -> None:
    raw = unit * (12 * MIB - 1)
    call = channel.unary_unary(METHOD)

    def send() -> None:
        with pytest.raises(grpc.RpcError) as caught:
            call(raw, compression=compression, timeout=60)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "at most 8704 fields" in caught.value.details()

    assert not is_held(server, send)
    is_answered(channel)


def test_refused_messages_leave_nothing(server: RunningServer, channel: Any) -> None:
    """Each stayed until the next collection of garbage, which a worker rarely has."""
    raw = b"\x3a\x00" * (8 * MIB)
    call = channel.unary_unary(METHOD)

    def send() -> None:
        with pytest.raises(grpc.RpcError):
            call(raw, timeout=60)

    send()
    before = worker_bytes(server)
    for _ in range(12):
        send()
    deadline = time.monotonic() + 10
    while worker_bytes(server) - before > GROWTH_BYTES:
        assert time.monotonic() < deadline, f"{before >> 20} -> {worker_bytes(server) >> 20} MiB"
        time.sleep(0.2)


@pytest.mark.thorough
def test_compressed_messages_at_once_are_counted(server: RunningServer, channel: Any) -> None:
    """Each is 25 KB and expands to 24 MiB: together 384 MiB."""
    raw = b"\x3a\x00" * (12 * MIB - 1)
    call = channel.unary_unary(METHOD)
    seen: set[Any] = set()

    def send_all(count: int = 16) -> None:
        futures = [
            call.future(raw, compression=grpc.Compression.Gzip, timeout=120) for _ in range(count)
        ]
        seen.update(future.code() for future in futures)

    send_all(4)
    peak, after = peak_growth(server, send_all)
    assert peak < 160 * MIB
    assert after < GROWTH_BYTES
    assert seen <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
    is_answered(channel)


def test_compressed_images_at_once_are_counted(server: RunningServer) -> None:
    """Forty bodies of 33 KB, each 32 MiB of one BYTES element: 67 MB each before."""
    size = 32 * MIB - 300
    head = (
        b'{"inputs":[{"name":"images","datatype":"BYTES","shape":[1],'
        b'"parameters":{"binary_data_size":%d}}]}' % (size + 4)
    )
    body = gzip.compress(head + size.to_bytes(4, "little") + bytes(size), 9, mtime=0)
    headers = {"content-encoding": "gzip", "inference-header-content-length": str(len(head))}
    seen: set[int] = set()

    def send_all() -> None:
        with ThreadPoolExecutor(20) as threads:
            answers = threads.map(
                lambda _: httpx.post(
                    server.url + INFER, content=body, headers=headers, timeout=120
                ),
                range(40),
            )
            seen.update(answer.status_code for answer in answers)

    send_all()
    peak, after = peak_growth(server, send_all)
    assert seen <= {400, 429} and 400 in seen
    assert peak < 200 * MIB
    assert after < GROWTH_BYTES


@pytest.mark.parametrize(
    "method",
    [
        METHOD,
        "/inference.GRPCInferenceService/ModelMetadata",
        "/inference.GRPCInferenceService/RepositoryModelLoad",
        "/grpc.health.v1.Health/Check",
    ],
)
@pytest.mark.parametrize("raw", [b"no protobuf", b"\x0a\xff", b"\x1f\x8b\x08", b"\x78\x9c"])
def test_bytes_that_are_no_message_are_an_invalid_argument(
    server: RunningServer, channel: Any, method: str, raw: bytes
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method)(raw, timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert re.match("message: expected|body: expected", caught.value.details())
    is_answered(channel)
    assert "Traceback" not in server.log


def test_a_stream_goes_on_after_bytes_that_are_no_message(channel: Any) -> None:
    stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    good = infer_request().SerializeToString()
    texts = [
        pb.ModelStreamInferResponse.FromString(answer).error_message
        for answer in stream(iter([good, b"no protobuf", b"\x3a\x00" * 100_000, good]), timeout=30)
    ]
    assert texts[0] == texts[3] == ""
    assert "expected a protobuf message" in texts[1]
    assert "at most 8704 fields" in texts[2]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_calls_are_answered(channel: Any, compression: Any) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    response = stub.ModelInfer(infer_request(), compression=compression)
    got = np.frombuffer(response.raw_output_contents[0], np.float32).reshape(2, -1)
    np.testing.assert_array_equal(got, tiny_logits(IMAGES))
    asked = pb.ModelMetadataRequest(name="tiny")
    assert stub.ModelMetadata(asked, compression=compression).name == "tiny"


def test_a_large_form_is_read_on_a_thread(server: RunningServer) -> None:
    """Its bad file, which is larger than any form that is read at once, gets its own error."""
    files = [
        ("f", ("a.png", encode_png(IMAGES[0]))),
        ("f", ("b.png", bytes(3 * MIB))),
        ("f", ("c.png", encode_png(IMAGES[1]))),
    ]
    results = httpx.post(server.url + "/predict", files=files, timeout=30).json()["results"]
    assert ["error" in result for result in results] == [False, True, False]
    answer = httpx.post(
        server.url + "/predict",
        content=b"--b\r\n\r\n" + bytes(3 * MIB),
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    assert_error(answer, 400, "closing boundary")


@pytest.mark.thorough
def test_a_stream_that_is_idle_may_be_pinged_each_second(server: RunningServer) -> None:
    """Clients behind a load balancer do so; the default of gRPC's core ends the connection."""
    options = [
        ("grpc.keepalive_time_ms", 1000),
        ("grpc.keepalive_timeout_ms", 5000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    asks = threading.Event()

    def requests() -> Iterator[Any]:
        yield infer_request()
        asks.wait(20)
        yield infer_request()

    with grpc.insecure_channel(server.grpc_address, options=options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stream = stub.ModelStreamInfer(requests())
        assert not next(stream).error_message
        time.sleep(6)
        asks.set()
        assert not next(stream).error_message


def test_messages_that_never_end_are_ended(server: RunningServer, channel: Any) -> None:
    """As many as the budget has room for may go on; every method answers meanwhile."""
    paths, calls = (METHOD, CHECK, WATCH), 10
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(Unfinished(server.grpc_address, path, calls)) for path in paths
        ]
        time.sleep(0.2)  # the heads arrive
        is_answered(channel)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stream = stub.ModelStreamInfer(iter([infer_request()] * 3))
        assert [response.error_message for response in stream] == [""] * 3
        asked = pb.ModelMetadataRequest(name="tiny")
        assert stub.ModelMetadata(asked, timeout=5).name == "tiny"
        assert channel.unary_unary(CHECK)(b"", timeout=5) == b"\x08\x01"
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(METHOD)(b"\xff\xff", timeout=5)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        watched = channel.unary_stream(WATCH)(b"", timeout=5)
        assert next(watched) == b"\x08\x01"
        watched.cancel()
        ended = until(
            lambda: sum(client.count(b"FOVEAL_RECEIVE_TIMEOUT_S") for client in clients),
            len(paths) * calls - FITTING,
        )
    assert ended >= len(paths) * calls - FITTING


@pytest.mark.parametrize("path", [METHOD, STREAM])
def test_messages_that_never_end_do_not_fill_the_memory(
    server: RunningServer, channel: Any, path: str
) -> None:
    """450 MB of them, with a budget of 128 MiB."""
    is_answered(channel)
    before = worker_bytes(server)
    with unfinished(server.grpc_address, path, 150, WINDOW_BYTES - 5) as clients:
        ended = until(
            lambda: sum(client.count(b"FOVEAL_MAX_INFLIGHT_MIB") for client in clients), 1
        )
        assert ended
        shrinks(server, before + BUDGET_MIB * MIB + 2 * GROWTH_BYTES)
        is_answered(channel)
    shrinks(server, before + GROWTH_BYTES)
