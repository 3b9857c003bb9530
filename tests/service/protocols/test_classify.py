"""What needs no server of /classify: its forms. The rest is in tests/e2e/test_classify.py."""

import contextlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ClientError, InvalidInputError, UnsupportedMediaError
from service.protocols.classify import MAX_PARTS, ClassifyForm, read_form
from service.protocols.multipart import INLINE_BYTES
from tests.loop_watch import LONGEST_S, longest_hold, processor_s, shortest_of

TYPE = b"multipart/form-data; boundary=bound"


def part(name: str, content: bytes, extra: str = "") -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"{extra}'.encode()
    return b"--bound\r\n%s\r\n\r\n%s\r\n" % (head, content)


def file(content: bytes, name: str = "image") -> bytes:
    return part(name, content, '; filename="i.png"\r\nContent-Type: image/png')


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--bound--\r\n"


@given(st.binary(max_size=300), st.text(max_size=40), st.integers(1, 10**6), st.integers(1, 999))
def test_fields_as_bentomls_client_sends_them(
    image: bytes, model: str, version: int, top: int
) -> None:
    image = image.replace(b"--bound", b"")
    body = form(
        part("model", json.dumps(model).encode()),
        part("version", b"%d" % version),
        file(image),
        part("top", b"%d" % top),
    )
    assert read_form(TYPE, body) == ClassifyForm(image, model, str(version), str(top))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([file(b"x")], ClassifyForm(b"x", "", "", "5")),
        ([file(b"")], ClassifyForm(b"", "", "", "5")),
        ([file(b"\r\n\r\n")], ClassifyForm(b"\r\n\r\n", "", "", "5")),
        ([part("model", b"tiny"), file(b"x")], ClassifyForm(b"x", "tiny", "", "5")),
        ([part("version", b"0"), file(b"x")], ClassifyForm(b"x", "", "", "5")),
        ([part("version", b'"2"'), file(b"x")], ClassifyForm(b"x", "", "2", "5")),
        ([file(b"x"), part("image", b"", '; filename=""')], ClassifyForm(b"x", "", "", "5")),
        ([part("top", b"", '; filename=""'), file(b"x")], ClassifyForm(b"x", "", "", "5")),
        ([part("filename", b"i.png"), file(b"x")], ClassifyForm(b"x", "", "", "5")),
        ([part("ctx", b"{}"), file(b"x"), file(b"y", "other")], ClassifyForm(b"x", "", "", "5")),
    ],
    ids=[
        "file",
        "empty",
        "line-ends",
        "plain-text",
        "version-0",
        "json-text",
        "no-image-chosen",
        "nothing-chosen",
        "filename",
        "other-fields",
    ],
)
def test_fields(parts: list[bytes], expected: ClassifyForm) -> None:
    assert read_form(TYPE, form(*parts)) == expected
    assert read_form(TYPE, b"preamble\r\n" + form(*parts) + b"epilogue") == expected


def test_quoted_boundary_of_another_case() -> None:
    body = form(file(b"x")).replace(b"--bound", b"--BoUnD:1")
    kind = b'Multipart/Form-Data; charset=utf-8; boundary="BoUnD:1"'
    assert read_form(kind, body).image == b"x"


