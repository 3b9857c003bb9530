"""V2's gRPC server of one worker: its address, health and reflection services, start and drain.

Runs in the worker's own event loop, where its requests join HTTP's in one queue; several workers
share the port. Needs the ``grpc`` extra; without it this module cannot be imported.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2_grpc

from service.access.keys import Keys
from service.access.tls import Certificate
from service.protocols.v2.grpc import RAW, V2Grpc
from service.protocols.v2.grpc_access import KeyInterceptor, credentials
from service.protocols.v2.grpc_arrivals import Arrivals
from service.protocols.v2.grpc_reflection import METHOD, Reflection, register
from service.protocols.v2.grpc_requests import Registrar

logger = logging.getLogger("foveal.grpc")

# On stop: seconds between polls for calls in flight, and seconds for their answers to be sent.
POLL_S = 0.05
STOP_GRACE_S = 0.3
# Shortest time between two pings of a client: they cost next to nothing.
PING_INTERVAL_MS = 500
SERVICE = "inference.GRPCInferenceService"


class Health(health.aio.HealthServicer):  # type: ignore[misc]  # untyped there
    """``grpc.health.v1``: serving while the service is ready."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        super().__init__()
        self._is_ready = is_ready

    async def refresh(self) -> None:
        """Set the status from the service's readiness."""
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await self.set(name, status.SERVING if self._is_ready() else status.NOT_SERVING)

    async def Check(self, request: Any, context: Any) -> Any:
        """Answer one check."""
        await self.refresh()
        return await super().Check(request, context)


@dataclass(frozen=True, slots=True)
class GrpcLimits:
    """Where the server listens and what a call may cost.

    Attributes:
        host: Address to listen on.
        port: Port to listen on.
        is_shared: Whether other workers listen on the port, too.
        max_message_bytes: Largest request, expanded.
        receive_timeout_s: Time for a request to arrive.
        drain_timeout_s: On stop, time for accepted requests to be answered.
    """

    host: str
    port: int
    is_shared: bool
    max_message_bytes: int
    receive_timeout_s: float
    drain_timeout_s: float

    @property
    def address(self) -> str:
        """Return ``host:port``, as gRPC writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class GrpcServer:
    """The server of one worker.

    Args:
        servicer: The methods of the service.
        limits: Address, and limits of a call.
        keys: Keys of which a call needs one; None: it needs none.
        certificate: For TLS; None: no TLS.

    Raises:
        OSError: The port is in use.
    """

    def __init__(
        self,
        servicer: V2Grpc,
        limits: GrpcLimits,
        keys: Keys | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        self._limits = limits
        self._servicer = servicer
        self._health = Health(servicer.is_ready)
        self._server = grpc.aio.server(
            interceptors=None if keys is None else [KeyInterceptor(keys, servicer.ids)],
            options=[
                ("grpc.so_reuseport", int(limits.is_shared)),
                ("grpc.max_receive_message_length", limits.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # The core would expand messages before they can be counted; see ``coding_of``.
                ("grpc.per_message_decompression", 0),
                # Clients may ping a stream that is idle; by default the third ping within five
                # minutes ends the connection.
                ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MS),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL_MS),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        engine = servicer.engine
        servicer.arrivals = Arrivals(
            limits.receive_timeout_s, limits.max_message_bytes, engine.inflight, servicer.trim
        )
        registrar = Registrar(self._server, servicer.arrivals, servicer.ids, RAW | {METHOD})
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, registrar)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, registrar)
        register(
            Reflection((SERVICE, health.SERVICE_NAME), servicer.arrivals, servicer.ids), registrar
        )
        self._stopping: asyncio.Task[None] | None = None
        try:
            if certificate is None:
                self._server.add_insecure_port(limits.address)
            else:
                self._server.add_secure_port(limits.address, credentials(certificate))
        except RuntimeError:
            raise OSError(
                f"gRPC {limits.address}: expected a free port of this machine, got one in use; "
                "choose another with FOVEAL_GRPC_PORT, or 0 for no gRPC"
            ) from None
        self._starting = asyncio.get_running_loop().create_task(self._start())

    async def _start(self) -> None:
        await self._health.refresh()
        await self._server.start()
        logger.info("V2 over gRPC on %s", self._limits.address)

    def drain(self) -> None:
        """Refuse new calls, and answer accepted ones within the drain time-out."""
        if self._stopping is None:
            self._servicer.is_draining = True
            self._stopping = asyncio.get_running_loop().create_task(self._stop())

    async def _stop(self) -> None:
        await self._starting
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.create_task(self._server.stop(self._limits.drain_timeout_s))
        while self._servicer.in_flight and not stopping.done():
            await asyncio.sleep(POLL_S)
        # Only streams that wait for their clients are left, and answers on their way out.
        await self._server.stop(STOP_GRACE_S)
        await stopping

    async def stop(self) -> None:
        """Drain, and wait until it is done."""
        self.drain()
        assert self._stopping is not None, "drain sets it; this is a bug"
        await self._stopping
