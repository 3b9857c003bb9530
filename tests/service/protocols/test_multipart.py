"""What needs no server of the image protocol: its forms and paths. The rest is in tests/e2e."""

import contextlib
import email.policy
import tracemalloc
from email.message import EmailMessage
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInputError, ServiceError, TooLargeError
from service.protocols.multipart import INLINE_BYTES, MAX_FIELDS, read_files, read_parts
from tests.loop_watch import LONGEST_S, longest_hold, processor_s, shortest_of

BOUNDARY = b"multipart/form-data; boundary=bound"


def form(*contents: bytes, head: bytes = b'name="f"; filename="f"') -> bytes:
    parts = [
        b"--bound\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head, content)
        for content in contents
    ]
    return b"".join(parts) + b"--bound--\r\n"


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=8))
def test_files_come_back_as_they_are(contents: list[bytes]) -> None:
    contents = [content.replace(b"--bound", b"") for content in contents]
    assert read_files(BOUNDARY, form(*contents), 8) == contents


@pytest.mark.parametrize(
    "header",
    [
        b'Content-Disposition: form-data; name="f"\r\nContent-Type: image/png',
        b"content-disposition: form-data; FILENAME=x",
        b"Content-Type: application/octet-stream",
    ],
)
def test_what_counts_as_a_file(header: bytes) -> None:
    body = b"--bound\r\n" + header + b"\r\n\r\ncontent\r\n--bound--\r\n"
    assert read_files(BOUNDARY, body, 1) == [b"content"]


def test_boundary_keeps_its_case_and_its_quotes() -> None:
    body = form(b"content").replace(b"--bound", b"--BoUnD:1")
    assert read_files(b'Multipart/Form-Data; charset=utf-8; boundary="BoUnD:1"', body, 1) == [
        b"content"
    ]


def test_limit_counts_files_not_fields() -> None:
    fields = form(b"a", b"b", b"c", head=b'name="field"').removesuffix(b"--bound--\r\n")
    assert read_files(BOUNDARY, fields + form(b"x", b"y"), 2) == [b"x", b"y"]
    with pytest.raises(TooLargeError, match="at most 2 files"):
        read_files(BOUNDARY, fields + form(b"x", b"y", b"z"), 2)


@given(st.data())
def test_cut_forms_are_refused(data: st.DataObject) -> None:
    body = form(b"one", b"two")
    cut = data.draw(st.integers(0, len(body) - len(b"--\r\n") - 1))
    with pytest.raises(InvalidInputError):
        read_files(BOUNDARY, body[:cut], 8)


@given(
    st.one_of(st.binary(max_size=60), st.just(BOUNDARY)),
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from(
                [
                    b"--bound",
                    b"\r\n",
                    b"--",
                    b"--bound\r\n",
                    b"Content-Disposition: form-data; ",
                    b'filename="x"',
                    b"\r\n\r\n",
                    b"--bound--\r\n",
                    b"Content-Type: image/png",
                ]
            ),
        ),
        max_size=12,
    ),
)
def test_any_bytes_are_read_or_refused(content_type: bytes, pieces: list[bytes]) -> None:
    try:
        files = read_files(content_type, b"".join(pieces), 8)
    except ServiceError:
        return
    assert files


def test_form_of_pythons_own_mail_package() -> None:
    """A writer that none of the above shares: other headers, in another order."""
    message = EmailMessage(email.policy.HTTP)
    message["Content-Type"] = "multipart/form-data"
    for i in range(3):
        part = EmailMessage(email.policy.HTTP)
        part.set_content(
            b"content %d" % i,
            maintype="image",
            subtype="png",
            cte="binary",
            disposition="form-data",
            filename=f"{i}.png",
        )
        message.attach(part)
    body = message.as_bytes().partition(b"\r\n\r\n")[2]
    boundary = message.get_boundary()
    files = read_files(f'multipart/form-data; boundary="{boundary}"'.encode(), body, 8)
    assert files == [b"content 0", b"content 1", b"content 2"]


MIB = 1 << 20
MAX_BODY_BYTES = 32 * MIB
EMPTY_PART = b"--bound\r\n\r\n\r\n"
FILE_HEAD = b'--bound\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n'


