"""Ids of requests: the client's where it sends one that is fit, else one of this process.

Every answer carries the id in ``X-Request-Id``, the access log names it, and feedback is given by
it. Ids of this process begin with random digits: they differ over workers, restarts and machines.
"""

import re
import secrets
from collections.abc import Iterable

REQUEST_ID = b"x-request-id"
MAX_ID_BYTES = 128
_FIT = re.compile(rb"[!-~]{1,%d}" % MAX_ID_BYTES)


def fit(value: bytes) -> bytes:
    """Return a client's id, empty if it is not 1 to 128 visible characters of ASCII."""
    value = value.strip(b" \t")  # no part of it, RFC 9110, 5.5
    return value if _FIT.fullmatch(value) else b""


def sent(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the id in the headers of a request, names in lower case; empty if none is fit."""
    for name, value in headers:
        if name == REQUEST_ID:
            return fit(value)
    return b""


class RequestIds:
    """Makes the ids of one process, for requests without one.

    Attributes:
        prefix: What all of them begin with: 48 random bits as digits, and a hyphen.
        given: How many there are so far; the last one's number.
    """

    __slots__ = ("given", "prefix")

    def __init__(self) -> None:
        self.prefix = secrets.token_hex(6).encode() + b"-"
        self.given = 0

    def make(self) -> bytes:
        """Return a new id."""
        self.given += 1
        return b"%b%x" % (self.prefix, self.given)
