"""Every name inside other people's packages that the service leans on.

An upgrade that renames one fails here, with its name, and not in production.
"""

import asyncio
import importlib
import inspect
import ssl
from typing import Any

import httptools
import prometheus_client
import pytest
import uvicorn.config
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from service.lane.connection import LaneProtocol
from service.lane.lane import Lane


def parameters(function: object) -> list[str]:
    assert callable(function)
    return list(inspect.signature(function).parameters)


def test_protocol_is_looked_up_in_this_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(HttpToolsProtocol):
        pass

    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", Mine)
    config = uvicorn.config.Config("tests.service.lane.test_uvicorn:parameters", log_config=None)
    assert config.http == "auto"
    config.load()
    assert config.http_protocol_class is Mine


def test_protocol_is_constructed_so() -> None:
    assert parameters(HttpToolsProtocol.__init__) == [
        "self",
        "config",
        "server_state",
        "app_state",
        "_loop",
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("connection_made", ["self", "transport"]),
        ("connection_lost", ["self", "exc"]),
        ("eof_received", ["self"]),
        ("data_received", ["self", "data"]),
        ("on_message_begin", ["self"]),
        ("on_url", ["self", "url"]),
        ("on_header", ["self", "name", "value"]),
        ("on_headers_complete", ["self"]),
        ("on_body", ["self", "body"]),
        ("on_message_complete", ["self"]),
        ("on_response_complete", ["self"]),
        ("shutdown", ["self"]),
        ("pause_writing", ["self"]),
        ("resume_writing", ["self"]),
        ("_start_asgi_task", ["self", "cycle", "app"]),
        ("_should_upgrade", ["self"]),
        ("_should_upgrade_to_ws", ["self"]),
        ("_unset_keepalive_if_required", ["self"]),
    ],
)
def test_protocol_method(name: str, expected: list[str]) -> None:
    assert parameters(getattr(HttpToolsProtocol, name)) == expected


@pytest.mark.parametrize(
    "name",
    [
        "app",
        "cycle",
        "expect_100_continue",
        "flow",
        "headers",
        "loop",
        "parser",
        "pipeline",
        "scope",
        "server_state",
        "transport",
        "url",
    ],
)
def test_protocol_attribute(name: str) -> None:
    assert f"self.{name}" in inspect.getsource(HttpToolsProtocol)


def test_pipeline_takes_new_requests_left_and_gives_old_ones_right() -> None:
    source = inspect.getsource(HttpToolsProtocol)
    assert "self.pipeline.appendleft((self.cycle, app))" in source
    assert "cycle, app = self.pipeline.pop()" in source


@pytest.mark.parametrize(
    "name",
    [
        "disconnected",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
        "response_started",
    ],
)
def test_cycle_attribute(name: str) -> None:
    assert f"self.{name} = " in inspect.getsource(RequestResponseCycle.__init__)


def test_cycle_tells_the_protocol_when_it_is_over() -> None:
    source = inspect.getsource(HttpToolsProtocol.on_headers_complete)
    assert "on_response=self.on_response_complete" in source
    assert "self._start_asgi_task(self.cycle, app)" in source
    assert "existing_cycle.response_complete" in source


def test_status_lines() -> None:
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"
    for status in (400, 404, 405, 408, 413, 415, 429, 431, 500, 503, 504):
        assert STATUS_LINE[status].startswith(b"HTTP/1.1 %d " % status)


def test_flow_control() -> None:
    for name in ("pause_reading", "resume_reading", "pause_writing", "resume_writing"):
        assert parameters(getattr(FlowControl, name)) == ["self"]
    assert "self.write_paused = " in inspect.getsource(FlowControl.__init__)
    assert parameters(FlowControl.__init__) == ["self", "transport"]


def test_connection_is_made_of_these_parts() -> None:
    """The lane does it in uvicorn's place; a part that is added there is wanted here."""
    source = inspect.getsource(HttpToolsProtocol.connection_made)
    body = [line.strip() for line in source.split(":\n", 1)[1].splitlines() if line.strip()]
    assert body == [
        "self.connections.add(self)",
        "self.transport = transport",
        "self.flow = FlowControl(transport)",
        "self.server = get_local_addr(transport)",
        "self.client = get_remote_addr(transport)",
        'self.scheme = "https" if is_ssl(transport) else "http"',
        "if self.logger.level <= TRACE_LOG_LEVEL:",
        'prefix = "%s:%d - " % self.client if self.client else ""',
        'self.logger.log(TRACE_LOG_LEVEL, "%sHTTP connection made", prefix)',
    ]
    for function in (get_local_addr, get_remote_addr, is_ssl):
        assert parameters(function) == ["transport"]


