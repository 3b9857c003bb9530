"""One budget for the bodies of a worker: who is read, who waits, who is refused."""

import asyncio
import contextlib
import gc
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.inflight import Inflight
from service.lane.bodies import Bodies, Claim
from tests.hostile.corpus import bombs
from tests.server import RunningServer, Wire, assert_error, chunked, post, running_server
from tests.service.lane.lane_client import PNGS, PREDICT, assert_answers
from tests.service.lane.test_heads import Wire as InProcess

MIB = 1 << 20
BODY = b"\xff\xd8" + bytes(MIB - 2)


class Reader:
    """A connection whose request arrives."""

    reads = 0

    def read_on(self) -> None:
        self.reads += 1


@pytest.fixture(scope="module")
def narrow(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server that holds 4 MiB: two of bodies before it pauses, three before it refuses."""
    with running_server(
        tiny_repository,
        tmp_path_factory.mktemp("narrow"),
        max_inflight_mib=4,
        receive_timeout_s=2,
        max_body_bytes=4 * MIB,
    ) as running:
        yield running


@pytest.fixture
def patient(tiny_repository: Path, tmp_path: Path) -> Iterator[RunningServer]:
    """A server that holds 16 MiB: 8 of bodies before it pauses, 12 before it refuses.

    It has time for decode threads that a busy machine keeps waiting.
    """
    with running_server(
        tiny_repository,
        tmp_path,
        max_inflight_mib=16,
        max_body_bytes=4 * MIB,
        receive_timeout_s=30,
    ) as running:
        yield running


def begin(server: RunningServer, size: int = MIB, sent: int = 900_000) -> Wire:
    """Send the head of a body and most of it."""
    wire = Wire(server)
    head = f"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n"
    return wire.send(head.encode(), BODY[:sent])


@pytest.mark.e2e
def test_more_than_fits_is_answered_in_turn(patient: RunningServer) -> None:
    """12 bodies of 1 MiB at once, from clients that all wait: paused, none lost, none refused.

    Beyond the 8 MiB each may bring the 256 KiB of one read, which is less than what is refused.
    """
    statuses: list[int] = []

    def ask(i: int) -> None:
        request = chunked("/predict", BODY) if i % 2 else post("/predict", BODY)
        with Wire(patient) as wire:
            statuses.append(wire.send(request).answer().status)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert statuses == [400] * 12


@pytest.mark.e2e
def test_half_received_bodies_do_not_wait_for_each_other(narrow: RunningServer) -> None:
    """Together they exceed what may be held; each is completed only after the others began."""
    wires = [begin(narrow) for _ in range(3)]
    try:
        time.sleep(0.3)
        for wire in wires:
            wire.socket.setblocking(True)
            wire.send(BODY[900_000:])
        for wire in wires:
            assert_error(wire.answer(), 400, "JPEG")
    finally:
        for wire in wires:
            wire.close()


@pytest.mark.e2e
def test_who_holds_the_room_too_long_is_cut_and_who_waits_is_told(narrow: RunningServer) -> None:
    holders = [begin(narrow) for _ in range(4)]
    try:
        time.sleep(0.3)
        with Wire(narrow) as small:  # is answered all the time
            for _ in range(5):
                assert_answers(small.send(PREDICT).answer(), 0)
        answers = [wire.answer() for wire in holders]
        assert_error(answers[0], 408, "expected to arrive whole within 2")
        for answer in answers[1:]:
            assert answer.status in (408, 429)
        late = [answer for answer in answers if answer.status == 429]
        assert late
        assert_error(late[0], 429, "MiB in flight of 4 .* raise FOVEAL_MAX_INFLIGHT_MIB")
        assert int(late[0].headers["retry-after"]) >= 1
    finally:
        for wire in holders:
            wire.close()
    with Wire(narrow) as wire:
        assert_error(wire.send(post("/predict", BODY)).answer(), 400, "JPEG")


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory in /proc")
def test_clients_that_leave_after_each_body_do_not_pile_them_up(
    tiny_repository: Path, tmp_path: Path
) -> None:
    """Whoever begins first is read on, and each of them begins first: 100 bodies of 4 MiB."""
    with running_server(
        tiny_repository, tmp_path, max_inflight_mib=16, max_body_bytes=8 * MIB
    ) as server:
        image = dict(bombs(4))["bomb/filled.tiff"]  # takes a decoder longer than a client
        request = post("/predict", image)
        [worker] = server.workers()
        before = server.rss_mib()
        for _ in range(100):
            with Wire(server) as wire:
                wire.send(request)
        status = Path(f"/proc/{worker.pid}/status").read_text()
        peak_mib = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024
        assert peak_mib - before < 100, f"{before:.0f} MiB, then up to {peak_mib:.0f}"


@pytest.mark.e2e
def test_a_body_larger_than_the_share_is_read_alone(narrow: RunningServer) -> None:
    with Wire(narrow) as wire:
        assert_error(wire.send(post("/predict", BODY * 4)).answer(), 400, "JPEG")
        assert_answers(wire.send(post("/predict", PNGS[1])).answer(), 1)


def test_every_byte_is_counted_and_given_back() -> None:
    gc.collect()
    wire = InProcess(remembers=True)
    inflight = Inflight(1000)
    wire.lane.bodies._inflight = inflight
    body = b"x" * 60
    wire.send(b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n" + body[:40])
    assert inflight.used > 40
    wire.send(body[40:])
    assert inflight.used == 0
    wire.lane.route(lambda _path: kept.append)
    for _ in range(2):  # the second waits for its turn
        wire.send(b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n" + body)
    assert inflight.used == 60
    wire.protocol.connection_lost(None)
    kept.clear()
    assert inflight.used == 0
    wire.close()


def test_the_first_is_read_on_unless_whole_requests_hold_the_room() -> None:
    bodies, first, other = Bodies(Inflight(100)), Reader(), Reader()
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        bodies.run_on(loop)
        halves = [Claim(bodies), Claim(bodies)]
        for claim, size in zip(halves, (10, 50), strict=True):
            claim.grow(size)
        del claim
        assert (bodies.must_wait(first), bodies.must_wait(other)) == (False, True)
        halves[1].complete(60)
        assert bodies.whole == 60 and bodies.must_wait(first)
        halves.pop()
        assert (bodies.held, bodies.whole) == (10, 0)
        bodies.wake()
        assert (first.reads, other.reads) == (1, 1)
        del halves[:]
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert bodies.held == 0


def test_a_thread_may_be_the_last_to_hold_a_request() -> None:
    wire = InProcess(remembers=True)
    wire.lane.route(lambda _path: kept.append)
    wire.send(b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n" + b"x" * 30)
    wire.send(b"x" * 30)
    assert wire.lane.bodies.held == 60
    wire.protocol.connection_lost(None)
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    wire.loop.call_soon(wire.loop.stop)
    wire.loop.run_forever()
    assert wire.lane.bodies.held == 0
    wire.close()


kept: list[object] = []
