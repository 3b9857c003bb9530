"""How a call over gRPC ends that is not answered: the statuses of errors."""

from collections.abc import Iterable
from typing import Any

import grpc

from service.errors import ServiceError

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
