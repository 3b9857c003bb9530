"""Read the files of a multipart form, within limits; python-multipart does the parsing."""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidInputError, TooLargeError


def read_files(content_type: bytes, body: bytes, max_files: int) -> list[bytes]:
    """Read the files of a ``multipart/form-data`` body (RFC 7578); other fields are ignored.

    Raises:
        InvalidInputError: No boundary, a broken body, or a body without a file.
        TooLargeError: More than ``max_files``.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidInputError("multipart/form-data: expected a boundary in the content type")
    reader = _FileReader(max_files)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": reader.part_begin,
                "on_header_field": reader.header_field,
                "on_header_value": reader.header_value,
                "on_part_data": reader.part_data,
                "on_part_end": reader.part_end,
                "on_end": reader.end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidInputError(f"multipart/form-data: expected whole parts, got {error}") from None
    if not reader.is_whole:
        raise InvalidInputError("multipart/form-data: expected a closing boundary, the body ends")
    if not reader.files:
        raise InvalidInputError(
            "multipart/form-data: expected at least one file, got none; "
            "send it as a file, as `curl -F file=@image.png` does"
        )
    return reader.files


class _FileReader:
    """Collects the parts that carry a file name or an image's content type."""

    def __init__(self, max_files: int) -> None:
        self.files: list[bytes] = []
        self.is_whole = False
        self._max_files = max_files
        self._field = b""
        self._is_file = False
        self._chunks: list[bytes] = []

    def part_begin(self) -> None:
        self._is_file = False
        self._chunks = []

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field = data[start:end].lower()

    def header_value(self, data: bytes, start: int, end: int) -> None:
        value = data[start:end].lower()
        if self._field == b"content-disposition":
            self._is_file |= b"filename" in value
        elif self._field == b"content-type":
            self._is_file |= value.startswith((b"image/", b"application/octet-stream"))

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._chunks.append(data[start:end])

    def part_end(self) -> None:
        if self._is_file:
            if len(self.files) == self._max_files:
                raise TooLargeError(
                    f"multipart/form-data: expected at most {self._max_files} files; "
                    "send fewer or raise FOVEAL_MAX_REQUEST_ROWS"
                )
            self.files.append(b"".join(self._chunks))

    def end(self) -> None:
        self.is_whole = True
