"""The cores of the service and those left for the load generator."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from loadtest.tune.errors import TuneError
from models.machine import available_cpus


@dataclass(frozen=True, slots=True)
class Cores:
    """The service's cores.

    Attributes:
        count: Number of cores it may use: affinity and quota.
        server: Cores it is pinned to; empty: not pinned.
        client: Cores left for the load generator; empty: it shares the service's.
    """

    count: int
    server: tuple[int, ...] = ()
    client: tuple[int, ...] = ()

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """Pin processes that this thread starts to the service's cores."""
        if not self.server:
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.server)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def choose_cores(wanted: int | None) -> Cores:
    """Return the first ``wanted`` available cores; None: all of them, not pinned.

    Raises:
        TuneError: Fewer are available, or this system cannot pin.
    """
    available = available_cpus()
    if wanted is None:
        return Cores(available)
    if wanted > available:
        raise TuneError(
            f"--cores: expected at most {available}, which affinity and quota leave here, "
            f"got {wanted}"
        )
    if not hasattr(os, "sched_getaffinity"):
        raise TuneError("--cores: expected Linux, got a system without processor affinity")
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(wanted, tuple(allowed[:wanted]), tuple(allowed[wanted:]))