@pytest.mark.parametrize(
    ("content_type", "body", "match"),
    [
        (b"multipart/form-data", form(file(b"x")), "expected a boundary of 1 to 70 characters"),
        (b"multipart/form-data; boundary=", form(file(b"x")), "expected a boundary"),
        (b"multipart/form-data; boundary=" + b"b" * 71, b"", "got 71"),
        (b"multipart/form-data; a=" + b"b" * 2000, b"", "content-type: expected at most 1024"),
        (b"multipart/form-data; boundary=other", form(file(b"x")), "closing boundary"),
        (TYPE, b"", "closing boundary"),
        (TYPE, form(), "field 'image': expected a file, got none"),
        (TYPE, b"--bound", "expected a line's end"),
        (TYPE, b"--boundless\r\n\r\nx\r\n--bound--", "expected a line's end"),
        (TYPE, file(b"x"), "a closing boundary"),
        (TYPE, file(b"x")[:-3], "a closing boundary"),
        (TYPE, b"--bound\r\nA: b\r\n--bound--", "a closing boundary"),
        (TYPE, form(part("image", b"http://127.0.0.1/")), "expected a file, got text"),
        (TYPE, form(part("image", b"/etc/passwd")), "expected a file, got text"),
        (TYPE, form(file(b"x"), file(b"y")), "field 'image': expected once, got it twice"),
        (TYPE, form(file(b"x"), part("top", b"1"), part("top", b"2")), "'top': expected once"),
        (TYPE, form(file(b"x"), file(b"2", "top")), "field 'top': expected text, got a file"),
        (TYPE, form(file(b"x"), part("top", b"9" * 5000)), "'top': expected at most 1024 bytes"),
        (TYPE, form(file(b"x"), part("model", b"\xff")), "field 'model': expected text in UTF-8"),
        (TYPE, form(file(b"x"), part("model", b'"a')), "field 'model': expected text in UTF-8"),
        (TYPE, form(file(b"x"), part("version", b"-1")), "'version': expected a whole number"),
        (TYPE, form(file(b"x"), part("version", b"1.5")), "'version': expected a whole number"),
        (TYPE, form(file(b"x"), part("version", "²".encode())), "got '²'"),
        (TYPE, form(*[part("a", b"")] * 10_000), "expected at most 16 parts, got more"),
        (TYPE, form(part("image", b"", "; " + "x" * 9000)), "at most 8192 bytes of headers"),
        (TYPE, form(part("image", b"", "\r\na: b" * 32)), "at most 32 headers"),
        (b"", form(file(b"x")), "expected multipart/form-data with a file in the field 'image'"),
        (b"application/json", b"{}", "got JSON"),
        (b"application/x-www-form-urlencoded", b"image=http://a", "got a form without files"),
    ],
)
def test_what_is_refused(content_type: bytes, body: bytes, match: str) -> None:
    with pytest.raises(ClientError, match=match) as error:
        read_form(content_type, body)
    assert "\n" not in error.value.message and len(error.value.message) < 300


@pytest.mark.parametrize("kind", [b"application/vnd.bentoml+pickle", b"image/png", b"text/plain"])
def test_other_media_types(kind: bytes) -> None:
    with pytest.raises(UnsupportedMediaError, match="content-type: expected multipart/form-data"):
        read_form(kind, b"x")


@given(st.data())
def test_cut_forms_are_refused(data: st.DataObject) -> None:
    body = form(part("model", b"m"), file(b"one"))
    cut = data.draw(st.integers(0, len(body) - len(b"--\r\n") - 1))
    with pytest.raises(InvalidInputError):
        read_form(TYPE, body[:cut])


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=4))))
def test_any_bytes_are_a_form_or_a_clients_error(
    head: bytes, edits: list[tuple[int, bytes]]
) -> None:
    body = bytearray(form(part("model", b"m"), file(head), part("top", b"3")))
    for at, change in edits:
        start = at % len(body)
        body[start : start + len(change)] = change
    with contextlib.suppress(ClientError):
        read_form(TYPE, bytes(body))


@pytest.mark.parametrize(
    ("content_type", "make"),
    [
        (TYPE, lambda: form(*[part("a", b"")] * 500_000)),
        (TYPE, lambda: form(*[part("a", b"", ";" * 8000)] * MAX_PARTS)),
        (TYPE, lambda: b"\r\n--boun" * (4 << 20)),
        (TYPE, lambda: b"--bound\r\n\r\n" + b"\r\n--boun" * (4 << 20)),
        (b"multipart/form-data; boundary=" + b"-" * 69 + b"x", lambda: b"-" * (32 << 20)),
        (b"multipart/form-data; boundary=" + b"ab" * 34 + b"c", lambda: b"ab" * (16 << 20)),
        (TYPE, lambda: b"\r" * (32 << 20)),
        (b"multipart/form-data; " + b";" * 1000, lambda: b""),
    ],
    ids=[
        "parts",
        "parameters",
        "near-misses",
        "near-misses-in-a-part",
        "dashes",
        "periods",
        "returns",
        "content-type",
    ],
)
def test_no_form_of_an_allowed_size_holds_the_loop(
    content_type: bytes, make: Callable[[], bytes]
) -> None:
    """Neither on the loop, where small ones are read, nor on a thread beside it."""
    body = make()

    def refuse() -> None:
        with pytest.raises(ClientError):
            read_form(content_type, body)

    measure = processor_s if len(body) <= INLINE_BYTES else longest_hold
    assert shortest_of(8, lambda: measure(refuse)) <= LONGEST_S
