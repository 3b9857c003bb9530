import orjson
import pytest

from service import errors
from service.errors import (
    ClientError,
    MethodError,
    QueueFullError,
    ServerError,
    ServiceError,
    error_body,
)

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, ServiceError)
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__name__))
def test_who_is_blamed(kind: type[ServiceError]) -> None:
    """A client is blamed for what it did; a full queue is not its fault, whatever 429 says."""
    if issubclass(kind, ClientError):
        assert 400 <= kind.status < 500
    elif issubclass(kind, ServerError):
        assert kind.status >= 500 or issubclass(kind, QueueFullError)


def test_statuses() -> None:
    statuses = {kind.__name__: kind.status for kind in CLASSES}
    assert statuses == {
        "ServiceError": 500,
        "ClientError": 400,
        "DecodeError": 400,
        "InvalidInputError": 400,
        "ModelNotFoundError": 404,
        "MethodError": 405,
        "ConflictError": 409,
        "RequestTimeoutError": 408,
        "TooLargeError": 413,
        "UnsupportedMediaError": 415,
        "HeadersTooLargeError": 431,
        "UnauthorizedError": 401,
        "ForbiddenError": 403,
        "ServerError": 500,
        "QueueFullError": 429,
        "RateLimitError": 429,
        "InferenceError": 500,
        "DeviceLostError": 500,
        "RunMemoryError": 500,
        "NotReadyError": 503,
        "StorageError": 507,
        "DeadlineError": 504,
        "TransferCodingError": 501,
        "HttpVersionError": 505,
    }


def test_headers() -> None:
    assert QueueFullError("full", 7).headers == ((b"retry-after", b"7"),)
    assert MethodError("no", "POST").headers == ((b"allow", b"POST"),)
    assert ServiceError("x").headers == ()


def test_body() -> None:
    message = 'a "quoted" läbel\n'
    assert orjson.loads(error_body(message)) == {"error": message}
