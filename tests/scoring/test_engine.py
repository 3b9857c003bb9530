"""This machine's engine: what is in flight is bounded, and one image never stops the others."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from models.image import encode_png
from scoring.engine import LocalEngine
from scoring.local import LocalModel
from scoring.rows import Chunk, Image, Pin, Row, chunked
from scoring.stages import OutputOptions
from service.errors import InferenceError
from tests.tiny import random_images

IMAGE = encode_png(random_images(1)[0])


@dataclass
class Waiting:
    """An image that cannot be read before an event."""

    until: threading.Event

    def read(self) -> bytes:
        assert self.until.wait(30), "the rows behind it never came"
        return IMAGE


@dataclass
class Signal:
    """An image that sets an event when it is read."""

    event: threading.Event

    def read(self) -> bytes:
        self.event.set()
        return IMAGE


@dataclass
class Rows:
    """A source of given chunks that counts how many were taken."""

    rows: Iterator[Row]
    taken: int = 0
    name: str = "rows"
    threads: set[str] = field(default_factory=set)

    def count(self) -> None:
        return None

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        assert (start, stop) == (0, None)
        for chunk in chunked(self.rows):
            self.taken += 1
            self.threads.add(threading.current_thread().name)
            yield chunk

    def cut(self, start: int, stop: int) -> "Rows":
        raise AssertionError((start, stop))

    def kinds(self) -> dict[str, str]:
        return {}

    def pin(self) -> Pin:
        return {"source": self.name, "files": 1, "sha256": ""}


def test_a_slow_image_does_not_stall_the_rest(model: LocalModel) -> None:
    """The first image waits for the twenty-thousandth to be decoded."""
    event = threading.Event()
    images: list[Image] = [Waiting(event), *[IMAGE] * 20_000, Signal(event)]
    source = Rows(Row(str(i), image) for i, image in enumerate(images))
    engine = LocalEngine(model, OutputOptions(), threads=2)
    ids = [id_ for _, scored in engine([source], (0, 0)) for id_ in scored.ids]
    assert ids == [str(i) for i in range(len(images))]


def endless() -> Iterator[Row]:
    while True:
        yield Row("same", IMAGE)


def test_what_is_in_flight_is_bounded(model: LocalModel) -> None:
    source = Rows(endless())
    engine = LocalEngine(model, OutputOptions(), threads=1)
    answers = engine([source], (0, 0))
    next(answers)
    taken, deadline = -1, time.monotonic() + 30
    while taken != source.taken:  # until the reader stops: no one takes what is done
        assert time.monotonic() < deadline, "it reads on and on"
        taken = source.taken
        time.sleep(0.5)
    assert 512 <= taken <= 512 + 2
    answers.close()
    assert source.threads == {"read"}
    assert "read" not in {thread.name for thread in threading.enumerate()}


def test_undecoded_chunks_are_bounded(model: LocalModel) -> None:
    """Encoded images are what takes memory: few chunks of them are held."""
    event = threading.Event()
    source = Rows(Row("slow", Waiting(event)) for _ in range(64 * 100))
    answers = LocalEngine(model, OutputOptions(), threads=2)([source], (0, 0))
    taker = threading.Thread(target=lambda: list(answers))
    taker.start()
    taken, deadline = -1, time.monotonic() + 30
    while taken != source.taken:
        assert time.monotonic() < deadline, "it reads on and on"
        taken = source.taken
        time.sleep(0.5)
    assert taken <= 3 * 2 + 1
    event.set()
    taker.join()
    assert source.taken == 100


def test_a_source_that_fails_ends_the_job(model: LocalModel) -> None:
    def rows() -> Iterator[Row]:
        for _ in range(1000):
            yield Row("good", IMAGE)
        raise InferenceError("the disk is gone")

    answers = LocalEngine(model, OutputOptions(), threads=2)([Rows(rows())], (0, 0))
    done = 0
    with pytest.raises(InferenceError, match="the disk is gone"):
        for _, scored in answers:
            done += len(scored)
    assert done == 960, "whole chunks before the failure are answered"
