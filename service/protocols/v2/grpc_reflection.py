"""gRPC's reflection: a tool without ``.proto`` files asks which services and messages there are.

The answers are grpcio-reflection's; here are both names of the service, and the bounds of messages.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.errors import ServiceError
from service.lane.request_ids import RequestIds
from service.protocols.v2.grpc_arrivals import Arrivals, call_task
from service.protocols.v2.grpc_endings import Context, identify, refuse
from service.protocols.v2.grpc_requests import Registrar
from service.protocols.v2.messages import read_small

METHOD = "ServerReflectionInfo"
# The same messages under two names: newer tools ask the first, grpcio describes the second alone.
_NAMES = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # untyped there
    """Answers what a server serves.

    Args:
        services: Full names of the services.
        arrivals: Knows of every stream until its next message is there.
        ids: Gives each stream its id.
    """

    def __init__(self, services: Iterable[str], arrivals: Arrivals, ids: RequestIds) -> None:
        super().__init__((*services, reflection.SERVICE_NAME))
        self._arrivals = arrivals
        self._ids = ids

    async def ServerReflectionInfo(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[Any]:
        """Answer the questions of one stream, one after the other."""
        identify(context, self._ids)
        call = call_task()
        try:
            async for answer in super().ServerReflectionInfo(self._read(requests), context):
                yield answer
        except ServiceError as error:
            refuse(context, error)
        except asyncio.CancelledError:
            self._arrivals.explain(call, context)

    async def _read(self, requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for raw in self._arrivals.messages(requests, call_task()):
            yield read_small(raw, reflection_pb2.ServerReflectionRequest.FromString)


def register(servicer: Reflection, registrar: Registrar) -> None:
    """Register the service under both of its names."""
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in _NAMES:
        registrar.add_registered_method_handlers(name, {METHOD: method})
