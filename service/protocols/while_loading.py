"""What is answered while the models of a start are loaded: probes and metrics; all else is 503."""

from collections.abc import Callable

from service.errors import NotReadyError
from service.lane.exchange import Exchange, Handler
from service.protocols.v2.http import live

# BentoML answers these; /readyz with 503 and the reason.
_BENTOMLS = frozenset({b"/livez", b"/readyz", b"/healthz", b"/metrics"})


def find_while_loading(path: bytes, reason: Callable[[], str], page: bytes) -> Handler | None:
    """Return the handler of a raw path before there is a model; None leaves it to BentoML.

    Args:
        path: Raw path.
        reason: Returns why the service is not ready.
        page: What a browser gets at ``/`` in place of an error in JSON; HTML.
    """

    def refuse(exchange: Exchange) -> None:
        if path == b"/" and b"text/html" in (exchange.header(b"accept") or b""):
            status = NotReadyError.status
            exchange.respond(status, page, b"text/html; charset=utf-8", b"retry-after: 1\r\n")
            return
        raise NotReadyError(reason())

    if path == b"/v2/health/live":
        return live
    return None if path in _BENTOMLS else refuse
