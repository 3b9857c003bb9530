"""Run a handler's coroutine and send its answer when it finishes."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from service.errors import ServiceError
from service.lane.exchange import Exchange


class Later:
    """Runs coroutines that answer requests, and keeps a reference to each until it is done."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        """Start work that answers a request; an error that it raises is the answer, too."""

        async def answer() -> None:
            try:
                await work
            except ServiceError as error:
                exchange.fail(error)
            finally:
                if not exchange.response_complete:
                    exchange.fail(ServiceError())

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
