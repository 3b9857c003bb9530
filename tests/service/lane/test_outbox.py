"""Answers of one batch are made first and written after: none is lost, none changes its order."""

from typing import Any, cast

import pytest

from service.lane.outbox import Outbox


class Transport:
    def __init__(self, written: list[bytes]) -> None:
        self.written = written

    def write(self, data: bytes) -> None:
        self.written.append(data)


def test_answers_are_held_back_until_all_are_made() -> None:
    outbox, written = Outbox(), list[bytes]()
    transports = [cast(Any, Transport(written)) for _ in range(3)]
    with outbox:
        assert outbox.is_open
        for number, transport in enumerate(transports):
            outbox.answers.append((transport, b"%d" % number))
        assert written == []
    assert written == [b"0", b"1", b"2"]
    assert not outbox.is_open
    with outbox:
        pass
    assert written == [b"0", b"1", b"2"]


def test_answers_are_written_whatever_happens_to_a_neighbour() -> None:
    outbox, written = Outbox(), list[bytes]()

    def fail() -> None:
        with outbox:
            outbox.answers.append((cast(Any, Transport(written)), b"a"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert written == [b"a"]
    assert not outbox.is_open
