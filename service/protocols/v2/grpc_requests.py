"""How gRPC's requests reach their methods: as bytes, read inside the call.

gRPC's own deserializers answer what they cannot read with UNKNOWN and log a traceback, and read
whatever was sent. Here every method gets the bytes first.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc

from service.errors import ServiceError
from service.lane.request_ids import RequestIds
from service.protocols.v2.grpc_arrivals import Arrivals
from service.protocols.v2.grpc_endings import Context, identify, refuse
from service.protocols.v2.messages import read_small


class Registrar:
    """Takes the place of a server in the generated functions that register a service's methods.

    Args:
        server: Gets the methods, with deserializers of ours.
        arrivals: Knows of every call until its message is there.
        ids: Gives each call its id, except a stream, which takes one itself.
        raw: Names of methods that read their bytes themselves.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        arrivals: Arrivals,
        ids: RequestIds,
        raw: frozenset[str] = frozenset(),
    ) -> None:
        self._server = server
        self._arrivals = arrivals
        self._ids = ids
        self._raw = raw

    def add_generic_rpc_handlers(self, _handlers: Any) -> None:
        """Do nothing: the other method gets the same methods by their names."""

    def add_registered_method_handlers(self, service: str, methods: Mapping[str, Any]) -> None:
        """Register the methods of a service."""
        paths = {f"/{service}/{name}": name for name in methods}
        free = {path: self._free(name, methods[name]) for path, name in paths.items()}
        bounded = {path: self._bounded(name, methods[name]) for path, name in paths.items()}
        self._server.add_generic_rpc_handlers((_Methods(free, bounded, self._arrivals),))

    def _free(self, name: str, method: Any) -> Any:
        """Return a method for whose message gRPC waits."""
        serializer = method.response_serializer
        if method.request_streaming:
            return self._bounded(name, method)
        read, ids = self._reading(name, method), self._ids

        async def answer(raw: bytes, context: Context) -> Any:
            identify(context, ids)
            return await read(raw, context)

        if method.response_streaming:
            return grpc.unary_stream_rpc_method_handler(answer, None, serializer)
        return grpc.unary_unary_rpc_method_handler(answer, None, serializer)

    def _bounded(self, name: str, method: Any) -> Any:
        """Return a method that waits for its message itself, so that it can stop; 40 us dearer."""
        serializer = method.response_serializer
        if method.request_streaming:
            assert name in self._raw and method.response_streaming, "no other; this is a bug"
            return grpc.stream_stream_rpc_method_handler(method.stream_stream, None, serializer)
        answer, arrivals, ids = self._reading(name, method), self._arrivals, self._ids

        async def respond(requests: AsyncIterator[bytes], context: Context) -> None:
            identify(context, ids)
            raw = await arrivals.message(requests, context)
            if raw is not None:
                response = await answer(raw, context)
                if response is not None and not method.response_streaming:
                    await context.write(response)

        return grpc.stream_stream_rpc_method_handler(respond, None, serializer)

    def _reading(self, name: str, method: Any) -> Any:
        """Return a method of bytes that reads its request or refuses it."""
        arrivals, parse = self._arrivals, method.request_deserializer
        if name in self._raw:
            infer = method.unary_unary

            async def answer_raw(raw: bytes, context: Context) -> Any:
                arrivals.end()
                return await infer(raw, context)

            return answer_raw

        # A method that answers with a stream writes it itself.
        call = method.unary_stream if method.response_streaming else method.unary_unary

        async def answer(raw: bytes, context: Context) -> Any:
            arrivals.end()
            try:
                request = read_small(raw, parse)
            except ServiceError as error:
                refuse(context, error)
                return None
            return await call(request, context)

        return answer


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # untyped there
    """The methods of a service by their paths; gRPC asks for one when a call's head is there."""

    def __init__(
        self, free: Mapping[str, Any], bounded: Mapping[str, Any], arrivals: Arrivals
    ) -> None:
        self._free = free
        self._bounded = bounded
        self._arrivals = arrivals

    def service(self, handler_call_details: Any) -> Any:
        """Return the method of a call, whose message is still to come; None: there is none."""
        method = self._free.get(handler_call_details.method)
        if method is None or method.request_streaming or self._arrivals.begin():
            return method
        return self._bounded[handler_call_details.method]
