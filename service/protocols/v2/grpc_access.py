"""Keys and TLS of V2's gRPC server: what a call needs before its method is called.

A key comes as the metadata ``authorization``, as over HTTP. Health wants none, and repository
control takes the admin token instead. Used only where keys are configured.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from service.access.keys import Key, Keys
from service.access.tls import Certificate
from service.errors import ForbiddenError, ServiceError
from service.lane.request_ids import RequestIds
from service.protocols.v2.grpc_endings import identify, refuse

_V2 = "/inference.GRPCInferenceService/"
_PUBLIC = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        _V2 + "ServerLive",
        _V2 + "ServerReady",
    }
)
_ADMIN = frozenset({_V2 + "RepositoryModelLoad", _V2 + "RepositoryModelUnload"})
Continuation = Callable[[Any], Awaitable[Any]]


class KeyInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # untyped there
    """Lets a call pass if its key may send one now.

    Args:
        keys: The keys.
        ids: Gives a refused call its id.
    """

    def __init__(self, keys: Keys, ids: RequestIds) -> None:
        self._keys = keys
        self._ids = ids

    async def intercept_service(self, continuation: Continuation, details: Any) -> Any:
        """Return the method of a call, or one that refuses it."""
        method = details.method
        if method in _PUBLIC:
            return await continuation(details)
        values = [value for name, value in details.invocation_metadata if name == "authorization"]
        authorization = values[0].encode() if len(values) == 1 else b""
        keys = self._keys
        try:
            if method in _ADMIN:
                if (key := keys.find(authorization)) is not None:
                    raise ForbiddenError(f"key {key.name!r}: expected the admin token")
                return await continuation(details)
            key = keys.check(authorization)
            keys.count(key)
        except ServiceError as error:
            return _refusing(error, self._ids)
        handler = await continuation(details)
        is_stream = handler is not None and handler.request_streaming
        return _paced(keys, key, handler) if is_stream and key.interval_s else handler


def _refusing(error: ServiceError, ids: RequestIds) -> Any:
    """Return a method of any kind that reads no message and gives an error's status."""

    async def answer(_requests: AsyncIterator[bytes], context: Any) -> None:
        identify(context, ids)
        refuse(context, error)

    return grpc.stream_stream_rpc_method_handler(answer)


def _paced(keys: Keys, key: Key, handler: Any) -> Any:
    """Return a stream's method that reads no faster than the rate of its key.

    The call itself was counted as the first request.
    """

    async def pace(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        is_first = True
        async for request in requests:
            while not is_first and (wait_s := keys.wait_s(key)) > 0:
                await asyncio.sleep(wait_s)
            is_first = False
            yield request

    async def answer(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for response in handler.stream_stream(pace(requests), context):
            yield response

    return grpc.stream_stream_rpc_method_handler(
        answer, handler.request_deserializer, handler.response_serializer
    )


def credentials(certificate: Certificate) -> grpc.ServerCredentials:
    """Return credentials that follow a certificate's files: each handshake asks for news."""
    served = certificate.pair

    def fetch() -> Any:
        nonlocal served
        if certificate.pair is served:
            return None
        served = certificate.pair
        return grpc.ssl_server_certificate_configuration([(served.key, served.chain)])

    first = grpc.ssl_server_certificate_configuration([(served.key, served.chain)])
    return grpc.dynamic_ssl_server_credentials(first, fetch)
