"""The Open Inference Protocol V2 over gRPC: the service's methods.

A thin layer over ``infer``; ``messages`` converts messages, ``grpc_server`` runs the server.
"""

import asyncio
import functools
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.errors import INTERNAL, InvalidInputError, NotReadyError, ServiceError
from service.lane.request_ids import REQUEST_ID, RequestIds
from service.protocols.engine import Engine
from service.protocols.v2.documents import (
    model_config,
    model_metadata,
    repository_index,
    server_metadata,
)
from service.protocols.v2.grpc_arrivals import Arrivals, call_task
from service.protocols.v2.grpc_endings import Context, end, id_of, identify, refuse
from service.protocols.v2.grpc_infer import GrpcInfer
from service.protocols.v2.messages import write_config, write_document
from service.protocols.v2.statistics import Statistics
from service.rollout.model_control import ModelControl

logger = logging.getLogger("foveal.grpc")

# Methods that read their bytes themselves.
RAW = frozenset(("ModelInfer", "ModelStreamInfer"))
# Most requests of one stream in progress; the next is read when one is answered.
STREAM_AHEAD = 64
# gRPC receives a message in pieces of some KiB, which C's heap keeps when they are freed.
_LARGE_BYTES = 1 << 20

Method = Callable[[Any, Any, Context], Awaitable[Any]]


def _answered(method: Method) -> Method:
    """Turn what a method raises into a status; clients get no more than the message."""

    @functools.wraps(method)
    async def answer(self: Any, request: Any, context: Context) -> Any:
        try:
            return await method(self, request, context)
        except ServiceError as error:
            refuse(context, error)
        except Exception:
            logger.exception("%s failed; this is a bug", method.__name__)
            refuse(context, ServiceError())
        return None

    return answer


