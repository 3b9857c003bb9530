"""HTTP's content codings gzip and deflate, both ways; a bomb is refused before it is expanded.

RFC 9110, 8.4: ``deflate`` is the zlib format; raw deflate, which some clients send, is read, too.
"""

import zlib

from service.errors import InvalidInputError, TooLargeError, UnsupportedMediaError

# A smaller answer fits into one Ethernet packet uncompressed.
MIN_BYTES = 1400
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 31, 15, -15
_GZIP_NAMES, _IDENTITY_NAMES = (b"gzip", b"x-gzip"), (b"", b"identity")
_GZIP_SIZE_BYTES = 4  # at the end of gzip data: the expanded size (RFC 1952, 2.3.1)
PIECE_BYTES = 1 << 20  # what measuring holds
_LEVEL = 1  # of 9: higher levels hardly shrink floats and take longer


def expanded_bytes(body: bytes, coding: bytes, max_bytes: int) -> int:
    """Return the size that a body expands to, without keeping what it expands to.

    gzip states it at its end, so that this costs nothing; deflate is expanded piece by piece, and
    is better measured on a thread.

    Args:
        body: As received.
        coding: Value of ``Content-Encoding``.
        max_bytes: Largest expanded body; measuring stops there.

    Raises:
        UnsupportedMediaError: The coding is neither gzip nor deflate.
        TooLargeError: It expands to more than ``max_bytes``.
        InvalidInputError: It is corrupt, or not of that coding.
    """
    bits = _window_bits(body, coding)
    size = len(body)
    if bits == _GZIP_BITS:
        if not is_gzip(body):
            raise InvalidInputError(
                f"body: expected gzip data, as content-encoding says, got {len(body)} bytes "
                f"starting {body[:8]!r}"
            )
        size = int.from_bytes(body[-_GZIP_SIZE_BYTES:], "little")
    elif bits is not None:
        size = _measure(body, bits, max_bytes)
    if size > max_bytes:
        raise _too_large(max_bytes)
    return size


def is_identity(coding: bytes) -> bool:
    """Return whether a coding leaves the body as it is."""
    return coding.strip().lower() in _IDENTITY_NAMES


def states_size(coding: bytes) -> bool:
    """Return whether ``expanded_bytes`` only reads what the body states: it costs nothing then."""
    return coding.strip().lower() in (*_GZIP_NAMES, *_IDENTITY_NAMES)


def decompress(body: bytes, coding: bytes, max_bytes: int, size: int | None = None) -> bytes:
    """Undo a content coding; may be called on any thread.

    Args:
        body: As received.
        coding: Value of ``Content-Encoding``.
        max_bytes: Largest expanded body.
        size: What ``expanded_bytes`` returned, None if it was not asked; expansion stops there.

    Raises:
        UnsupportedMediaError: The coding is neither gzip nor deflate.
        TooLargeError: It expands to more than ``max_bytes``.
        InvalidInputError: It is truncated, corrupt, or followed by other bytes.
    """
    bits = _window_bits(body, coding)
    if bits is None:
        return body
    end = max_bytes if size is None else size
    decoder = zlib.decompressobj(bits)
    try:
        expanded = decoder.decompress(body, end + 1)
    except zlib.error as error:
        raise InvalidInputError(f"body: expected {_named(bits)} data, got {error}") from None
    if len(expanded) > max_bytes:
        raise _too_large(max_bytes)
    if len(expanded) > end or not decoder.eof or decoder.unused_data:
        raise InvalidInputError(
            f"body: expected complete {_named(bits)} data and nothing behind it, "
            f"got {len(body)} bytes of which {len(decoder.unused_data)} are behind it"
        )
    return expanded


def is_gzip(body: bytes) -> bool:
    """Return whether a body begins as gzip data does."""
    return body.startswith(b"\x1f\x8b")


def is_zlib(body: bytes) -> bool:
    """Return whether a body begins as zlib data does."""
    return len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0


def _window_bits(body: bytes, coding: bytes) -> int | None:
    """Return zlib's parameter for a coding; None: the body is not coded.

    Raises:
        UnsupportedMediaError: The coding is neither gzip nor deflate.
    """
    name = coding.strip().lower()
    if name in _IDENTITY_NAMES:
        return None
    if name in _GZIP_NAMES:
        return _GZIP_BITS
    if name == b"deflate":
        return _ZLIB_BITS if is_zlib(body) else _RAW_BITS
    raise UnsupportedMediaError(
        f"content-encoding: expected gzip or deflate, got {coding.decode('latin-1')[:40]!r}"
    )


def _measure(body: bytes, bits: int, max_bytes: int) -> int:
    decoder = zlib.decompressobj(bits)
    size, rest = 0, body
    try:
        while size <= max_bytes and not decoder.eof:
            piece = decoder.decompress(rest, PIECE_BYTES)
            rest = decoder.unconsumed_tail
            size += len(piece)
            if not piece and not rest:
                break  # truncated: expansion says so
    except zlib.error as error:
        raise InvalidInputError(f"body: expected {_named(bits)} data, got {error}") from None
    return size


def _named(bits: int) -> str:
    return "gzip" if bits == _GZIP_BITS else "deflate"


def _too_large(max_bytes: int) -> TooLargeError:
    return TooLargeError(
        f"body: expected at most {max_bytes} bytes once expanded, got more; "
        "send less or raise FOVEAL_MAX_BODY_BYTES"
    )


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
