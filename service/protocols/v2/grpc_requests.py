"""How gRPC's requests reach their methods: as bytes, read inside the call.

gRPC's own deserializers answer what they cannot read with UNKNOWN and log a traceback, and read
whatever was sent. Here every method gets the bytes first.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc

from service.errors import ServiceError
from service.protocols.v2.messages import read_small

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

Header = tuple[bytes, bytes]
Context = Any  # grpc.aio.ServicerContext; grpcio has no types here


class Registrar:
    """Takes the place of a server in the generated functions that register a service's methods.

    Args:
        server: Gets the methods, with deserializers of ours.
        raw: Names of methods that read their bytes themselves.
    """

    def __init__(self, server: grpc.aio.Server, raw: frozenset[str] = frozenset()) -> None:
        self._server = server
        self._raw = raw

    def add_generic_rpc_handlers(self, _handlers: Any) -> None:
        """Do nothing: the other method gets the same methods by their names."""

    def add_registered_method_handlers(self, service: str, methods: Mapping[str, Any]) -> None:
        """Register the methods of a service."""
        checked = {
            name: _without_deserializer(method, is_raw=name in self._raw)
            for name, method in methods.items()
        }
        handler = grpc.method_handlers_generic_handler(service, checked)
        self._server.add_generic_rpc_handlers((handler,))


def refuse(context: Context, error: ServiceError) -> None:
    """Let a call end with the status of an error; clients get no more than its message."""
    code = CODES.get(error.status, grpc.StatusCode.INTERNAL)
    end(context, code, error.message, error.headers)


def end(
    context: Context, code: grpc.StatusCode, message: str, headers: Iterable[Header] = ()
) -> None:
    """Let a call end with a status when its method returns, whatever it returns.

    ``context.abort`` raises an error that the call keeps: a reference cycle, in which the frames it
    passed through keep the request until the next collection.
    """
    context.set_code(code)
    context.set_details(message)
    context.set_trailing_metadata(tuple((key.decode(), value.decode()) for key, value in headers))


def _without_deserializer(method: Any, *, is_raw: bool) -> Any:
    serializer = method.response_serializer
    if method.request_streaming:
        assert is_raw and method.response_streaming, "there is no other; this is a bug"
        return grpc.stream_stream_rpc_method_handler(method.stream_stream, None, serializer)
    if method.response_streaming:
        answer = _reading(method.unary_stream, method.request_deserializer)
        return grpc.unary_stream_rpc_method_handler(answer, None, serializer)
    answer = method.unary_unary
    if not is_raw:
        answer = _reading(answer, method.request_deserializer)
    return grpc.unary_unary_rpc_method_handler(answer, None, serializer)


def _reading(method: Callable[[Any, Context], Any], parse: Callable[[bytes], Any]) -> Any:
    """Return a method of bytes that reads its request or refuses it."""

    async def answer(raw: bytes, context: Context) -> Any:
        try:
            request = read_small(raw, parse)
        except ServiceError as error:
            refuse(context, error)
            return None
        return await method(request, context)

    return answer
