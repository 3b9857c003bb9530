"""``/metrics`` on a port of its own, where scrapers need no key.

Every worker listens there, on a socket of its own that shares the port: each can answer for all, so
the port outlives any of them.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import uvicorn.config
from prometheus_client import CONTENT_TYPE_LATEST
from uvicorn.server import ServerState

from service.errors import MethodError, ModelNotFoundError, ServiceError
from service.lane.exchange import Exchange, Handler
from service.lane.lane import Lane
from service.lane.server import protocol_of

logger = logging.getLogger("foveal.access")

_MAX_BODY_BYTES = 1024
_TIMEOUT_S = 10.0


class MetricsPort:
    """The server of one worker.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        collect: Returns the metrics of all workers; called on a thread.
        tls: As on the service's port; None: no TLS.

    Raises:
        OSError: Another program listens on the port.
    """

    def __init__(
        self, host: str, port: int, collect: Callable[[], bytes], tls: ssl.SSLContext | None
    ) -> None:
        self._collect = collect
        self._thread = ThreadPoolExecutor(1, "metrics")
        self._loop = asyncio.get_running_loop()
        self._lane = Lane(
            max_body_bytes=_MAX_BODY_BYTES,
            receive_timeout_s=_TIMEOUT_S,
            keep_alive_s=75,
            drain_timeout_s=1,
        )
        self._lane.route(self._find)
        self._answering: set[asyncio.Task[None]] = set()
        listener = _listen(host, port)
        config = uvicorn.config.Config(_nothing, log_config=None, lifespan="off")
        make, state = protocol_of(self._lane), ServerState()
        self._starting = self._loop.create_task(
            self._loop.create_server(lambda: make(config, state, {}), sock=listener, ssl=tls)
        )
        logger.info("metrics on %s:%d", host, port)

    async def close(self) -> None:
        """Stop listening, and close what is idle."""
        (await self._starting).close()
        self._lane.drain(self._loop)
        self._thread.shutdown(wait=False)

    def _find(self, path: bytes) -> Handler:
        return self._answer if path == b"/metrics" else _unknown

    def _answer(self, exchange: Exchange) -> None:
        if exchange.method not in ("GET", "HEAD"):
            raise MethodError(f"{exchange.method}: expected GET", "GET, HEAD")
        task = self._loop.create_task(self._respond(exchange))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _respond(self, exchange: Exchange) -> None:
        try:
            text = await self._loop.run_in_executor(self._thread, self._collect)
            exchange.respond(200, text, CONTENT_TYPE_LATEST.encode())
        except Exception:
            logger.exception("collecting metrics failed")
            exchange.fail(ServiceError())


def moved(_exchange: Exchange) -> None:
    """Answer ``/metrics`` on the service's port, where it is not any more."""
    raise ModelNotFoundError("/metrics: expected on FOVEAL_METRICS_PORT, not on this port")


def _listen(host: str, port: int) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(
            f"metrics on {host}:{port}: expected a free port of this machine, got: "
            f"{error.strerror}; choose another with FOVEAL_METRICS_PORT"
        ) from None
    listener.setblocking(False)
    return listener


def _unknown(_exchange: Exchange) -> None:
    raise ModelNotFoundError("no such route on this port; expected /metrics")


async def _nothing(_scope: object, _receive: object, _send: object) -> None:
    """Stand where uvicorn wants an application; the lane answers everything."""
