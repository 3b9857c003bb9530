"""The door: what every HTTP request passes first where keys or cross-origin rules are configured.

The lane asks it before a handler, and before anything that goes to BentoML. What it does not know
to be public wants a key. Where neither keys nor origins are configured there is no door.
"""

import functools
import re
from collections.abc import Callable

from service.access.cors import Cors
from service.access.keys import Keys
from service.errors import ForbiddenError
from service.lane.exchange import Exchange, Handler, Header

Find = Callable[[bytes], Handler | None]

# Probes have no key, and the page asks for one.
_PUBLIC = frozenset(
    {b"/", b"/docs", b"/livez", b"/readyz", b"/healthz", b"/v2/health/live", b"/v2/health/ready"}
)
_STATIC = b"/page/"
# These take the admin token instead, which their handlers check.
_ADMIN = re.compile(rb"/models/[^/]+/traffic|/v2/repository/models/[^/]+/(load|unload)")


class Door:
    """Keys and cross-origin rules of one process.

    Args:
        keys: The keys; None: no request needs one.
        cors: The cross-origin rules; None: none.
    """

    def __init__(self, keys: Keys | None, cors: Cors | None) -> None:
        self._keys = keys
        self._cors = cors

    def guard(self, find: Find) -> Find:
        """Return a ``find`` whose handlers ask for a key, and count its requests."""
        keys = self._keys
        if keys is None:
            return find

        def find_guarded(path: bytes) -> Handler | None:
            handler = find(path)
            if handler is None or _is_public(path) or _ADMIN.fullmatch(path):
                return handler
            return functools.partial(_admit, keys, handler)

        return find_guarded

    def open(
        self, method: bytes, path: bytes, headers: list[Header], handler: Handler | None
    ) -> Handler | None:
        """Look at a head before the body arrives.

        Args:
            method: Upper case.
            path: Raw path.
            headers: Names in lower case.
            handler: The lane's handler of the path, None if it is BentoML's.

        Returns:
            What handles the request; None: BentoML.

        Raises:
            UnauthorizedError: It needs a key and has none.
            ForbiddenError: Its key is not for this route.
            RateLimitError: Its key sent too much; a lane's handler counts by itself.
        """
        if self._cors is not None and self._cors.is_preflight(method, headers):
            return _answer_preflight
        keys = self._keys
        if keys is None or _is_public(path):
            return handler
        authorization = _authorization(headers)
        if _ADMIN.fullmatch(path):
            if (key := keys.find(authorization)) is not None:
                raise ForbiddenError(
                    f"key {key.name!r}: expected the token of FOVEAL_ADMIN_TOKEN on this route"
                )
        else:
            key = keys.check(authorization)
            if handler is None:
                keys.count(key)
        return handler

    def lines(self, headers: list[Header]) -> bytes:
        """Return the header lines that every answer gets, each ending in CR LF."""
        return b"" if self._cors is None else self._cors.lines(headers)


def _is_public(path: bytes) -> bool:
    return path in _PUBLIC or path.startswith(_STATIC)


def _admit(keys: Keys, handler: Handler, exchange: Exchange) -> None:
    """Handle a request if its key may send one now."""
    keys.count(keys.check(_authorization(exchange.headers)))
    handler(exchange)


def _answer_preflight(exchange: Exchange) -> None:
    exchange.respond(200, b"", b"text/plain", Cors.preflight_lines())


def _authorization(headers: list[Header]) -> bytes:
    """Return the header ``Authorization``; empty if there is none or more than one."""
    values = [value for name, value in headers if name == b"authorization"]
    return values[0] if len(values) == 1 else b""
