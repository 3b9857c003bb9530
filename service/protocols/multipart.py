"""Read the files of a multipart form, within limits: parts are found, not read byte by byte.

    [preamble CRLF] "--" boundary CRLF headers CRLF CRLF content CRLF "--" boundary ... "--"

A form of 32 MiB may hold millions of parts or one part of millions of headers. So the number of
parts, their headers and the distance of one search are bounded, and each search runs in C.
"""

from collections.abc import Iterator

from python_multipart.multipart import parse_options_header

from service.errors import InvalidInputError, TooLargeError

# A form of more bytes is read on a thread: the loop would be held for up to 90 ms.
INLINE_BYTES = 2 << 20
# Fields beside files; a form of images has a few.
MAX_FIELDS = 256
# RFC 2046, 5.1.1: 70 characters.
_MAX_BOUNDARY_BYTES = 70
_MAX_HEAD_BYTES = 8192
# One search holds the interpreter for its length: at most 12 ms for the worst needle.
_SEARCH_BYTES = 4 << 20
_CRLF = b"\r\n"
_BLANK = b" \t"


def read_files(content_type: bytes, body: bytes, max_files: int) -> list[bytes]:
    """Read the files of a ``multipart/form-data`` body (RFC 7578); other fields are ignored.

    May be called on any thread.

    Raises:
        InvalidInputError: No boundary, a broken body, or a body without a file.
        TooLargeError: More than ``max_files``, too many fields, or too long a header.
    """
    boundary = parse_options_header(content_type[:1024])[1].get(b"boundary")
    if not boundary or len(boundary) > _MAX_BOUNDARY_BYTES:
        raise InvalidInputError(
            "multipart/form-data: expected a boundary of 1 to 70 characters in the content type"
        )
    files: list[bytes] = []
    fields = 0
    for head, start, end in _parts(body, b"\r\n--" + boundary):
        if not _is_file(head):
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
        files.append(body[start:end])
    if not files:
        raise InvalidInputError(
            "multipart/form-data: expected at least one file, got none; "
            "send it as a file, as `curl -F file=@image.png` does"
        )
    return files


def _parts(body: bytes, delimiter: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the headers of each part, and where its content starts and ends.

    Raises:
        InvalidInputError: The form is broken.
        TooLargeError: The headers of a part are too long.
    """
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
        yield body[line_end:start], min(start + 4, position), position
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


def _is_file(head: bytes) -> bool:
    """Return whether a part's headers carry a file name or an image's content type."""
    for line in head.lower().split(_CRLF):
        name, _, value = line.partition(b":")
        if name == b"content-disposition" and b"filename" in value:
            return True
        if name == b"content-type" and value.strip(_BLANK).startswith(
            (b"image/", b"application/octet-stream")
        ):
            return True
    return False


def _cut(body: bytes) -> InvalidInputError:
    return InvalidInputError(
        "multipart/form-data: expected whole parts and a closing boundary, "
        f"the body ends at byte {len(body)}"
    )
