"""A function of many items in threads, a bounded number ahead; results in their order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from models.machine import available_cpus

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# Items that are read ahead for each thread.
_AHEAD = 32


def map_ahead(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield ``function`` of each item, computed on all available cores.

    Args:
        function: Called in several threads at once; what it raises is raised here.
        items: Read one at a time, in this thread.
    """
    threads = available_cpus()
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > _AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
