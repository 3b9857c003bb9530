"""The files of the web page, answered from memory: ``/``, ``/docs`` and what both load.

They are static and the same for everybody, so they need no key and no model. Knows HTTP's
conditional requests and the policy that browsers are told to hold, nothing about models.
"""

import hashlib
from pathlib import Path

from service.errors import MethodError
from service.lane.exchange import Exchange, Handler

_FOLDER = Path(__file__).with_name("static")
_PREFIX = "/page/"
_PAGES = {"index.html": "/", "docs.html": "/docs"}
_MEDIA_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
# Everything comes from this service: a page that was tampered with could load and send nothing
# elsewhere. Pictures of the user are blobs, those that are drawn are data.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_LINES = (
    b"content-security-policy: %s\r\n"
    b"x-content-type-options: nosniff\r\n"
    b"referrer-policy: no-referrer\r\n"
    b"cross-origin-opener-policy: same-origin\r\n"
    # A browser asks each time whether its copy is the newest; the answer is a 304 of a few bytes.
    b"cache-control: no-cache\r\n" % _POLICY
)


class StaticFile:
    """The handler of one file.

    Args:
        path: The file; it is read once.
    """

    __slots__ = ("_body", "_lines", "_media_type", "_tag")

    def __init__(self, path: Path) -> None:
        self._body = path.read_bytes()
        self._media_type = _MEDIA_TYPES[path.suffix]
        self._tag = b'"%s"' % hashlib.sha256(self._body).hexdigest()[:32].encode()
        self._lines = b"etag: %s\r\n%s" % (self._tag, _LINES)

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request.

        Raises:
            MethodError: It is neither GET nor HEAD.
        """
        if exchange.method not in ("GET", "HEAD"):
            path = exchange.path.decode("latin-1")
            raise MethodError(f"{exchange.method} {path}: expected GET", "GET, HEAD")
        status = 200
        if self._tag in (exchange.header(b"if-none-match") or b""):
            # As the answer to a HEAD: the length of the file, and no body (RFC 9110, 15.4.5).
            status, exchange.method = 304, "HEAD"
        exchange.respond(status, self._body, self._media_type, self._lines)


class Page:
    """The handlers of all files."""

    def __init__(self) -> None:
        self._routes: dict[bytes, Handler] = {
            _PAGES.get(path.name, _PREFIX + path.name).encode(): StaticFile(path)
            for path in sorted(_FOLDER.iterdir())
            if path.suffix in _MEDIA_TYPES
        }

    def find(self, path: bytes) -> Handler | None:
        """Return the handler of a raw path, None if the path is no file of the page."""
        return self._routes.get(path)
