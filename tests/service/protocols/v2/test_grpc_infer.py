"""One gRPC request in this process: what its deadline and its budget are worth."""

import gzip
import threading
import zlib
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("grpc")

from service.errors import DeadlineError
from service.inflight import Inflight
from service.protocols.v2.grpc_infer import GrpcInfer
from tests.service.protocols.desk import Desk


@pytest.fixture
def busy_threads(desk: Desk) -> Iterator[Desk]:
    """The desk while its only thread for bodies has no time."""
    free = threading.Event()
    desk.engine.inflight = Inflight(1 << 20)
    desk.decoders.submit(free.wait)
    yield desk
    free.set()
    desk.engine.inflight = None


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_message_that_waits_for_a_thread_has_a_deadline(
    busy_threads: Desk, compress: Callable[[bytes], bytes]
) -> None:
    engine = busy_threads.engine

    async def answer() -> None:
        with pytest.raises(DeadlineError, match="while its body was read"):
            await GrpcInfer(engine, 1 << 20).answer(compress(bytes(1000)), 0.05)

    busy_threads.run(answer())
    assert engine.inflight is not None
    assert engine.inflight.used == 0
