"""Changes of bytes that break parsers: flips, cuts, copies, splices and numbers at their limits."""

import random
import re
import struct
import zlib

# Values at which lengths, sizes and counts overflow or change sign.
LIMITS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_PNG = b"\x89PNG\r\n\x1a\n"


def mutate(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Return ``data`` after one to four changes.

    Args:
        chance: Decides; the same state gives the same bytes.
        data: What is changed.
        other: Where a splice takes its bytes from.
    """
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        _change(chance, changed, other)
    result = bytes(changed)
    # A wrong checksum ends most decoders early: half of the files get right ones.
    if result.startswith(_PNG) and chance.random() < 0.5:
        return with_checksums(result)
    return result


def _change(chance: random.Random, changed: bytearray, other: bytes) -> None:
    kind, size = chance.randrange(9), len(changed)
    at = chance.randrange(size) if size else 0
    length = min(chance.choice((1, 2, 4, 16, 64, 1024)), size - at)
    if kind == 0 and size:
        changed[at] ^= 1 << chance.randrange(8)
    elif kind == 1 and size:
        changed[at] = chance.randrange(256)
    elif kind in (2, 3):
        code = chance.choice(("<H", ">H", "<I", ">I"))
        wide = code[1] == "I"
        number = chance.choice(LIMITS) & (0xFFFFFFFF if wide else 0xFFFF)
        changed[at : at + (4 if wide else 2)] = struct.pack(code, number)
    elif kind == 4:
        del changed[at : at + length]
    elif kind == 5:
        changed[at:at] = changed[at : at + length] * chance.choice((1, 1, 8))
    elif kind == 6:
        changed[at:at] = chance.randbytes(length)
    elif kind == 7:
        del changed[at:]
    elif other:
        start = chance.randrange(len(other))
        changed[at : at + length] = other[start : start + length]


# A string, a number or word, a bracket; and what may stand in its place.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[-+.\w]+|[\[\]{},:]')
_VALUES = (
    *(b"0", b"-1", b"256", b"1e400", b"-0.0", b"1.5", b"18446744073709551616", b"9" * 400),
    *(b"null", b"true", b"NaN", b'""', b'"images"', b'"UINT8"', b'"BYTES"', b'"\\ud800"'),
    *(b"[]", b"{}", b"[[]]", b"[1]", b'{"a":1}', b"[" * 200, b'{"inputs":[]}', b""),
)


def mutate_json(chance: random.Random, text: bytes) -> bytes:
    """Return JSON in which one to three tokens are other ones: most of it is still JSON."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        token = _TOKEN.search(
            text, chance.randrange(max(1, len(text) // chance.choice((1, 1, 20))))
        )
        if token is not None:
            text = text[: token.start()] + chance.choice(_VALUES) + text[token.end() :]
    return text


def with_checksums(png: bytes) -> bytes:
    """Return a PNG whose chunks have the checksums of their content, as far as it has chunks."""
    parts, position = [png[:8]], 8
    while position + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, position)
        end = position + 8 + length
        if end + 4 > len(png):
            break
        parts += [png[position:end], struct.pack(">I", zlib.crc32(png[position + 4 : end]))]
        position = end + 4
    return b"".join(parts) + png[position:]