def filled(unit: bytes, opening: bytes = FILE_HEAD + b"\r\n", size: int = MAX_BODY_BYTES) -> bytes:
    return opening + unit * ((size - len(opening)) // len(unit))


# What makes a body, and what is said of it.
HOSTILE = {
    "empty parts": (partial(filled, EMPTY_PART, b""), "at most 256 fields"),
    "fields": (partial(filled, EMPTY_PART[:-2] + b"x\r\n", b"", 10_000 * 14), "at most 256 fields"),
    "files": (partial(filled, FILE_HEAD + b"\r\n\r\n", b"", 10_000 * 70), "at most 512 files"),
    "headers": (partial(filled, b"a: b\r\n", FILE_HEAD), "at most 8192 bytes of headers"),
    "one header": (partial(filled, b"a", FILE_HEAD), "at most 8192 bytes of headers"),
    "no header's end": (partial(filled, b"\r", FILE_HEAD), "at most 8192 bytes of headers"),
    "boundaries": (partial(filled, b"--bound", b""), "at least one file"),
    "boundary lines": (partial(filled, b"--bound\r\n", b""), "closing boundary|headers"),
    "spaces behind a boundary": (partial(filled, b" ", b"--bound"), "expected a line's end"),
    "almost boundaries": (partial(filled, b"\r\n--boun"), "closing boundary"),
    "dashes": (partial(filled, b"-"), "closing boundary"),
    "line ends": (partial(filled, b"\r\n"), "closing boundary"),
    "preamble": (partial(filled, b"\r\n--boun", b""), "closing boundary"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_form_of_an_allowed_size_is_refused_in_time_and_in_proportion(name: str) -> None:
    make, match = HOSTILE[name]
    body = make()

    def work() -> None:
        with pytest.raises(ServiceError, match=match):
            read_files(BOUNDARY, body, 512)

    assert shortest_of(8, lambda: longest_hold(work)) <= LONGEST_S
    tracemalloc.start()
    try:
        work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MIB
    inline = body[:INLINE_BYTES]
    assert shortest_of(5, lambda: processor_s(lambda: _try(inline, BOUNDARY))) <= LONGEST_S


@pytest.mark.parametrize(
    ("boundary", "unit"),
    [(b"a", b"\r\n--"), (b"-" * 69 + b"x", b"-"), (b"-" * 60, b"\r\n--"), (b"b" * 10, b"b")],
)
def test_a_boundary_that_almost_occurs_everywhere(boundary: bytes, unit: bytes) -> None:
    """The worst needles of a search in C: 90 ms for 32 MiB in one piece."""
    body = filled(unit, FILE_HEAD.replace(b"bound", boundary) + b"\r\n")
    content_type = b"multipart/form-data; boundary=" + boundary
    assert shortest_of(8, lambda: longest_hold(lambda: _try(body, content_type))) <= LONGEST_S
    inline = body[:INLINE_BYTES]
    assert shortest_of(5, lambda: processor_s(lambda: _try(inline, content_type))) <= LONGEST_S


def _try(body: bytes, content_type: bytes) -> None:
    with contextlib.suppress(ServiceError):
        read_files(content_type, body, 512)


def test_as_many_files_and_fields_as_may_be() -> None:
    fields = form(*[b"x"] * MAX_FIELDS, head=b'name="field"').removesuffix(b"--bound--\r\n")
    assert read_files(BOUNDARY, fields + form(*[b"y"] * 512), 512) == [b"y"] * 512
    with pytest.raises(TooLargeError, match="at most 256 fields"):
        read_files(BOUNDARY, fields + fields + form(b"y"), 512)


def test_large_contents_across_the_windows_of_the_search() -> None:
    """Delimiters may lie on every edge of a window."""
    for size in range(4 * MIB - 120, 4 * MIB + 20, 7):
        first = bytes(size)
        assert read_files(BOUNDARY, form(first, b"second"), 2) == [first, b"second"]


@pytest.mark.parametrize(
    ("body", "files"),
    [
        (b"preamble\r\n" + form(b"content") + b"epilogue", [b"content"]),
        (b"\r\n" + form(b"content"), [b"content"]),
        (form(b"content").replace(b"--bound\r\n", b"--bound \t\r\n"), [b"content"]),
        (form(b""), [b""]),
        (form(b"", b"x", b""), [b"", b"x", b""]),
        (form(b"\r\n"), [b"\r\n"]),
        (form(b"\r\n\r\n", b"--boun"), [b"\r\n\r\n", b"--boun"]),
        (b"--bound\r\n\r\nno head\r\n" + form(b"x"), [b"x"]),
        (FILE_HEAD + b"\r\n\r\n--bound--", [b""]),
    ],
)
def test_forms_as_rfc_2046_allows_them(body: bytes, files: list[bytes]) -> None:
    assert read_files(BOUNDARY, body, 8) == files


@pytest.mark.parametrize(
    "unit", [b";a=", b"\r\na:", b";", b';a="', b'\\"', b" ", b";a", b"\r\ncontent-type: "]
)
@pytest.mark.parametrize("opening", [b"", b';a="', b'; a = "\\'])
def test_the_longest_headers_of_all_parts_are_read_in_time(opening: bytes, unit: bytes) -> None:
    head = b"--bound\r\nContent-Disposition: form-data" + opening
    part = head + unit * min(8000 // len(unit), 30 if b"\r" in unit else 8000) + b"\r\n\r\nx\r\n"
    body = part * min((INLINE_BYTES - 200) // len(part), MAX_FIELDS) + form(b"file")
    assert read_files(BOUNDARY, body, 512)[-1] == b"file"
    assert shortest_of(8, lambda: processor_s(lambda: _try(body, BOUNDARY))) <= LONGEST_S


@pytest.mark.parametrize("unit", [b"a: b\r\n", b"a", b"\r", b" "])
def test_headers_of_a_part_have_at_most_8192_bytes(unit: bytes) -> None:
    body = FILE_HEAD + unit * (10_000 // len(unit)) + b"\r\n\r\nx\r\n--bound--"
    with pytest.raises(TooLargeError, match="at most 8192 bytes of headers"):
        read_files(BOUNDARY, body, 8)


def test_a_part_has_at_most_32_headers() -> None:
    head = b'name="f"; filename="f"' + b"\r\na: b" * 31
    assert read_files(BOUNDARY, form(b"x", head=head), 8) == [b"x"]
    with pytest.raises(TooLargeError, match="at most 32 headers"):
        read_files(BOUNDARY, form(b"x", head=head + b"\r\na: b"), 8)


@pytest.mark.parametrize(
    ("parameters", "name", "is_file"),
    [
        (b'name="filename"', b"filename", False),
        (b"name=filename", b"filename", False),
        (b"NAME = filename ", b"filename", False),
        (b'name="a; filename=x"', b"a; filename=x", False),
        (b'name="a\\"; filename=\\"x"', b'a"; filename="x', False),
        (b'name="f"; filename="x"', b"f", True),
        (b"name=f; filename=x", b"f", True),
        (b"name=f ; FileName = x", b"f", True),
        (b"filename=x;; name=f", b"f", True),
        (b"name=f; filename*=UTF-8''%e2%82%ac.png", b"f", True),
        (b"name=f; filename*0=long; filename*1=name", b"f", True),
        (b'name="f"; filename="\xe2\x82\xac; name=filename.png"', b"f", True),
        (b'filename="C:\\pictures\\"; name="f"', b"f", True),  # browsers send it so
        (b'filename="a\\\\"; name="f"', b"f", True),
        (b'name="f";\r\n\tfilename="x"', b"f", True),  # folded, as Python's email does
        (b'name="f"; notfilename="x"', b"f", False),
        (b'name="f"; x="; filename=x"', b"f", False),
        (b'name="f"; filename', b"f", False),
        (b'name="unclosed; filename=x', b'"unclosed', True),
        (b'name="first"; name="second"', b"first", False),
        (b"filename", b"", False),
    ],
)
def test_a_part_is_a_file_by_its_parameter(parameters: bytes, name: bytes, is_file: bool) -> None:
    """RFC 7578, 4.2 and RFC 2183: a parameter of that name, not these letters in a header."""
    body = form(b"content", head=parameters)
    (part,) = read_parts(BOUNDARY, body)
    assert (part.name, part.is_file, part.is_unchosen) == (name, is_file, False)
    assert body[part.start : part.end] == b"content"


@pytest.mark.parametrize(
    "parameters",
    [
        b'name="b"; filename=""',
        b"name=b; filename=",
        b'name="b"; filename=""\r\nContent-Type: application/octet-stream',
        b'name="b"; filename=""\r\nContent-Type: image/png',
    ],
)
def test_an_empty_file_input_is_passed_over(parameters: bytes) -> None:
    empty = form(b"", head=parameters)
    both = empty.removesuffix(b"--bound--\r\n") + form(b"image")
    assert read_files(BOUNDARY, both, 1) == [b"image"]
    with pytest.raises(InvalidInputError, match="at least one file"):
        read_files(BOUNDARY, empty, 8)
    assert read_files(BOUNDARY, form(b"content", head=parameters), 8) == [b"content"]


@pytest.mark.parametrize("size", [71, 900])
def test_a_boundary_has_at_most_70_characters(size: int) -> None:
    with pytest.raises(InvalidInputError, match="boundary of 1 to 70"):
        read_files(b"multipart/form-data; boundary=" + b"b" * size, b"", 8)