class V2Grpc(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # untyped there
    """The methods of the service.

    Args:
        engine: What all protocols share.
        control: Checks the token, and changes what is served.
        statistics: Counts of all protocols.
        is_ready: Returns whether the service accepts requests.
        max_message_bytes: Largest message once it is expanded.

    Attributes:
        ids: Gives calls their ids.
        trim: Called when the memory of a large message is free again.
        in_flight: Inferences that are not answered yet.
        is_draining: Whether new requests of open streams are refused.
        arrivals: Knows of the streams whose next message has not arrived; set by their server.
    """

    arrivals: Arrivals

    def __init__(
        self,
        engine: Engine,
        control: ModelControl,
        statistics: Statistics,
        is_ready: Callable[[], bool],
        max_message_bytes: int,
    ) -> None:
        self.engine = engine
        self.ids = RequestIds()
        self.trim: Callable[[], None] = lambda: None
        self.max_message_bytes = max_message_bytes
        self.control = control
        self.statistics = statistics
        self.is_ready = is_ready
        self.in_flight = 0
        self.is_draining = False

    @_answered
    async def ServerLive(self, _request: Any, _context: Context) -> Any:
        """Return that this process is live."""
        return service_pb2.ServerLiveResponse(live=True)

    @_answered
    async def ServerReady(self, _request: Any, _context: Context) -> Any:
        """Return whether every model has a served version."""
        return service_pb2.ServerReadyResponse(ready=self.is_ready())

    @_answered
    async def ModelReady(self, request: Any, _context: Context) -> Any:
        """Return whether a model is served."""
        try:
            self.engine.catalog().find(request.name, request.version)
        except ServiceError:
            return service_pb2.ModelReadyResponse(ready=False)
        return service_pb2.ModelReadyResponse(ready=True)

    @_answered
    async def ServerMetadata(self, _request: Any, _context: Context) -> Any:
        """Return name, version and extensions of the server."""
        return write_document(server_metadata(), service_pb2.ServerMetadataResponse)

    @_answered
    async def ModelMetadata(self, request: Any, _context: Context) -> Any:
        """Return a model's inputs and outputs."""
        catalog = self.engine.catalog()
        document = model_metadata(catalog, catalog.find(request.name, request.version))
        return write_document(document, service_pb2.ModelMetadataResponse)

    @_answered
    async def ModelConfig(self, request: Any, _context: Context) -> Any:
        """Return a model's configuration."""
        return write_config(model_config(self.engine.catalog().find(request.name, request.version)))

    @_answered
    async def ModelStatistics(self, request: Any, _context: Context) -> Any:
        """Return the statistics of one model or of all."""
        found = self.engine.catalog().matching(request.name, request.version)
        document = await self.statistics.of(found)
        return write_document(document, service_pb2.ModelStatisticsResponse)

    @_answered
    async def RepositoryIndex(self, request: Any, _context: Context) -> Any:
        """Return every version of the repository and whether it is served."""
        models = repository_index(await self.control.versions(), ready=request.ready)
        return write_document({"models": models}, service_pb2.RepositoryIndexResponse)

    @_answered
    async def RepositoryModelLoad(self, request: Any, context: Context) -> Any:
        """Load a model, for an administrator."""
        self.control.authorize(_authorization(context))
        if request.parameters:
            raise InvalidInputError("parameters: expected none: models come from the repository")
        await self.control.load(request.model_name)
        return service_pb2.RepositoryModelLoadResponse()

    @_answered
    async def RepositoryModelUnload(self, request: Any, context: Context) -> Any:
        """Take a model out of service, for an administrator."""
        self.control.authorize(_authorization(context))
        await self.control.unload(request.model_name)
        return service_pb2.RepositoryModelUnloadResponse()

    @_answered
    async def ModelInfer(self, raw: bytes, context: Context) -> Any:
        """Answer one inference."""
        return await self._infer(self._inference(id_of(context)), raw, context.time_remaining())

    async def ModelStreamInfer(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[Any]:
        """Answer inferences in the order of their requests; several are in progress at once.

        The id of the first is the stream's with ``-0`` behind it, and so on; each answer names its
        own in the parameter ``x-request-id``, as metadata come once a stream, and at its end.
        """
        room = asyncio.Semaphore(STREAM_AHEAD)
        answers: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
        tasks: set[asyncio.Task[Any]] = set()
        identify(context, self.ids)
        stream_id, numbers = id_of(context), itertools.count()
        call = call_task()
        requests = self.arrivals.messages(requests, call)

        async def read() -> None:
            try:
                async for raw in requests:
                    await room.acquire()
                    own_id = b"%b-%d" % (stream_id, next(numbers))
                    task = asyncio.create_task(self._infer_in_stream(raw, own_id))
                    tasks.add(task)
                    answers.put_nowait(task)
            finally:
                answers.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (answer := await answers.get()) is not None:
                yield await answer
                tasks.discard(answer)
                room.release()
        except asyncio.CancelledError:
            self.arrivals.explain(call, context)
        finally:
            for task in (reader, *tasks):
                task.cancel()
            await asyncio.gather(reader, *tasks, return_exceptions=True)

    async def _infer_in_stream(self, raw: bytes, request_id: bytes) -> Any:
        inference = self._inference(request_id)
        try:
            if self.is_draining:
                raise NotReadyError("not ready: draining; connect again")
            response = await self._infer(inference, raw, None)
        except ServiceError as error:
            message = error.message
        except Exception:
            logger.exception("an inference in a stream failed; this is a bug")
            message = INTERNAL
        else:
            message = ""
        if message:
            response = service_pb2.ModelInferResponse(id=inference.id)
        response.parameters[REQUEST_ID.decode()].string_param = request_id.decode()
        return service_pb2.ModelStreamInferResponse(error_message=message, infer_response=response)

    def _inference(self, request_id: bytes) -> GrpcInfer:
        return GrpcInfer(self.engine, self.max_message_bytes, request_id)

    async def _infer(self, inference: GrpcInfer, raw: bytes, time_remaining_s: float | None) -> Any:
        self.in_flight += 1
        try:
            return await inference.answer(raw, time_remaining_s)
        finally:
            self.in_flight -= 1
            if len(raw) >= _LARGE_BYTES:
                self.trim()

    async def _left_out(self, _request: Any, context: Context) -> Any:
        message = "left out: shared memory, trace and log settings"
        end(context, grpc.StatusCode.UNIMPLEMENTED, message)

    SystemSharedMemoryStatus = SystemSharedMemoryRegister = SystemSharedMemoryUnregister = _left_out
    CudaSharedMemoryStatus = CudaSharedMemoryRegister = CudaSharedMemoryUnregister = _left_out
    TraceSetting = LogSettings = _left_out


def _authorization(context: Context) -> bytes:
    """Return the call's metadata ``authorization``, empty if there is none."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value if isinstance(value, bytes) else str(value).encode()
    return b""
