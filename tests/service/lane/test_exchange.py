import pytest

from service.errors import InvalidInputError, MethodError, QueueFullError
from service.lane.exchange import Exchange


def exchange(*headers: tuple[bytes, bytes]) -> tuple[Exchange, list[tuple[int, bytes, bytes]]]:
    written: list[tuple[int, bytes, bytes]] = []

    def write(_e: Exchange, status: int, body: bytes, _type: bytes, extra: bytes) -> None:
        written.append((status, body, extra))

    return Exchange("POST", b"/predict", b"", list(headers), write), written


def test_second_answer_is_dropped() -> None:
    e, written = exchange()
    e.respond(200, b"one")
    e.respond(500, b"two")
    e.fail(QueueFullError("full"))
    assert written == [(200, b"one", b"")]
    assert e.status == 200


def test_answer_to_a_client_that_left_is_dropped() -> None:
    e, written = exchange()
    told: list[bool] = []
    e.on_disconnect = lambda: told.append(True)
    e.disconnect()
    e.disconnect()
    e.respond(200, b"one")
    assert not written
    assert told == [True]
    assert e.response_complete


def test_nobody_is_told_of_a_client_that_leaves_with_its_answer() -> None:
    e, _ = exchange()
    told: list[bool] = []
    e.on_disconnect = lambda: told.append(True)
    e.respond(200, b"one")
    e.disconnect()
    assert not told


def test_errors_bring_their_headers() -> None:
    e, written = exchange()
    e.fail(MethodError("no", "POST"))
    assert written == [(405, b'{"error":"no"}', b"allow: POST\r\n")]


def test_first_of_equal_headers_counts() -> None:
    e, _ = exchange((b"a", b"1"), (b"b", b"2"), (b"a", b"3"))
    assert e.header(b"a") == b"1"
    assert e.header(b"c") is None


@pytest.mark.parametrize(
    ("value", "expected_s"), [(b"1500", 1.5), (b"0.5", 0.0005), (b"86400000", 86400.0)]
)
def test_timeout(value: bytes, expected_s: float) -> None:
    e, _ = exchange()
    e.deadline_ms = value
    assert e.timeout_s(30) == expected_s


def test_timeout_is_the_default_where_none_is_asked_for() -> None:
    e, _ = exchange()
    assert e.timeout_s(30) == 30


@pytest.mark.parametrize(
    "value", [b"", b"0", b"-1", b"nan", b"inf", b"86400001", b"1_000", b"\xff"]
)
def test_wrong_timeout(value: bytes) -> None:
    e, _ = exchange()
    e.deadline_ms = value
    with pytest.raises(InvalidInputError, match="X-Request-Timeout-Ms"):
        e.timeout_s(30)
