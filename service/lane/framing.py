"""What RFC 9112 asks of a request's head beyond the parser's own checks, and the errors of both.

The parser (llhttp) refuses broken lines, lengths and chunks. It lets pass what a server must not:
other versions, no or two hosts, transfer codings that nothing here undoes.
"""

import re

from service.errors import (
    ClientError,
    HttpVersionError,
    ServiceError,
    TransferCodingError,
)

# RFC 3986, 3.2.2 and 3.2.3: a name or an address, a port; may be empty (RFC 9112, 3.2).
_is_host = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[\w.~!$&'()*+,;=%-]*)(?::\d*)?", re.ASCII).fullmatch
# The parser's own words, of which tests/service/lane/test_uvicorn.py has a list.
_VERSION_REASONS = ("Invalid HTTP version", "Pause on PRI/Upgrade")
_CODING_REASONS = ("Invalid `Transfer-Encoding` header value", "Empty Transfer-Encoding")


def check_head(version: str, host: bytes | None, hosts: int, coding: bytes | None) -> None:
    """Check what the parser does not.

    Args:
        version: As the parser read it.
        host: Value of the last ``Host`` header, None without one.
        hosts: Number of ``Host`` headers.
        coding: Value of ``Transfer-Encoding``, None without one.

    Raises:
        ServiceError: The request must be refused.
    """
    if version not in ("1.1", "1.0"):
        if version == "0.9":
            raise ClientError("request line: expected HTTP/1.1, got no version")
        raise _version_error(f"HTTP/{version}")
    if hosts != 1 and (hosts or version == "1.1"):
        raise ClientError(f"header Host: expected exactly one, got {hosts}")
    if host is not None and not _is_host(host):
        raise ClientError(
            f"header Host: expected a name and a port, got {host[:80].decode('latin-1')!r}"
        )
    if coding is not None:
        if version == "1.0":
            raise ClientError("header Transfer-Encoding: expected none in HTTP/1.0")
        if coding.strip().lower() != b"chunked":
            raise _coding_error(repr(coding[:80].decode("latin-1")))


def parser_error(reason: str) -> ServiceError:
    """Return the error for what the parser refuses.

    Args:
        reason: The parser's message.
    """
    if reason in _VERSION_REASONS:
        return _version_error("another")
    if reason in _CODING_REASONS:
        return _coding_error("another")
    return ClientError(f"request: expected HTTP/1.1, got: {reason}")


def _version_error(got: str) -> ServiceError:
    return HttpVersionError(f"request line: expected HTTP/1.1 or HTTP/1.0, got {got}")


def _coding_error(got: str) -> ServiceError:
    return TransferCodingError(f"header Transfer-Encoding: expected chunked, got {got}")
