"""circus' control sockets, which BentoML opens on TCP ports without authentication, closed.

Who reaches the control socket has the service's user run any command. Nothing of a running service
needs it, so it is one that only its own process can reach. ``bentoml serve --reload`` alone has a
process beside it that asks for restarts: there it is a Unix socket that only its user can open.
Leans on names inside circus and BentoML; tests/e2e/test_control.py fails without them.
"""

import atexit
import os
import shutil
import tempfile
from typing import Any

import zmq
from circus.arbiter import Arbiter  # type: ignore[import-untyped]


class _PrivateSocket(zmq.Socket[bytes]):
    """A socket whose file, if it has one, has mode 0600."""

    def bind(self, addr: str) -> Any:
        mask = os.umask(0o177)
        try:
            return super().bind(addr)
        finally:
            os.umask(mask)


class _PrivateContext(zmq.Context[_PrivateSocket]):
    _socket_class = _PrivateSocket


def close_control_port() -> None:
    """Keep the arbiter that BentoML makes next in this process from opening its two ports."""
    make = Arbiter.__init__

    def make_closed(arbiter: Any, *watchers: Any, **options: Any) -> None:
        where = f"inproc://{id(arbiter)}-"
        if options.get("plugins"):  # --reload
            folder = tempfile.mkdtemp(prefix="foveal-")  # of mode 0700
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            where = f"ipc://{folder}/"
            options["context"] = _PrivateContext()
        options["endpoint"] = where + "control"
        options["pubsub_endpoint"] = where + "events"
        make(arbiter, *watchers, **options)

    Arbiter.__init__ = make_closed
