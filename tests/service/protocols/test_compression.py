"""Content codings: what a bomb costs, and what is preferred."""

import contextlib
import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInputError, TooLargeError, UnsupportedMediaError
from service.protocols.compression import choose, compress, decompress

BODY = b"pixels" * 500
# Without the time of now: workers that run the tests side by side must collect the same ones.
GZIPPED = gzip.compress(BODY, mtime=0)


def raw_deflate(body: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-15)
    return encoder.compress(body) + encoder.flush()


@pytest.mark.parametrize(
    ("coding", "sent"),
    [
        (b"gzip", GZIPPED),
        (b"x-gzip", GZIPPED),
        (b" GZIP ", GZIPPED),
        (b"deflate", zlib.compress(BODY)),
        (b"deflate", raw_deflate(BODY)),
        (b"identity", BODY),
    ],
)
def test_codings_are_undone(coding: bytes, sent: bytes) -> None:
    assert decompress(sent, coding, len(BODY)) == BODY
    if coding != b"identity":
        with pytest.raises(TooLargeError):
            decompress(sent, coding, len(BODY) - 1)


@given(st.binary(max_size=3000), st.sampled_from([b"gzip", b"deflate"]))
def test_what_is_compressed_comes_back(body: bytes, coding: bytes) -> None:
    assert decompress(compress(body, coding), coding, 3000) == body


@given(st.binary(max_size=200), st.sampled_from([b"gzip", b"deflate"]))
def test_any_bytes_are_a_body_or_are_refused(body: bytes, coding: bytes) -> None:
    with contextlib.suppress(InvalidInputError, TooLargeError):
        decompress(body, coding, 1000)


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_a_bomb_is_refused_before_it_is_expanded(coding: bytes) -> None:
    bomb = compress(bytes(200 << 20), coding)
    tracemalloc.start()
    with pytest.raises(TooLargeError, match="at most 1048576 bytes once expanded"):
        decompress(bomb, coding, 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    "sent",
    [GZIPPED[:-1], GZIPPED + b"x", GZIPPED * 2, b"", b"\x1f"],
)
def test_halves_and_trailers_are_refused(sent: bytes) -> None:
    with pytest.raises(InvalidInputError):
        decompress(sent, b"gzip", 1 << 20)


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"\xff"])
def test_other_codings_are_refused(coding: bytes) -> None:
    with pytest.raises(UnsupportedMediaError, match="expected gzip or deflate"):
        decompress(b"x", coding, 1 << 20)


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        (b"", b""),
        (b"gzip", b"gzip"),
        (b"deflate", b"deflate"),
        (b"br, zstd", b""),
        (b"gzip, deflate, br", b"gzip"),
        (b"GZIP", b"gzip"),
        (b"gzip;q=0", b""),
        (b"gzip;q=0.2, deflate;q=0.8", b"deflate"),
        (b"gzip;q=x", b""),
        (b"identity", b""),
    ],
)
def test_preference(accepted: bytes, chosen: bytes) -> None:
    assert choose(accepted) == chosen
