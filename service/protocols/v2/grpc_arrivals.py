"""Messages on their way to gRPC's methods: gRPC's core holds their bytes, and nobody counts them.

A call is known from its head on. A few may take as long as they like: what they can hold fits into
the budget. Further ones are ended when their message takes too long, or the process grows by more
than the budget; what they held goes back to the system.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc

from service.errors import InvalidInputError
from service.inflight import Inflight
from service.protocols.v2.grpc_endings import end, refuse

logger = logging.getLogger("foveal.grpc")

Task = asyncio.Task[Any]
# Time between two looks at the calls, while there are any.
SWEEP_S = 0.25
_MEMORY = Path("/proc/self/statm")
_Ending = tuple[grpc.StatusCode, str]


class Arrivals:
    """Calls whose message has not arrived.

    Used on the loop only.

    Args:
        timeout_s: Time for the message of a call to arrive; a stream may wait for its next one.
        max_message_bytes: Largest message.
        inflight: The budget; None: the growth of the process is not bounded.
        trim: Called when memory that the system should get back is free, or soon will be.
    """

    def __init__(
        self,
        timeout_s: float,
        max_message_bytes: int,
        inflight: Inflight | None,
        trim: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._inflight = inflight
        self._trim = trim
        limit_bytes = inflight.limit_bytes if inflight is not None else 0
        self._fitting = max(1, limit_bytes // max_message_bytes)
        # Calls that gRPC reads for: nothing of ours can end them.
        self._free: set[Task] = set()
        # Calls and streams that can be ended, since when they wait, and whether they are streams.
        self._bounded: dict[Task, tuple[float, bool]] = {}
        self._endings: dict[Task, _Ending] = {}
        self._usual_bytes = 0
        self._is_sweeping = False

    def begin(self) -> bool:
        """Let gRPC read the message of this call, if what such calls can hold fits the budget."""
        if len(self._free) >= self._fitting:
            self._free = {task for task in self._free if not task.done()}
            if len(self._free) >= self._fitting:
                return False
        self._free.add(call_task())
        self._watch()
        return True

    def end(self) -> None:
        """Count this call no longer: its message is here."""
        self._free.discard(call_task())

    async def message(self, requests: AsyncIterator[bytes], context: Any) -> bytes | None:
        """Return the message of this call; None if it took too much: the call has a status then."""
        task = call_task()
        self._bounded[task] = self._loop.time(), False
        self._watch()
        try:
            async for raw in requests:
                return raw
        except asyncio.CancelledError:
            self.explain(task, context)
            return None
        finally:
            self._bounded.pop(task, None)
        refuse(context, InvalidInputError("message: expected one, got none"))
        return None

    async def messages(self, requests: AsyncIterator[bytes], task: Task) -> AsyncIterator[bytes]:
        """Yield the messages of a stream, whose call may be cancelled while it waits."""
        self._bounded[task] = self._loop.time(), True
        self._watch()
        try:
            async for raw in requests:
                self._bounded.pop(task, None)
                yield raw
                self._bounded[task] = self._loop.time(), True
                self._watch()
        finally:
            self._bounded.pop(task, None)

    def explain(self, task: Task, context: Any) -> None:
        """Give a call that was cancelled here its status; raise again if its client left."""
        self._trim()
        ending = self._endings.pop(task, None)
        if ending is None:
            raise asyncio.CancelledError
        task.uncancel()
        end(context, *ending)

    def _watch(self) -> None:
        if not self._is_sweeping:
            self._is_sweeping = True
            self._usual_bytes = self._process_bytes()
            self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        arriving = {task for task in self._free if not task.done()}
        if len(arriving) < len(self._free):  # their clients left
            self._trim()
        self._free = arriving
        now = self._loop.time()
        self._end(
            self._late(now),
            grpc.StatusCode.DEADLINE_EXCEEDED,
            f"message: expected it within {self._timeout_s:g} s, got a part of it; raise "
            "FOVEAL_RECEIVE_TIMEOUT_S",
        )
        self._end(
            self._excess(now),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "memory: expected room for the message, got other messages that arrive; retry later "
            "or raise FOVEAL_MAX_INFLIGHT_MIB",
        )
        self._is_sweeping = bool(self._free or self._bounded)
        if self._is_sweeping:
            self._loop.call_later(SWEEP_S, self._sweep)

    def _late(self, now: float) -> list[Task]:
        return [
            task
            for task, (since, is_stream) in self._bounded.items()
            if not is_stream and now - since > self._timeout_s
        ]

    def _excess(self, now: float) -> list[Task]:
        """Return the latest calls if the process has grown by more than the budget."""
        if self._inflight is None:
            return []
        kept = max(0, self._fitting - len(self._free))
        now_bytes = self._process_bytes()
        if len(self._bounded) <= kept or now_bytes < self._usual_bytes:
            self._usual_bytes = now_bytes
        if now_bytes - self._usual_bytes <= self._inflight.limit_bytes:
            return []
        slow = [task for task, (since, _) in self._bounded.items() if now - since > SWEEP_S]
        return slow[kept:]

    def _process_bytes(self) -> int:
        """Return the memory of this process without what the budget counts; 0 if unknown."""
        if self._inflight is None:
            return 0
        try:
            pages = int(_MEMORY.read_bytes().split()[1])
        except OSError:  # only Linux has the file
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE") - self._inflight.used

    def _end(self, tasks: list[Task], code: grpc.StatusCode, message: str) -> None:
        tasks = [task for task in tasks if task not in self._endings]
        if tasks:
            logger.warning("gRPC: calls that are ended: %d; %s", len(tasks), message)
        for task in tasks:
            self._endings[task] = code, message
            task.cancel()


def call_task() -> Task:
    """Return the task of the call that runs now."""
    task = asyncio.current_task()
    assert task is not None, "gRPC calls methods in tasks; this is a bug"
    return task
