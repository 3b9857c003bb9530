"""The ASGI side: answers of BentoML's own stack, brought into this project's shape.

``OneErrorShape`` stands outermost around BentoML's application and rewrites every error body that
is not ``{"error": "<message>"}`` yet: Starlette's plain text, BentoML's lists and details.
``HeaderLines`` stands around that where the lane has a door.
"""

from collections.abc import Callable
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import error_body
from service.lane.exchange import Header


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
        route = f"{scope['method']} {scope['path']}"
        if status in (404, 405):
            return f"{route}: {'no such route' if status == 404 else 'method not allowed'}"
        said = body.decode("utf-8", "replace").strip()
    while isinstance(said, list) and said:
        said = said[0]
    if isinstance(said, dict):
        problem, detail = said.get("error", ""), said.get("detail")
        said = f"{problem}: {orjson.dumps(detail).decode()}" if detail else problem
    return str(said) or "request failed"
