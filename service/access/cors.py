"""Cross-origin rules: which web pages of other origins may read the answers.

Off unless origins are configured, and then the same for every route, errors and 404 included. No
cookies are involved, so credentials are never allowed: a page sends its key as a header.
"""

import re
from collections.abc import Iterable

_ORIGIN = re.compile(r"https?://[a-z0-9._\[\]:-]+")
# "*" does not stand for Authorization (Fetch, 4.10), so it is named.
_PREFLIGHT = (
    b"access-control-allow-methods: GET, HEAD, POST, PUT\r\n"
    b"access-control-allow-headers: *, authorization\r\n"
    b"access-control-max-age: 3600\r\n"
)


class CorsError(ValueError):
    """An origin is none; the message names it."""


class Cors:
    """The rules.

    Args:
        origins: ``scheme://host`` or ``scheme://host:port`` each, or ``*`` alone for all.

    Raises:
        CorsError: One is no origin.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        texts = {text.strip().lower() for text in origins} - {""}
        for text in texts - {"*"}:
            if not _ORIGIN.fullmatch(text):
                raise CorsError("expected origins as https://host:port, with commas between, or *")
        self._all = "*" in texts
        self._origins = {text.encode() for text in texts}

    def lines(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return the header lines that an answer gets.

        Args:
            headers: Of the request, names in lower case.
        """
        if self._all:
            return b"access-control-allow-origin: *\r\naccess-control-expose-headers: *\r\n"
        origin = next((value for name, value in headers if name == b"origin"), b"")
        if origin not in self._origins:
            return b"vary: origin\r\n"
        return (
            b"access-control-allow-origin: %s\r\naccess-control-expose-headers: *\r\n"
            b"vary: origin\r\n" % origin
        )

    @staticmethod
    def is_preflight(method: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return whether a request is a browser's question that comes before the real one."""
        if method != b"OPTIONS":
            return False
        return {b"origin", b"access-control-request-method"} <= {name for name, _ in headers}

    @staticmethod
    def preflight_lines() -> bytes:
        """Return the lines that the answer to a preflight gets besides."""
        return _PREFLIGHT
