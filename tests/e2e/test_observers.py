"""Traces and the access log of a real server; spans arrive at a real OTLP receiver over HTTP."""

import gzip
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from models.image import encode_png
from tests.server import RunningServer, running_server
from tests.tiny import publish_tiny, random_images

pytestmark = pytest.mark.e2e

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    """Keeps the spans that are sent to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receive)
        self.spans: list[Any] = []

    def wait_for(self, trace: str) -> list[Any]:
        """Wait for all spans of a trace: they leave together, some seconds after the answer."""
        return self._wait(lambda span: span.trace_id.hex() == trace)

    def wait_for_named(self, name: str, status: int = 200) -> list[Any]:
        """Wait for spans of a request, by name and status."""
        return self._wait(
            lambda span: (
                span.name == name and attributes(span).get("http.response.status_code") == status
            )
        )

    def _wait(self, is_wanted: Callable[[Any], bool]) -> list[Any]:
        deadline = time.monotonic() + 30
        while not (found := [span for span in self.spans if is_wanted(span)]):
            assert time.monotonic() < deadline, [span.name for span in self.spans]
            time.sleep(0.1)
        return found


class Receive(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request = ExportTraceServiceRequest.FromString(body)
        assert isinstance(self.server, Collector)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield collector
        collector.shutdown()


@pytest.fixture(scope="module")
def observed(
    collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("observed")
    publish_tiny(folder / "models")
    config = folder / "bentoml.yaml"
    config.write_text(
        "services:\n"
        "  foveal:\n"
        "    tracing:\n"
        "      exporter_type: otlp\n"
        "      sample_rate: 1.0\n"
        f"      otlp: {{protocol: http, endpoint: 'http://127.0.0.1:{collector.server_port}'}}\n"
    )
    with running_server(folder / "models", folder, bentoml_config=config, access_log=1) as running:
        yield running


@pytest.fixture(scope="module")
def image() -> bytes:
    return encode_png(random_images(1)[0])


def attributes(span: Any) -> dict[str, Any]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}


def test_a_trace_goes_on_below_the_clients_span(
    observed: RunningServer, collector: Collector, image: bytes
) -> None:
    answer = httpx.post(
        f"{observed.url}/predict",
        content=image,
        headers={"content-type": "image/png", "traceparent": f"00-{TRACE}-{PARENT}-01"},
    )
    assert answer.status_code == 200
    spans = {span.name: span for span in collector.wait_for(TRACE)}
    assert set(spans) == {"POST /predict", "queue", "run"}
    request, queue, run = spans["POST /predict"], spans["queue"], spans["run"]
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    assert queue.parent_span_id == run.parent_span_id == request.span_id
    assert attributes(request)["http.response.status_code"] == 200
    assert attributes(run)["foveal.rows"] == attributes(run)["foveal.batch_rows"] == 1
    assert abs(request.start_time_unix_nano / 1e9 - time.time()) < 60
    assert (
        request.start_time_unix_nano
        <= queue.start_time_unix_nano
        <= queue.end_time_unix_nano
        <= run.start_time_unix_nano
        < run.end_time_unix_nano
        <= request.end_time_unix_nano
    )


def test_a_request_without_a_trace_begins_one_and_a_refusal_is_traced(
    observed: RunningServer, collector: Collector
) -> None:
    assert httpx.post(f"{observed.url}/predict", content=b"no image").status_code == 400
    (span,) = collector.wait_for_named("POST /predict", status=400)
    assert not span.parent_span_id


def test_the_access_log_has_a_line_of_json_for_each_answer(
    observed: RunningServer, image: bytes
) -> None:
    def line(path: str) -> dict[str, Any]:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for text in observed.log.splitlines():
                if text.startswith("{") and text.endswith("}") and f'"path":"{path}"' in text:
                    said: dict[str, Any] = json.loads(text)
                    return said
            time.sleep(0.05)
        raise AssertionError(f"expected a line for {path}, got none:\n{observed.log}")

    headers = {"X-Request-Id": "of-the-log"}
    httpx.post(f"{observed.url}/models/tiny/predict?top=1", content=image, headers=headers)
    httpx.post(f"{observed.url}/models/none/predict", content=image)
    good, bad = line("/models/tiny/predict"), line("/models/none/predict")
    assert (good["method"], good["status"]) == ("POST", 200)
    assert (good["rows"], good["body_bytes"]) == (1, len(image))
    assert 0 <= good["queue_ms"] < good["total_ms"]
    assert 0 < good["run_ms"] < good["total_ms"]
    assert abs(good["time"] - time.time()) < 60
    assert good["id"] == "of-the-log"
    assert bad["status"] == 404
    assert re.fullmatch("[0-9a-f]{12}-[0-9a-f]+", bad["id"])
    assert "rows" not in bad


@pytest.mark.thorough
def test_v2_is_observed_as_well(observed: RunningServer, collector: Collector) -> None:
    document = {
        "inputs": [
            {
                "name": "images",
                "datatype": "UINT8",
                "shape": [2, *random_images(2).shape[1:]],
                "data": random_images(2).ravel().tolist(),
            }
        ]
    }
    answer = httpx.post(f"{observed.url}/v2/models/tiny/infer", json=document)
    assert answer.status_code == 200, answer.text
    (request,) = collector.wait_for_named("POST /v2/models/tiny/infer")
    below = [span for span in collector.spans if span.parent_span_id == request.span_id]
    assert sorted(span.name for span in below) == ["queue", "run"]
    assert attributes(below[-1])["foveal.rows"] == 2


def test_nothing_observes_by_default(server: RunningServer, image: bytes) -> None:
    assert httpx.post(f"{server.url}/predict", content=image).status_code == 200
    assert not [line for line in server.log.splitlines() if line.startswith("{")]
