"""Answers that wait for some work, beside the loop's own."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from service.errors import ServiceError
from service.lane.exchange import Exchange


class Later:
    """Runs work that ends in answers, and holds on to it until it is done."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        """Answer when some work is done; what it is refused for is the answer, too."""

        async def answer() -> None:
            try:
                await work
            except ServiceError as error:
                exchange.fail(error)
            finally:
                if not exchange.response_complete:
                    exchange.fail(ServiceError("internal error; the server's log says more"))

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
