"""V2 over gRPC beneath Triton's client: typed contents, streams, deadlines, health, limits."""

import queue
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import proto_reflection_descriptor_database as reflected
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from models.image import encode_png
from tests.server import (
    ROOT,
    START_S,
    RunningServer,
    Wire,
    free_port,
    post,
    running_server,
)
from tests.tiny import SIDE, random_images, tiny_logits

pytestmark = pytest.mark.e2e

IMAGES = random_images(64, seed=13)
PNGS = [encode_png(image) for image in IMAGES]


@pytest.fixture
def channel(two_wires: RunningServer) -> Iterator[Any]:
    with grpc.insecure_channel(two_wires.grpc_address) as channel:
        yield channel


@pytest.fixture
def stub(channel: Any) -> Any:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def request(rows: int = 1, *, is_raw: bool = True, **fields: Any) -> Any:
    asked = pb.ModelInferRequest(model_name="tiny", **fields)
    tensor = asked.inputs.add(name="images", datatype="UINT8", shape=[rows, SIDE, SIDE, 1])
    if is_raw:
        asked.raw_input_contents.append(IMAGES[:rows].tobytes())
    else:
        tensor.contents.uint_contents.extend(IMAGES[:rows].ravel().tolist())
    return asked


def logits(response: Any) -> Any:
    position = [output.name for output in response.outputs].index("logits")
    values = np.frombuffer(response.raw_output_contents[position], np.float32)
    return values.reshape(list(response.outputs[position].shape))


def refused(call: Any, code: str, match: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is getattr(grpc.StatusCode, code), caught.value
    assert re.search(match, caught.value.details()), caught.value.details()


def test_reflection_is_all_that_a_client_needs(channel: Any) -> None:
    known = reflected.ProtoReflectionDescriptorDatabase(channel)
    services = ["grpc.health.v1.Health", reflection_pb2.DESCRIPTOR.package + ".ServerReflection"]
    assert sorted(known.get_services()) == [*services, "inference.GRPCInferenceService"]
    pool = descriptor_pool.DescriptorPool(known)
    for name in services:
        assert pool.FindServiceByName(name).methods
    method = pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name["ModelInfer"]
    sent, received = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
    assert sent is not pb.ModelInferRequest
    call = channel.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        sent.SerializeToString,
        received.FromString,
    )
    asked = sent.FromString(request(2).SerializeToString())
    np.testing.assert_array_equal(logits(call(asked)), tiny_logits(IMAGES[:2]))


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_has_both_names_and_reads_any_bytes(channel: Any, version: str) -> None:
    def ask(*questions: bytes) -> list[Any]:
        method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        read = reflection_pb2.ServerReflectionResponse.FromString
        call = channel.stream_stream(method, response_deserializer=read)
        return list(call(iter(questions), timeout=10))

    question = reflection_pb2.ServerReflectionRequest
    names, missing, empty = ask(
        question(list_services="").SerializeToString(),
        question(file_containing_symbol="inference.Nothing").SerializeToString(),
        b"",
    )
    assert len(names.list_services_response.service) == 3
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert empty.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    refused(lambda: ask(b"\xff"), "INVALID_ARGUMENT", "expected a protobuf message")
    refused(lambda: ask(bytes(70_000)), "INVALID_ARGUMENT", "at most 65536 bytes")


@pytest.mark.parametrize("is_raw", [True, False])
def test_raw_and_typed_contents(stub: Any, is_raw: bool) -> None:
    response = stub.ModelInfer(request(3, is_raw=is_raw, id="a"))
    assert (response.model_name, response.model_version, response.id) == ("tiny", "1", "a")
    np.testing.assert_array_equal(logits(response), tiny_logits(IMAGES[:3]))


def test_an_empty_list_of_outputs_asks_for_all(stub: Any) -> None:
    """As over HTTP, where the list is written: test_v2_http.py."""
    asked = request(2)
    assert not asked.outputs
    response = stub.ModelInfer(asked)
    assert [output.name for output in response.outputs] == ["logits", "probabilities"]
    asked.outputs.add(name="probabilities")
    response = stub.ModelInfer(asked)
    assert [output.name for output in response.outputs] == ["probabilities"]


def test_encoded_images_as_typed_contents(stub: Any) -> None:
    asked = pb.ModelInferRequest(model_name="tiny", model_version="2")
    tensor = asked.inputs.add(name="images", datatype="BYTES", shape=[64])
    tensor.contents.bytes_contents.extend(PNGS)
    np.testing.assert_array_equal(logits(stub.ModelInfer(asked)), tiny_logits(IMAGES, 2.0))


