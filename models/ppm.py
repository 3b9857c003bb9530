"""PPM, PGM and PBM, binary and plain: read by NumPy, in a time that bytes and pixels bound.

Pillow reads plain files and uncommon maximums value by value in Python, and a megabyte of empty
comments for minutes. Values are scaled as Pillow does.

Layout legend: H height, W width, C channels (1 grey, 3 RGB).
"""

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.geometry import Pixels
from models.image_errors import ImageError, incomplete
from models.pixels import Decoding, to_grey

# Programs write a line of comment.
HEADER_BYTES = 4096
# Digits of one number, as Pillow has it; leading zeros count.
MAX_DIGITS = 10

# A comment right behind a number would be part of it to Pillow, and its end to others.
_SPACE = rb"[ \t\r\n\x0b\x0c](?:[ \t\r\n\x0b\x0c]|#[^\r\n]*+[\r\n])*+"
_NUMBER = _SPACE + rb"([0-9]{1,%d})" % MAX_DIGITS
_HEADER = re.compile(rb"P(?:([14])%b%b|([2356])%b%b%b)[ \t\r\n\x0b\x0c]" % ((_NUMBER,) * 5))
_IS_SPACE = np.isin(np.arange(256), np.frombuffer(b" \t\r\n\x0b\x0c", np.uint8))
_ZERO, _HASH, _LF, _CR = b"0#\n\r"
# Bytes of text, or values, that are read in one step: what it needs fits the processor's cache.
_STEP = 1 << 18

Bytes = NDArray[np.uint8]


class _Header(NamedTuple):
    """What stands before the values.

    Attributes:
        kind: Digit of the magic number, 1 to 6.
        width: Pixels.
        height: Pixels.
        most: Value of white, 1 to 65535.
        start: Where the values begin.
    """

    kind: int
    width: int
    height: int
    most: int
    start: int


