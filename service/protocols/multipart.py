"""Read multipart forms, within limits: parts are found, not read byte by byte.

    [preamble CRLF] "--" boundary CRLF headers CRLF CRLF content CRLF "--" boundary ... "--"

A form of 32 MiB may hold millions of parts or one part of millions of headers. So the number of
parts, their headers and parameters and the distance of one search are bounded, and each search runs
in C. Nothing is stored in a file.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from service.errors import InvalidInputError, TooLargeError

# A form of more bytes is read on a thread: the loop would be held for up to 90 ms.
INLINE_BYTES = 2 << 20
# Fields beside files; a form of images has a few.
MAX_FIELDS = 256
MEDIA_TYPE = b"multipart/form-data"
_MAX_TYPE_BYTES = 1024
# RFC 2046, 5.1.1: 70 characters.
_MAX_BOUNDARY_BYTES = 70
_MAX_HEAD_BYTES = 8192
# Of one part; it has three.
_MAX_HEADERS = 32
# Of one header; its further ones are not read.
_MAX_PARAMETERS = 16
# One search holds the interpreter for its length: at most 15 ms for the worst needle.
_SEARCH_BYTES = 2 << 20
_CRLF = b"\r\n"
_BLANK = b" \t"
_FILE_TYPES = (b"image/", b"application/octet-stream")
# ; name="value" or ; name=value. Browsers send a backslash as it is, so a quote behind one ends the
# value where nothing else does.
_PARAMETER = re.compile(
    rb"""[ \t]*([^=;"\s]*)[ \t]*(?:=[ \t]*(?:
        "([^"\\]*+(?:\\.[^"\\]*+)*+)"(?=[ \t]*(?:;|$))
        | "([^"]*+)"(?=[ \t]*(?:;|$))
        | ([^;]*)
    ))?[^;]*;?""",
    re.DOTALL | re.VERBOSE,
)


class Part(NamedTuple):
    """One part of a form.

    Attributes:
        name: Of its field.
        is_file: Whether it has a file name, or the content type of a file.
        is_unchosen: Whether it is a file input in which nothing was chosen: browsers send it as an
            empty file with an empty name. Then it is no file.
        start: First byte of its content in the body.
        end: Behind its last byte.
    """

    name: bytes
    is_file: bool
    is_unchosen: bool
    start: int
    end: int


def read_files(content_type: bytes, body: bytes, max_files: int) -> list[bytes]:
    """Read the files of a ``multipart/form-data`` body; other fields are ignored.

    May be called on any thread.

    Raises:
        InvalidInputError: No boundary, a broken body, or a body without a file.
        TooLargeError: More than ``max_files``, too many fields, or too long a header.
    """
    files: list[bytes] = []
    fields = 0
    for part in read_parts(content_type, body):
        if not part.is_file:
            fields += 1
            if fields > MAX_FIELDS:
                raise TooLargeError(
                    f"multipart/form-data: expected at most {MAX_FIELDS} fields beside the files, "
                    "got more; send files only"
                )
            continue
        if len(files) == max_files:
            raise TooLargeError(
                f"multipart/form-data: expected at most {max_files} files; "
                "send fewer or raise FOVEAL_MAX_REQUEST_ROWS"
            )
        files.append(body[part.start : part.end])
    if not files:
        raise InvalidInputError(
            "multipart/form-data: expected at least one file, got none; "
            "send it as a file, as `curl -F file=@image.png` does"
        )
    return files


def read_parts(content_type: bytes, body: bytes) -> Iterator[Part]:
    """Find the parts of a ``multipart/form-data`` body (RFC 7578), in order.

    May be called on any thread; who calls it bounds the number of parts.

    Raises:
        InvalidInputError: No boundary, or a broken body.
        TooLargeError: The headers of a part are too long or too many.
    """
    if len(content_type) > _MAX_TYPE_BYTES:
        raise InvalidInputError(
            f"content-type: expected at most {_MAX_TYPE_BYTES} bytes, got {len(content_type)}"
        )
    boundary = _parameters(content_type).get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY_BYTES:
        raise InvalidInputError(
            f"multipart/form-data: expected a boundary of 1 to {_MAX_BOUNDARY_BYTES} characters in "
            f"the content type, got {len(boundary)}"
        )
    delimiter = b"\r\n--" + boundary
    if body.startswith(delimiter[2:]):  # the first delimiter needs no line before it
        position = len(delimiter) - 2
    else:
        position = _find(body, delimiter, 0) + len(delimiter)
    while not body.startswith(b"--", position):
        line_end = body.find(_CRLF, position, position + _MAX_HEAD_BYTES)
        if line_end < 0 or body[position:line_end].strip(_BLANK):
            raise InvalidInputError(
                f"multipart/form-data: expected a line's end after the boundary at byte {position}"
            )
        # Headers end at an empty line, which is the first one of a part without headers.
        start = body.find(b"\r\n\r\n", line_end, line_end + _MAX_HEAD_BYTES)
        if start < 0:
            if len(body) - line_end < _MAX_HEAD_BYTES:
                raise _cut(body)
            raise TooLargeError(
                f"multipart/form-data: expected at most {_MAX_HEAD_BYTES} bytes of headers, "
                f"got more in the part at byte {line_end}"
            )
        # The line before the delimiter may be the empty one: of a part without content.
        position = _find(body, delimiter, start + 2)
        yield _part(body[line_end:start], min(start + 4, position), position)
        position += len(delimiter)


def _find(body: bytes, delimiter: bytes, start: int) -> int:
    """Return where a delimiter begins.

    Raises:
        InvalidInputError: It does not follow: the body was cut.
    """
    overlap = len(delimiter) - 1
    while start < len(body):
        found = body.find(delimiter, start, start + _SEARCH_BYTES + overlap)
        if found >= 0:
            return found
        start += _SEARCH_BYTES
    raise _cut(body)


def _part(head: bytes, start: int, end: int) -> Part:
    """Return a part by its headers and where its content lies.

    Raises:
        TooLargeError: Too many headers.
    """
    if head.count(_CRLF) > _MAX_HEADERS:
        raise TooLargeError(
            f"multipart/form-data: expected at most {_MAX_HEADERS} headers, "
            f"got more in the part whose content begins at byte {start}"
        )
    options: dict[bytes, bytes] = {}
    has_file_type = False
    for line in head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ").split(_CRLF):
        key, _, value = line.partition(b":")
        match key.strip(_BLANK).lower():
            case b"content-disposition" if not options:
                options = _parameters(value)
            case b"content-type":
                has_file_type |= value.strip(_BLANK).lower().startswith(_FILE_TYPES)
    name = options.get(b"name", b"")
    # RFC 7578 has no "filename*" (RFC 6266), some clients send it all the same.
    file_names = [options[key] for key in options if key.partition(b"*")[0] == b"filename"]
    is_unchosen = start == end and file_names == [b""]
    is_file = not is_unchosen and bool(file_names or has_file_type)
    return Part(name, is_file, is_unchosen, start, end)


def _parameters(value: bytes) -> dict[bytes, bytes]:
    """Return the first parameters of a header by their lower-case names (RFC 9110, 5.6.6)."""
    parameters: dict[bytes, bytes] = {}
    position = value.find(b";") + 1
    if not position:
        return parameters
    for _ in range(_MAX_PARAMETERS):
        found = _PARAMETER.match(value, position)
        if found is None or found.end() == position:
            break
        name, quoted, raw, plain = found.groups()
        if quoted is not None:
            raw = quoted.replace(b'\\"', b'"').replace(b"\\\\", b"\\")
        elif raw is None and plain is not None:
            raw = plain.strip(_BLANK)
        if name and raw is not None:
            parameters.setdefault(name.lower(), raw)
        position = found.end()
    return parameters


def _cut(body: bytes) -> InvalidInputError:
    return InvalidInputError(
        "multipart/form-data: expected whole parts and a closing boundary, "
        f"the body ends at byte {len(body)}"
    )