def changed(**fields: Any) -> Any:
    asked = request()
    for name, value in fields.items():
        setattr(asked.inputs[0], name, value)
    return asked


def test_contents_that_are_refused(stub: Any) -> None:
    both = request()
    both.inputs[0].contents.uint_contents.append(1)
    twice = request()
    twice.raw_input_contents.append(b"")
    wrong = request(is_raw=False)
    wrong.inputs[0].contents.int_contents.append(1)
    large = request(is_raw=False)
    large.inputs[0].contents.uint_contents[0] = 256
    shape = changed()
    shape.inputs[0].shape[0] = 2**62
    negative = changed()
    negative.inputs[0].shape[0] = -1
    shared = request()
    shared.inputs[0].parameters["shared_memory_region"].string_param = "r"
    timeout = request()
    timeout.parameters["timeout"].string_param = "1s"
    classes = request()
    classes.outputs.add(name="logits").parameters["classification"].string_param = "1"
    for asked, match in (
        (both, "contents or raw_input_contents, got both"),
        (twice, "raw_input_contents: expected one an input, 1, got 2"),
        (wrong, "expected uint_contents for UINT8, got int_contents"),
        (large, "whole numbers from 0 to 255"),
        (shape, "at most 70 rows"),
        (negative, "sizes from 0"),
        (shared, "got shared memory"),
        (timeout, '"timeout": expected a whole number'),
        (classes, "classification to be a whole number"),
        (changed(datatype="FP32"), r"expected UINT8 \[-1, 8, 8, 1\], or BYTES"),
        (changed(datatype="FP16"), "got FP16"),
        (changed(datatype="X"), "expected a datatype"),
        (changed(name="image"), 'expected "images", got "image"'),
        (pb.ModelInferRequest(model_name="tiny"), 'expected one, "images", got 0'),
    ):
        refused(lambda asked=asked: stub.ModelInfer(asked), "INVALID_ARGUMENT", match)
    np.testing.assert_array_equal(logits(stub.ModelInfer(request())), tiny_logits(IMAGES[:1]))


def test_statuses(stub: Any) -> None:
    nothing = pb.ModelInferRequest(model_name="nothing")
    refused(lambda: stub.ModelInfer(nothing), "NOT_FOUND", "expected one of tiny:1")
    refused(
        lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name="x")), "NOT_FOUND", "expected one"
    )
    load = pb.RepositoryModelLoadRequest(model_name="tiny")
    refused(lambda: stub.RepositoryModelLoad(load), "PERMISSION_DENIED", "FOVEAL_ADMIN_TOKEN")
    unload = pb.RepositoryModelUnloadRequest(model_name="tiny")
    refused(lambda: stub.RepositoryModelUnload(unload), "PERMISSION_DENIED", "FOVEAL_ADMIN_TOKEN")
    refused(
        lambda: stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest()),
        "UNIMPLEMENTED",
        "shared memory",
    )
    refused(lambda: stub.LogSettings(pb.LogSettingsRequest()), "UNIMPLEMENTED", "log settings")


def test_a_message_beyond_the_limit_is_refused(stub: Any) -> None:
    asked = request()
    asked.raw_input_contents[0] = bytes(2 << 20)
    refused(lambda: stub.ModelInfer(asked), "RESOURCE_EXHAUSTED", "larger than max")
    refused(
        lambda: stub.ModelInfer(asked, compression=grpc.Compression.Gzip),
        "INVALID_ARGUMENT",
        "at most 786432 bytes once expanded.*FOVEAL_MAX_BODY_BYTES",
    )


