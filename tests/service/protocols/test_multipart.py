"""What needs no server of the image protocol: its forms and paths. The rest is in tests/e2e."""

import email.policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInputError, ServiceError, TooLargeError
from service.protocols.multipart import read_files

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