def test_application_learns_both_addresses() -> None:
    """They are read late, when a request turns out to be the application's."""
    seen: list[dict[str, Any]] = []

    async def application(scope: dict[str, Any], _receive: Any, send: Any) -> None:
        seen.append(scope)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def ask() -> tuple[tuple[str, int], tuple[str, int]]:
        loop = asyncio.get_running_loop()
        lane = Lane(max_body_bytes=9, receive_timeout_s=9, keep_alive_s=9, drain_timeout_s=9)
        config = uvicorn.config.Config(application, log_config=None, lifespan="off")  # type: ignore[arg-type]
        config.load()
        state = uvicorn.server.ServerState()
        server = await loop.create_server(
            lambda: LaneProtocol(lane, config, state, {}, loop), "127.0.0.1", 0
        )
        async with server:
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address)
            client = writer.get_extra_info("sockname")
            for _ in range(2):
                writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
            writer.close()
        return address, client

    address, client = asyncio.run(ask())
    assert [(scope["server"], scope["client"]) for scope in seen] == [(address, client)] * 2
    assert {scope["scheme"] for scope in seen} == {"http"}


@pytest.mark.parametrize(
    "behind", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"no request\r\n\r\n"]
)
def test_application_learns_that_its_client_left(behind: bytes) -> None:
    """Whatever followed its request: uvicorn tells the last one alone, and a write would raise."""
    heard: list[str] = []

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        is_asked, has_left = asyncio.Event(), asyncio.Event()

        async def application(_scope: Any, receive: Any, _send: Any) -> None:
            await receive()
            is_asked.set()
            heard.append((await receive())["type"])
            has_left.set()

        lane = Lane(max_body_bytes=9, receive_timeout_s=9, keep_alive_s=9, drain_timeout_s=9)
        config = uvicorn.config.Config(application, log_config=None, lifespan="off")
        config.load()
        state = uvicorn.server.ServerState()
        server = await loop.create_server(
            lambda: LaneProtocol(lane, config, state, {}, loop), "127.0.0.1", 0
        )
        async with server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + behind)
            await is_asked.wait()
            writer.transport.abort()
            await asyncio.wait_for(has_left.wait(), 5)

    asyncio.run(ask())
    assert heard == ["http.disconnect"]


def test_server_state() -> None:
    source = inspect.getsource(uvicorn.server.ServerState)
    for name in ("total_requests", "connections", "tasks", "default_headers"):
        assert f"self.{name}" in source


def test_server_stops_connections_and_waits_for_them() -> None:
    source = inspect.getsource(uvicorn.server.Server.shutdown)
    assert "connection.shutdown()" in source
    waiting = inspect.getsource(uvicorn.server.Server._wait_tasks_to_complete)
    assert "while self.server_state.connections and not self.force_exit" in waiting


def test_parser() -> None:
    for name in ("feed_data", "get_http_version", "get_method", "should_keep_alive"):
        assert hasattr(httptools.HttpRequestParser, name)
    assert hasattr(httptools.HttpRequestParser, "should_upgrade")
    assert issubclass(httptools.HttpParserUpgrade, Exception)
    assert issubclass(httptools.HttpParserError, Exception)
    assert httptools.parse_url(b"http://host/path?x=1").path == b"/path"
    assert vars(httptools_impl)["httptools"] is httptools


def test_parser_skips_the_body_of_an_upgrade_and_says_where() -> None:
    """Why the lane reads such bodies itself."""
    seen: list[str] = []

    class Collector:
        def on_body(self, _body: bytes) -> None:
            seen.append("body")

        def on_message_complete(self) -> None:
            seen.append("complete")

    head = b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\n"
    with pytest.raises(httptools.HttpParserUpgrade) as upgrade:
        httptools.HttpRequestParser(Collector()).feed_data(head + b"body")
    assert upgrade.value.args[0] == len(head)
    assert seen == ["complete"]


def test_error_in_a_callback_becomes_a_parser_error() -> None:
    class Raising:
        def on_url(self, _url: bytes) -> None:
            raise ValueError("over a limit")

    with pytest.raises(httptools.HttpParserError):
        httptools.HttpRequestParser(Raising()).feed_data(b"GET / HTTP/1.1\r\n\r\n")


def test_prometheus_histogram() -> None:
    registry = prometheus_client.CollectorRegistry()
    histogram = prometheus_client.Histogram(
        "h", "h", ["l"], buckets=(1, 2, 4), registry=registry
    ).labels("a")
    assert histogram._upper_bounds == [1.0, 2.0, 4.0, float("inf")]
    histogram._buckets[1].inc(3)
    histogram._sum.inc(4.5)
    assert registry.get_sample_value("h_bucket", {"l": "a", "le": "1.0"}) == 0
    assert registry.get_sample_value("h_bucket", {"l": "a", "le": "2.0"}) == 3
    assert registry.get_sample_value("h_count", {"l": "a"}) == 3
    assert registry.get_sample_value("h_sum", {"l": "a"}) == 4.5


def test_tls_context_is_made_by_our_factory() -> None:
    """BentoML's worker looks ``uvicorn.Config`` up after it asked the service for its app."""
    assert "ssl_context_factory" in parameters(uvicorn.config.Config.__init__)
    source = inspect.getsource(importlib.import_module("_bentoml_impl.worker.service"))
    assert 0 < source.index("service.to_asgi(") < source.index("= uvicorn.Config(")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    config = uvicorn.config.Config(
        parameters, log_config=None, ssl_context_factory=lambda _config, _default: context
    )
    config.load()
    assert config.is_ssl and config.ssl is context