def test_a_call_whose_deadline_passes_or_that_is_cancelled_never_runs(
    tiny_repository: Path, tmp_path: Path
) -> None:
    """Rows wait a second for company; these three have no second, the fourth has."""
    with running_server(
        tiny_repository, tmp_path, grpc_port=free_port(), max_queue_delay_ms=1000
    ) as server:
        with grpc.insecure_channel(server.grpc_address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            late = request()
            late.parameters["timeout"].int64_param = 100_000
            refused(lambda: stub.ModelInfer(late), "DEADLINE_EXCEEDED", "deadline passed")
            refused(lambda: stub.ModelInfer(request(), timeout=0.1), "DEADLINE_EXCEEDED", "")
            cancelled = stub.ModelInfer.future(request())
            with pytest.raises(grpc.FutureTimeoutError):
                cancelled.result(timeout=0.1)
            cancelled.cancel()
            assert stub.ModelInfer(request(), timeout=20).outputs
        assert server.metric("foveal_batch_rows_sum") == 1
        assert server.metric("foveal_dropped_rows_total") == 3


def test_a_stream_answers_in_order_and_goes_on_after_an_error(two_wires: RunningServer) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(two_wires.grpc_address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for i in range(200):
            tensor = triton.InferInput("images", [1, SIDE, SIDE, 1], "UINT8")
            tensor.set_data_from_numpy(IMAGES[i % 64][None])
            name = "nothing" if i % 50 == 7 else "tiny"
            client.async_stream_infer(
                name, [tensor], request_id=str(i), enable_empty_final_response=True
            )
        for i in range(200):
            result, error = answers.get(timeout=20)
            if i % 50 == 7:
                assert "expected one of tiny:1" in str(error)
                continue
            assert error is None, error
            response = result.get_response()
            assert response.id == str(i)
            assert response.parameters["triton_final_response"].bool_param
            np.testing.assert_array_equal(
                result.as_numpy("logits"), tiny_logits(IMAGES[i % 64][None])
            )
        client.stop_stream()


def test_a_client_that_leaves_its_stream_hurts_nobody(two_wires: RunningServer) -> None:
    with grpc.insecure_channel(two_wires.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(iter([request() for _ in range(500)]))
        next(call)
        call.cancel()
        assert stub.ModelInfer(request()).outputs


def test_health(channel: Any, stub: Any) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "inference.GRPCInferenceService"):
        said = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert said.status == health_pb2.HealthCheckResponse.SERVING
    unknown = health_pb2.HealthCheckRequest(service="other")
    refused(lambda: health.Check(unknown), "NOT_FOUND", "")
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready


def test_metrics_name_the_protocol(two_wires: RunningServer, stub: Any) -> None:
    before = two_wires.metric("foveal_requests_total", protocol="v2_grpc", status="200")
    stub.ModelInfer(request())
    after = two_wires.metric("foveal_requests_total", protocol="v2_grpc", status="200")
    assert after == before + 1


@pytest.mark.thorough
def test_workers_share_the_port_and_a_stop_answers_what_waits_but_not_for_streams(
    tiny_repository: Path, tmp_path: Path
) -> None:
    """The server is given longer to drain than the test gives it to stop."""
    with running_server(
        tiny_repository,
        tmp_path,
        workers=2,
        grpc_port=free_port(),
        max_queue_delay_ms=1500,
        drain_timeout_s=1000,
    ) as server:
        deadline = time.monotonic() + START_S
        while server.log.count("V2 over gRPC on") < 2:  # /livez is answered by either
            assert time.monotonic() < deadline, server.log
            time.sleep(0.05)
        with grpc.insecure_channel(server.grpc_address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            requests: queue.Queue[Any] = queue.Queue()
            requests.put(request())
            stream = stub.ModelStreamInfer(iter(requests.get, None))
            assert not next(stream).error_message
            health = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            waiting = stub.ModelInfer.future(request(2))
            with pytest.raises(grpc.FutureTimeoutError):
                waiting.result(timeout=0.3)
            server.signal_stop()
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            np.testing.assert_array_equal(
                logits(waiting.result(timeout=20)), tiny_logits(IMAGES[:2])
            )
            server.stop()
            requests.put(None)


def test_a_port_that_is_taken_is_named(two_wires: RunningServer, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "foveal.py",
            "serve",
            "--host",
            "127.0.0.1",
            "--port",
            str(free_port()),
        ],
        env={
            "PATH": "/usr/bin:/bin",
            "BENTOML_HOME": str(tmp_path),
            "FOVEAL_GRPC_PORT": str(two_wires.grpc_port),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "choose others with FOVEAL_GRPC_HOST and FOVEAL_GRPC_PORT" in done.stderr


def test_without_the_extra_it_says_so_and_serves_http(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grpc that cannot be found stands for one that is not installed."""
    (tmp_path / "grpc.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'grpc'\", name='grpc')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with running_server(tiny_repository, tmp_path, grpc_port=free_port()) as server:
        deadline = time.monotonic() + START_S
        while "V2 over gRPC is off; it is added by: make install-grpc" not in server.log:
            assert time.monotonic() < deadline, server.log
            time.sleep(0.05)
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
        with Wire(server) as wire:
            assert wire.send(post("/predict", PNGS[0])).answer().status == 200
