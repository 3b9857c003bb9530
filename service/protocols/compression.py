"""HTTP's content codings gzip and deflate, both ways; a bomb is refused before it is expanded.

RFC 9110, 8.4: ``deflate`` is the zlib format; raw deflate, which some clients send, is read, too.
"""

import zlib

from service.errors import InvalidInputError, TooLargeError, UnsupportedMediaError

# A smaller answer fits into one Ethernet packet uncompressed.
MIN_BYTES = 1400
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 31, 15, -15
_LEVEL = 1  # of 9: higher levels hardly shrink floats and take longer


def decompress(body: bytes, coding: bytes, max_bytes: int) -> bytes:
    """Undo a content coding; may be called on any thread.

    Args:
        body: As received.
        coding: Value of ``Content-Encoding``.
        max_bytes: Largest expanded body; expansion stops there.

    Raises:
        UnsupportedMediaError: The coding is neither gzip nor deflate.
        TooLargeError: It expands to more than ``max_bytes``.
        InvalidInputError: It is truncated, corrupt, or followed by other bytes.
    """
    name = coding.strip().lower()
    if name in (b"", b"identity"):
        return body
    if name in (b"gzip", b"x-gzip"):
        bits = _GZIP_BITS
    elif name == b"deflate":
        is_zlib = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
        bits = _ZLIB_BITS if is_zlib else _RAW_BITS
    else:
        raise UnsupportedMediaError(
            f"content-encoding: expected gzip or deflate, got {coding.decode('latin-1')[:40]!r}"
        )
    decoder = zlib.decompressobj(bits)
    try:
        expanded = decoder.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidInputError(f"body: expected {name.decode()} data, got {error}") from None
    if len(expanded) > max_bytes:
        raise TooLargeError(
            f"body: expected at most {max_bytes} bytes once expanded, got more; "
            "send less or raise FOVEAL_MAX_BODY_BYTES"
        )
    if not decoder.eof or decoder.unused_data:
        raise InvalidInputError(
            f"body: expected complete {name.decode()} data and nothing behind it, "
            f"got {len(body)} bytes of which {len(decoder.unused_data)} are behind it"
        )
    return expanded


def compress(body: bytes, coding: bytes) -> bytes:
    """Apply ``gzip`` or ``deflate``; may be called on any thread."""
    encoder = zlib.compressobj(
        _LEVEL, zlib.DEFLATED, _GZIP_BITS if coding == b"gzip" else _ZLIB_BITS
    )
    return encoder.compress(body) + encoder.flush()


def choose(accepted: bytes) -> bytes:
    """Choose the coding of an answer from ``Accept-Encoding``.

    Returns:
        ``gzip`` or ``deflate``, the one with the larger weight; empty if neither is accepted.
    """
    best, best_weight = b"", 0.0
    for item in accepted.lower().split(b","):
        name, _, parameters = item.partition(b";")
        weight = _weight(parameters)
        if name.strip() in (b"gzip", b"deflate") and weight > best_weight:
            best, best_weight = name.strip(), weight
    return best


def _weight(parameters: bytes) -> float:
    key, _, value = parameters.strip().partition(b"=")
    if key.strip() != b"q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
