"""The ASGI side: which requests reach BentoML, and their answers in this project's shape.

``BENTOML_PATHS`` are the only paths that reach it; every other one is the lane's, known or not.
``ReadOnly`` stands in front of BentoML's application and lets nothing in but a GET or HEAD of these
paths without a body: none of BentoML's parsing runs. ``OneErrorShape`` stands around both and
rewrites every error body that is not ``{"error": "<message>"}`` yet: Starlette's plain text,
BentoML's lists and details. ``HeaderLines`` stands around that.
"""

from collections.abc import Callable
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    InvalidInputError,
    MethodError,
    ServiceError,
    error_body,
    no_such_route,
)
from service.lane.exchange import Header

# The OpenAPI document, the schema that BentoML's client asks for, health, metrics. Not its page,
# which loads from other hosts: ``service.page`` has ours.
BENTOML_PATHS = frozenset(
    {"/docs.json", "/schema.json", "/livez", "/readyz", "/healthz", "/metrics"}
)
_BENTOML_PATHS = frozenset(path.encode() for path in BENTOML_PATHS)


def is_bentomls(path: bytes) -> bool:
    """Return whether a raw path is left to BentoML."""
    return path in _BENTOML_PATHS


class ReadOnly:
    """Middleware that refuses everything but GET and HEAD of ``BENTOML_PATHS`` without a body.

    Args:
        app: The application to protect.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is allowed; answer anything else with an error."""
        try:
            if scope["type"] == "http":
                _check(scope)
        except ServiceError as error:
            body = error_body(error.message)
            headers = [(b"content-type", b"application/json"), *error.headers]
            headers.append((b"content-length", b"%d" % len(body)))
            start = {"type": "http.response.start", "status": error.status, "headers": headers}
            await send(start)
            await send({"type": "http.response.body", "body": body})
            return
        await self.app(scope, receive, send)


def _check(scope: Scope) -> None:
    """Check that a request reads, and reads something that is there.

    Raises:
        ServiceError: It does not.
    """
    method, path = scope["method"], scope["path"]
    if path not in BENTOML_PATHS:
        raise no_such_route(method, path)
    if method not in ("GET", "HEAD"):
        raise MethodError(f"{method} {path}: method not allowed", "GET, HEAD")
    for name, value in scope["headers"]:
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")):
            raise InvalidInputError(f"{method} {path}: expected no body, got one")


class OneErrorShape:
    """Middleware that gives every answer of status 400 and above the one error body.

    Args:
        app: The application to wrap.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through, but hold an error back until its body is complete."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        held: list[Message] = []

        async def shaping_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] >= 400:
                    held.append(message)
                    return
            elif held:
                held.append(message)
                if not message.get("more_body", False):
                    for shaped in _shape(held, scope):
                        await send(shaped)
                return
            await send(message)

        await self.app(scope, receive, shaping_send)


class HeaderLines:
    """Middleware that gives every answer the lines that the lane's own answers get.

    Args:
        app: The application to wrap.
        lines: Returns them for the headers of a request.
    """

    def __init__(self, app: ASGIApp, lines: Callable[[list[Header]], bytes]) -> None:
        self.app = app
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def adding_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                lines = self._lines(scope["headers"]).split(b"\r\n")[:-1]
                added = [tuple(line.split(b": ", 1)) for line in lines]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, adding_send)


def _shape(held: list[Message], scope: Scope) -> list[Message]:
    start = held[0]
    body = b"".join(message.get("body", b"") for message in held[1:])
    shaped = error_body(_message(body, start["status"], scope))
    kept = [
        (name, value)
        for name, value in start["headers"]
        if name.lower() not in (b"content-length", b"content-type")
    ]
    headers = [
        *kept,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(shaped)),
    ]
    if scope["method"] == "HEAD":
        shaped = b""
    return [{**start, "headers": headers}, {"type": "http.response.body", "body": shaped}]


def _message(body: bytes, status: int, scope: Scope) -> str:
    """Return the message in an error body of any shape."""
    try:
        said: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        if status == 404:
            return no_such_route(scope["method"], scope["path"]).message
        if status == 405:
            return f"{scope['method']} {scope['path']}: method not allowed"
        said = body.decode("utf-8", "replace").strip()
    while isinstance(said, list) and said:
        said = said[0]
    if isinstance(said, dict):
        problem, detail = said.get("error", ""), said.get("detail")
        said = f"{problem}: {orjson.dumps(detail).decode()}" if detail else problem
    return str(said) or "request failed"


class FreshMetrics:
    """Middleware that has this worker's tallies written before ``/metrics`` is answered.

    Args:
        app: The application to wrap.
        flush: Writes the tallies.
    """

    def __init__(self, app: ASGIApp, flush: Callable[[], None]) -> None:
        self.app = app
        self._flush = flush

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through."""
        if scope["type"] == "http" and scope["path"] == "/metrics":
            self._flush()
        await self.app(scope, receive, send)
