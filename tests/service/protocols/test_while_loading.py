"""What is answered before there is a model."""

from typing import Any

import pytest

from service.errors import NotReadyError
from service.lane.exchange import Exchange
from service.protocols.while_loading import find_while_loading

PAGE = b"<!doctype html>"


def ask(path: bytes, accept: bytes) -> list[tuple[Any, ...]]:
    """The answers to one request, or the error that the lane answers."""
    written: list[tuple[Any, ...]] = []
    exchange = Exchange(
        "GET", path, b"", [(b"accept", accept)], lambda _exchange, *rest: written.append(rest)
    )
    handler = find_while_loading(path, lambda: "not ready: loading tiny; retry", PAGE)
    assert handler is not None
    handler(exchange)
    return written


def test_a_browser_gets_a_page() -> None:
    html = b"text/html; charset=utf-8"
    assert ask(b"/", b"text/html,*/*") == [(503, PAGE, html, b"retry-after: 1\r\n")]


@pytest.mark.parametrize(
    ("path", "accept"), [(b"/", b"*/*"), (b"/", b""), (b"/predict", b"text/html")]
)
def test_all_else_is_an_error_with_its_reason(path: bytes, accept: bytes) -> None:
    with pytest.raises(NotReadyError, match=r"^not ready: loading tiny; retry$"):
        ask(path, accept)


def test_probes_are_not_its_own() -> None:
    assert find_while_loading(b"/readyz", str, PAGE) is None
