"""How a call over gRPC ends: with its id, and with a status if it is not answered."""

from collections.abc import Iterable
from typing import Any

import grpc

from service.errors import ServiceError
from service.lane.request_ids import REQUEST_ID, RequestIds, fit

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
_REQUEST_ID = REQUEST_ID.decode()
Context = Any  # grpc.aio.ServicerContext; grpcio has no types here


def identify(context: Context, ids: RequestIds) -> None:
    """Give a call its id, the client's if it is fit, as metadata of its end."""
    request_id = b""
    for key, value in context.invocation_metadata() or ():
        if key == _REQUEST_ID:
            request_id = fit(value if isinstance(value, bytes) else value.encode())
            break
    context.set_trailing_metadata(((_REQUEST_ID, (request_id or ids.make()).decode()),))


def id_of(context: Context) -> bytes:
    """Return the id that ``identify`` gave a call."""
    request_id: str = context.trailing_metadata()[0][1]
    return request_id.encode()


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
    added = ((key.decode(), value.decode()) for key, value in headers)
    context.set_trailing_metadata((*(context.trailing_metadata() or ()), *added))
