"""Every error of the online half, grouped by the stage that raises it.

    bytes --decode--> row --validate--> queue --batch--> run --scatter--> postprocess --> response
      |                |                 |                |
      |                |                 |                InferenceError 500
      |                |                 QueueFullError 429, DeadlineError 504, NotReadyError 503
      |                InvalidInputError 400, ModelNotFoundError 404
      DecodeError 400, TooLargeError 413, UnsupportedMediaError 415, MethodError 405,
      UnauthorizedError 401, ForbiddenError 403, RateLimitError 429, TransferCodingError 501,
      HttpVersionError 505

Each class carries its HTTP status; statuses are named nowhere else. A status is 4xx only for
what the client did. All errors have one body: ``{"error": "<message>"}``.
"""

import json
from typing import Self

INTERNAL = "internal error; see the server's log"
# How the error of a row begins whose answer is not all numbers: 500, but of this image alone.
NOT_A_NUMBER = "probability: expected a number, got"


class ServiceError(Exception):
    """Base of all errors that become a response.

    Args:
        message: One line: where: expected X, got Y; how to fix it. Without one, a bug: the log
            has the rest.
    """

    status = 500

    def __init__(self, message: str = INTERNAL) -> None:
        super().__init__(message)
        self.message = message

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return extra response headers, names in lower case."""
        return ()

    def detached(self) -> Self:
        """Return this error without its traceback and causes, to be kept beside a request.

        They hold the frames that it passed, and those the request's body: a cycle, if the error is
        kept in one of them.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


class ClientError(ServiceError):
    """The request is wrong: sent again unchanged, it fails again."""

    status = 400


class DecodeError(ClientError):
    """The bytes are not an image, or a truncated or corrupt one."""


class InvalidInputError(ClientError):
    """A parameter, tensor or form is not what the route expects."""


class UnauthorizedError(ClientError):
    """The route needs a credential, and got none or a wrong one."""

    status = 401

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return ``www-authenticate``, as RFC 9110 15.5.2 asks."""
        return ((b"www-authenticate", b"Bearer"),)


class ForbiddenError(ClientError):
    """The route is switched off, or the credential is valid and not meant for it."""

    status = 403


class ModelNotFoundError(ClientError):
    """No such model, version or route."""

    status = 404


class MethodError(ClientError):
    """The route exists, for another method."""

    status = 405

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return ``allow``, as RFC 9110 15.5.6 asks."""
        return ((b"allow", self.allowed.encode()),)


class ConflictError(ClientError):
    """What is told contradicts what was told before."""

    status = 409


class RequestTimeoutError(ClientError):
    """The request did not arrive whole within the receive time-out."""

    status = 408


class TooLargeError(ClientError):
    """More bytes, pixels or rows than the service accepts."""

    status = 413


class UnsupportedMediaError(ClientError):
    """The route does not read this content type."""

    status = 415


class HeadersTooLargeError(ClientError):
    """The request line and headers are longer than the service reads."""

    status = 431


class TransferCodingError(ServiceError):
    """The body is in a transfer coding other than chunked (RFC 9112, 6.1: 501)."""

    status = 501


class HttpVersionError(ServiceError):
    """The request is of another version of HTTP than 1.0 and 1.1."""

    status = 505


class ServerError(ServiceError):
    """The service failed or is too busy: the same request may succeed later."""


class QueueFullError(ServerError):
    """The queue is full, or too long for the request's deadline.

    Args:
        message: One line.
        retry_after_s: Whole seconds after which the queue should have room, at least 1.
    """

    status = 429

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return ``retry-after`` in whole seconds."""
        return ((b"retry-after", b"%d" % self.retry_after_s),)


class RateLimitError(QueueFullError):
    """The key of the request sent more than its rate allows."""


class InferenceError(ServerError):
    """The run failed; the reason is logged and not sent to the client."""


class RunMemoryError(InferenceError):
    """A run found no memory: a smaller batch may."""


class DeviceLostError(InferenceError):
    """The GPU does no further work in this process; another process may use it."""


class NotReadyError(ServerError):
    """The model or the service is loading, could not be loaded, or is draining."""

    status = 503

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return ``retry-after``, as RFC 9110 15.6.4 suggests."""
        return ((b"retry-after", b"1"),)


class StorageError(ServerError):
    """The disk is full, cannot be written or cannot be read; the log says where."""

    status = 507


class DeadlineError(ServerError):
    """The request's deadline passed before its rows were run."""

    status = 504


def no_such_route(method: str, path: str) -> ModelNotFoundError:
    """Return the error of a path that is no route; it repeats 200 characters of it at most."""
    return ModelNotFoundError(f"{method} {path[:200]}: no such route; GET /docs lists all")


def error_body(message: str) -> bytes:
    """Return the one error body, ``{"error": message}``, as JSON."""
    # Not orjson: benchmarks and tests use the pipeline with the standard library and numpy only.
    return json.dumps({"error": message}, ensure_ascii=False, separators=(",", ":")).encode()
