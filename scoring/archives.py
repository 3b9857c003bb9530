"""Archives as sources: zip, and tar with or without compression, streamed in the archive's order.

Each file in the archive is a row, except hidden files. Consecutive files with the same name up to
the first dot are one sample, as WebDataset writes them: if one of them has the ending of an image,
only that one is a row, and a ``.cls`` file beside it (an index or a label) is its true label.
"""

import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import islice

from models.image import ENDINGS
from scoring.files import FileRow, check_size, folder_of, is_url, open_binary, pin_files
from scoring.rows import CHUNK_BYTES, Chunk, Image, Pin, Row, ScoreError, Truth, chunked
from scoring.tar import TarFile, tar_files

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

# A sample is held in memory until its last file; a longer run of files is not a sample.
_SAMPLE_FILES = 16
_SAMPLE_BYTES = 4 * CHUNK_BYTES
# Longest .cls file that is read as a label.
_LABEL_BYTES = 1024
# What the readers of archives raise on damage.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    NotImplementedError,
    ValueError,
)
# Methods that zipfile expands in pieces; it expands 4 KiB of bzip2 into gigabytes at once.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# A file of an archive: its name, and how to read it now.
_Member = tuple[str, Callable[[], Image]]


class ArchiveSource:
    """The files of one archive.

    Args:
        path: A zip or tar, here or behind a URL.
    """

    def __init__(self, path: str) -> None:
        self.name = FileRow(path).id
        self._path = path
        self._is_zip = path.lower().endswith(".zip")

    def count(self) -> int | None:
        """Return None: only reading the whole archive would count its rows."""
        return None

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Stream rows ``start`` to ``stop``; damage becomes a last row with an error."""
        return chunked(self._rows(start, stop))

    def cut(self, start: int, stop: int) -> "ArchiveSource":  # noqa: ARG002 - a Source's
        """Return itself."""
        return self

    def kinds(self) -> dict[str, str]:
        """Return an empty dict: a file has no columns."""
        return {}

    def pin(self) -> Pin:
        """Return a digest of the archive's path, size and date."""
        return pin_files(self.name, [self._path])

    def _rows(self, start: int, stop: int | None) -> Iterator[Row]:
        yield from islice(self._samples(start), start, stop)

    def _samples(self, start: int) -> Iterator[Row]:
        # Row N is never before file N, as samples only merge files: skip reading before `start`.
        files = zip_members if self._is_zip else tar_members
        sample: list[tuple[str, Image]] = []
        held_bytes = 0
        key = ""
        last = "its beginning"
        try:
            for number, (name, read) in enumerate(files(self._path)):
                is_full = len(sample) >= _SAMPLE_FILES or held_bytes > _SAMPLE_BYTES
                if is_full or _key(name) != key:
                    yield from self._sample(sample)
                    sample, held_bytes, key = [], 0, _key(name)
                image = b"" if number < start else read()
                held_bytes += len(image) if isinstance(image, bytes) else 0
                sample.append((name, image))
                last = name
        except _DAMAGED as error:
            if is_url(self._path) and isinstance(error, OSError):
                raise  # the network failed: the job can resume later without a loss
            yield from self._sample(sample)
            reason = str(error).strip() or type(error).__name__
            yield Row(
                self.name,
                ScoreError(f"archive: expected a whole archive, got damage after {last}: {reason}"),
            )
            return
        yield from self._sample(sample)

    def _sample(self, sample: list[tuple[str, Image]]) -> Iterator[Row]:
        images = [(name, image) for name, image in sample if _ending(name) in ENDINGS]
        declared = [image for name, image in sample if images and _ending(name) == "cls"]
        for name, image in images or sample:
            truth = _index_or_label(declared[0]) if declared else folder_of(name)
            yield Row(f"{self.name}/{_text(name)}", image, truth)


def zip_members(path: str) -> Iterator[_Member]:
    """Yield the files of a zip in the order of its directory."""
    with open_binary(path) as file, zipfile.ZipFile(file) as archive:
        check_zip(archive, file.seek(0, os.SEEK_END))
        for info in archive.infolist():
            if not info.is_dir() and not _is_hidden(info.filename):
                yield info.filename, lambda info=info: _zip_image(archive, info)  # type: ignore[misc]


def check_zip(archive: zipfile.ZipFile, size_bytes: int) -> None:
    """Refuse a zip whose files share their bytes: 10 MB of it can expand to 281 TB.

    Args:
        archive: The zip.
        size_bytes: Its size.

    Raises:
        BadZipFile: Its files have more bytes together than the zip itself.
    """
    stored_bytes = sum(info.compress_size for info in archive.infolist())
    if stored_bytes > size_bytes:
        raise zipfile.BadZipFile(
            f"expected files of at most {size_bytes} bytes together, got {stored_bytes}: they "
            "overlap"
        )


def check_zip_method(info: zipfile.ZipInfo) -> None:
    """Refuse a file of a zip that cannot be expanded in bounded memory.

    Raises:
        BadZipFile: It is neither stored nor deflated.
    """
    if info.compress_type not in _ZIP_METHODS:
        name = zipfile.compressor_names.get(info.compress_type, "unknown")  # type: ignore[attr-defined]
        raise zipfile.BadZipFile(f"expected a stored or deflated file, got compression {name}")


def tar_members(path: str) -> Iterator[_Member]:
    """Yield the files of a tar in its order; reads it once, without seeking."""
    with open_binary(path) as opened:
        for file in tar_files(opened):
            if not _is_hidden(file.name):
                yield file.name, lambda file=file: _tar_image(file)  # type: ignore[misc]


def _zip_image(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Image:
    try:
        check_size(info.file_size)
        check_zip_method(info)
        # No more than the directory says: `read` of the archive expands whatever there is.
        with archive.open(info) as file:
            content = file.read(info.file_size)
        if len(content) < info.file_size:
            raise EOFError(f"{len(content)} bytes instead of {info.file_size}")
    except ScoreError as error:
        return error
    except _DAMAGED as error:  # a wrong checksum, encryption: an error of one file
        reason = "it is encrypted" if info.flag_bits & 1 else error
        return ScoreError(f"file: expected a readable file in the archive, got: {reason}")
    return content


def _tar_image(file: TarFile) -> Image:
    try:
        check_size(file.size)
    except ScoreError as error:
        return error
    if file.is_sparse:
        return ScoreError("file: expected a whole file, got a sparse one; tar it without --sparse")
    return file.read()


def _key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def _ending(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[2].lower()


def _is_hidden(name: str) -> bool:
    parts = name.removeprefix("./").split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _text(name: str) -> str:
    return os.fsencode(name.removeprefix("./")).decode("utf-8", "backslashreplace")


def _index_or_label(content: Image) -> Truth:
    """Return what a ``.cls`` says; a text as a tuple, as it declares a label like a column."""
    if not isinstance(content, bytes) or len(content) > _LABEL_BYTES:
        return ""
    text = content.decode("utf-8", "replace").strip()
    return int(text) if text.isdecimal() and len(text) < 10 else (text,)