def read_size(encoded: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels.

    Raises:
        ImageError: The header is incomplete, or too long.
    """
    header = _read_header(encoded)
    return header.width, header.height


def decode(encoded: bytes, decoding: Decoding) -> Pixels:
    """Decode a picture whose size the caller has found small enough.

    Returns:
        uint8 [H, W, C], 0-255, contiguous.

    Raises:
        ImageError: Truncated, corrupt, or with a header that is too long.
    """
    header = _read_header(encoded)
    channels = 3 if header.kind in (3, 6) else 1
    count = header.width * header.height * channels
    levels = _levels(header.most, channels, decoding.clips_16_bits)
    if header.kind == 4:
        pixels = _read_bits(encoded, header)
    elif header.kind == 1:
        pixels = _read_digits(encoded, header.start, count)
    elif header.kind < 4:
        pixels = _read_numbers(encoded, header, count, levels)
    else:
        pixels = _read_values(encoded, header, count, levels)
    pixels = pixels.reshape(header.height, header.width, channels)
    if decoding.mode == "L" and channels == 3:
        return to_grey(pixels)
    return np.repeat(pixels, 3, axis=2) if decoding.channels > channels else pixels


def _read_header(encoded: bytes) -> _Header:
    found = _HEADER.match(encoded, 0, HEADER_BYTES)
    if found is None:
        if len(encoded) >= HEADER_BYTES:
            raise ImageError(
                f"image: expected a complete PPM header in the first {HEADER_BYTES} bytes, got "
                "none; remove comments"
            )
        raise incomplete("PPM", encoded, "header")
    kind, width, height, most = [int(part) for part in (*found.groups(), b"1") if part][:4]
    if not (width and height and 0 < most < 1 << 16):
        raise incomplete("PPM", encoded, "header")
    return _Header(kind, width, height, most, found.end())


def _levels(most: int, channels: int, clips_16_bits: bool) -> Bytes:
    """Return the level, 0 to 255, of every value: values above white are white."""
    is_deep = most > 255 and channels == 1  # Pillow keeps 16 bits of grey, and 8 of a colour
    white = 65535 if is_deep else 255
    values = np.arange(256 if most < 256 else 1 << 16)
    scaled = np.rint(values / most * white).astype(np.int64).clip(max=white)
    if is_deep:
        scaled = scaled.clip(max=255) if clips_16_bits else scaled >> 8
    return scaled.astype(np.uint8)


def _read_bits(encoded: bytes, header: _Header) -> Pixels:
    row_bytes = (header.width + 7) // 8
    if len(encoded) - header.start < row_bytes * header.height:
        raise incomplete("PPM", encoded)
    rows = np.frombuffer(encoded, np.uint8, row_bytes * header.height, header.start)
    bits = np.unpackbits(rows.reshape(header.height, row_bytes), axis=1, count=header.width)
    bits -= 1  # 1 is black; 0 becomes 255
    return bits


def _read_values(encoded: bytes, header: _Header, count: int, levels: Bytes) -> Pixels:
    kind = np.dtype(np.uint8 if header.most < 256 else ">u2")
    if len(encoded) - header.start < count * kind.itemsize:
        raise incomplete("PPM", encoded)
    values = np.frombuffer(encoded, kind, count, header.start)
    if header.most == 255:
        return np.array(values, np.uint8)
    pixels = np.empty(count, np.uint8)
    for begin in range(0, count, _STEP):
        pixels[begin : begin + _STEP] = levels[values[begin : begin + _STEP]]
    return pixels


def _read_digits(encoded: bytes, start: int, count: int) -> Pixels:
    """Read plain PBM: a digit a pixel, with or without space between."""
    if len(encoded) - start < count:
        raise incomplete("PPM", encoded)
    pixels, filled, is_comment = np.empty(count, np.uint8), 0, False
    for begin in range(start, len(encoded), _STEP):
        text, is_comment = _without_comments(_piece(encoded, begin), is_comment)
        digits = text[~_IS_SPACE[text]][: count - filled] - _ZERO
        if digits.size and digits.max() > 1:
            break
        pixels[filled : filled + digits.size] = digits - 1  # 1 is black; 0 becomes 255
        filled += digits.size
        if filled == count:
            return pixels
    raise incomplete("PPM", encoded)


def _read_numbers(encoded: bytes, header: _Header, count: int, levels: Bytes) -> Pixels:
    """Read plain PGM or PPM: numbers with space between; what follows the last one is ignored."""
    if len(encoded) - header.start < 2 * count - 1:
        raise incomplete("PPM", encoded)
    pixels, filled, is_comment = np.empty(count, np.uint8), 0, False
    rest = np.empty(0, np.uint8)
    for begin in range(header.start, len(encoded), _STEP):
        text, is_comment = _without_comments(_piece(encoded, begin), is_comment)
        text = np.concatenate((rest, text))
        if begin + _STEP >= len(encoded):
            text = np.append(text, np.uint8(_LF))
        words, end = _word_bounds(text)
        numbers = _numbers(text, words[: count - filled])
        if numbers is None or numbers.max(initial=0) > header.most:
            break
        pixels[filled : filled + numbers.size] = levels[numbers]
        filled += numbers.size
        if filled == count:
            return pixels
        rest = text[end:]
        if rest.size > MAX_DIGITS:
            break
    raise incomplete("PPM", encoded)


def _piece(encoded: bytes, begin: int) -> Bytes:
    return np.frombuffer(encoded, np.uint8, min(_STEP, len(encoded) - begin), begin)


def _without_comments(text: Bytes, is_comment: bool) -> tuple[Bytes, bool]:
    """Remove comments with the ends of their lines, as Pillow does.

    Args:
        text: Piece of a file.
        is_comment: Whether it begins within a comment.

    Returns:
        What is left, and whether the next piece begins within a comment.
    """
    is_hash = text == _HASH
    if not is_comment and not is_hash.any():
        return text, False
    places = np.arange(1, text.size + 1, dtype=np.int32)
    last_hash = np.maximum.accumulate(np.where(is_hash, places, int(is_comment)))
    last_end = np.maximum.accumulate(np.where((text == _LF) | (text == _CR), places, 0))
    is_inside = last_hash > last_end
    follows = np.concatenate(([is_comment], is_inside[:-1]))
    return text[~(is_inside | follows)], bool(is_inside[-1])


def _word_bounds(text: Bytes) -> tuple[NDArray[np.intp], int]:
    """Return begin and end of each word that space follows, int [n, 2], and the last one's end."""
    is_space = _IS_SPACE[text]
    edges = np.flatnonzero(np.diff(is_space, prepend=True))
    words = edges[: edges.size // 2 * 2].reshape(-1, 2)
    return words, int(edges[-1]) if edges.size % 2 else text.size


def _numbers(text: Bytes, words: NDArray[np.intp]) -> NDArray[np.int64] | None:
    """Return the numbers that words of a text are, int64 [n]; None if one is no number."""
    numbers = np.zeros(len(words), np.int64)
    begins, ends = words.T
    lengths = ends - begins
    longest = int(lengths.max(initial=0))
    if longest > MAX_DIGITS:
        return None
    for place in range(longest):
        is_there = lengths > place
        digits = text[ends[is_there] - 1 - place] - _ZERO
        if digits.max(initial=0) > 9:
            return None
        numbers[is_there] += digits.astype(np.int64) * 10**place
    return numbers
