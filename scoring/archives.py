"""Archives as sources: zip, and tar with or without compression, streamed in the archive's order.

Each file in the archive is a row, except junk. Consecutive files with the same name up to the first
dot are one sample, as WebDataset reads them: the images among them are rows, and a ``.cls`` file,
an index or a label, is their true label. Where all ``.cls`` files of an archive come after its
images, they are looked up.
"""

import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import NamedTuple

from models.image import ENDINGS, is_image
from models.junk import ending, is_in_hidden_folder, is_junk
from scoring.files import FileSource, check_size, folder_of, open_binary
from scoring.rows import CHUNK_BYTES, Chunk, Image, Row, ScoreError, Truth, chunked
from scoring.tar import TarFile, small_files_at_end, tar_files
from scoring.urls import is_url

TAR_ENDINGS = (
    *(".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst"),
)

# A sample is held in memory until its last file; a longer run of files is not a sample.
_SAMPLE_FILES = 16
_SAMPLE_BYTES = 4 * CHUNK_BYTES
_LABEL = "cls"
# Longest .cls file that is read as a label, and most of them that are looked up.
_LABEL_BYTES = 1024
_LABELS = 1 << 21
_UNSORTED = (
    "file: expected the files of a sample beside each other, got a label far from its image; "
    "unpack the archive to FOLDER and sort it: tar --sort=name -cf sorted.tar -C FOLDER ."
)
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


class _Member(NamedTuple):
    """A file of an archive: its name, its bytes as the archive says, and how to read it now."""

    name: str
    size: int
    read: Callable[[], Image]


class _File(NamedTuple):
    """A file of a sample."""

    name: str
    content: Image

    @property
    def is_image(self) -> bool:
        """Whether its name or its bytes say that it is an image."""
        if ending(self.name) in ENDINGS:
            return True
        return isinstance(self.content, bytes) and is_image(self.content[:16])


class ArchiveSource(FileSource):
    """The files of one archive.

    Args:
        path: A zip or tar, here or behind a URL.
        strict: Whether junk is rows, too.

    Attributes:
        passed_over: Junk that the last reading has passed over.
    """

    def __init__(self, path: str, *, strict: bool = False) -> None:
        super().__init__(path)
        self.passed_over = 0
        self._strict = strict
        self._is_zip = path.lower().endswith(".zip")

    def count(self) -> int | None:
        """Return None: only reading the whole archive would count its rows."""
        return None

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Stream rows ``start`` to ``stop``; damage becomes a last row with an error."""
        return chunked(self._rows(start, stop))

    def _rows(self, start: int, stop: int | None) -> Iterator[Row]:
        yield from islice(self._all_rows(start), start, stop)

    def _all_rows(self, start: int) -> Iterator[Row]:
        samples = _Samples(self.name, self._path, is_zip=self._is_zip)
        # Row N is never before file N, as samples only merge files: skip reading before `start`.
        sample: list[_File] = []
        held_bytes = 0
        key = ""
        last = "its beginning"
        try:
            for number, (name, size, read) in enumerate(self._files()):
                is_full = len(sample) >= _SAMPLE_FILES or held_bytes > _SAMPLE_BYTES
                if is_full or _key(name) != key:
                    yield from samples.rows(sample)
                    sample, held_bytes, key = [], 0, _key(name)
                # Where the name does not tell whether it is an image, its bytes do.
                is_told = ending(name) in ENDINGS or ending(name) == _LABEL
                image = b"" if number < start and is_told else read()
                held_bytes += size
                sample.append(_File(name, image))
                last = name
        except _DAMAGED as error:
            if is_url(self._path) and isinstance(error, OSError):
                raise  # the network failed: the job can resume later without a loss
            yield from samples.rows(sample)
            reason = str(error).strip() or type(error).__name__
            yield Row(
                self.name,
                ScoreError(f"archive: expected a whole archive, got damage after {last}: {reason}"),
            )
            return
        yield from samples.rows(sample)

    def _files(self) -> Iterator[_Member]:
        """Yield the files that are no junk."""
        self.passed_over = 0
        for member in (zip_members if self._is_zip else tar_members)(self._path):
            name = member.name.removeprefix("./")
            if is_in_hidden_folder(name):
                continue
            if not self._strict and is_junk(name):
                self.passed_over += 1
            else:
                yield member


class _Samples:
    """From the files of samples to rows.

    Args:
        name: Of the archive.
        path: Of the archive.
        is_zip: Whether it is a zip.
    """

    def __init__(self, name: str, path: str, *, is_zip: bool) -> None:
        self._name = name
        self._path = path
        self._find = _labels_of_zip if is_zip else _labels_of_tar
        self._labels: Mapping[str, Truth] | None = None
        self._is_unlabelled = self._is_told = False

    def rows(self, sample: list[_File]) -> Iterator[Row]:
        """Yield a row for each image of a sample, or for each file if there is none.

        Of labels that are far from their images and were not found, the first is a row with an
        error.
        """
        images = [file for file in sample if file.is_image]
        labels = {_stem(name): content for name, content in sample if ending(name) == _LABEL}
        for name, image in images or sample:
            row = Row(f"{self._name}/{_text(name)}", image, self._truth(name, labels, images))
            if images or ending(name) != _LABEL:
                yield row
            elif self._labels and _stem(name) in self._labels:
                continue
            elif not self._is_unlabelled:
                yield row
            elif not self._is_told:
                self._is_told = True
                yield row._replace(image=ScoreError(_UNSORTED))

    def _truth(self, name: str, labels: dict[str, Image], images: list[_File]) -> Truth:
        if not images:
            return folder_of(name)
        declared = labels.get(_stem(name), labels.get(_key(name)))
        if declared is not None:
            return _index_or_label(declared)
        if self._labels is None:
            self._labels = self._find(self._path)
        self._is_unlabelled = True
        return self._labels.get(_stem(name), self._labels.get(_key(name), folder_of(name)))


def _labels_of_zip(path: str) -> dict[str, Truth]:
    """Return the labels in a zip by name without ending."""
    with open_binary(path) as file, zipfile.ZipFile(file) as archive:
        check_zip(archive, file.seek(0, os.SEEK_END))
        small = [
            info
            for info in archive.infolist()
            if ending(info.filename) == _LABEL and info.file_size <= _LABEL_BYTES
        ]
        return {
            _stem(info.filename): _index_or_label(_zip_image(archive, info))
            for info in small[:_LABELS]
        }


def _labels_of_tar(path: str) -> dict[str, Truth]:
    """Return the labels in a tar that ends with labels, by name without ending; else nothing.

    Only one that is here and not compressed is looked into: any other would be read twice.
    """
    if is_url(path):
        return {}
    with open_binary(path) as file:
        return {
            _stem(name): _index_or_label(content)
            for name, content in islice(
                small_files_at_end(file, f".{_LABEL}", _LABEL_BYTES), _LABELS
            )
        }


def zip_members(path: str) -> Iterator[_Member]:
    """Yield the files of a zip in the order of its directory."""
    with open_binary(path) as file, zipfile.ZipFile(file) as archive:
        check_zip(archive, file.seek(0, os.SEEK_END))
        for info in archive.infolist():
            if not info.is_dir():
                yield _Member(info.filename, info.file_size, partial(_zip_image, archive, info))


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
            yield _Member(file.name, file.size, partial(_tar_image, file))


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
    """Return the key of a file's sample: its path up to the first dot of its own name."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _stem(name: str) -> str:
    """Return a file's path without its ending."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    return f"{folder}{slash}{base.rpartition('.')[0] or base}"


def _text(name: str) -> str:
    return os.fsencode(name.removeprefix("./")).decode("utf-8", "backslashreplace")


def _index_or_label(content: Image) -> Truth:
    """Return what a ``.cls`` says; a text as a tuple, as it declares a label like a column."""
    if not isinstance(content, bytes) or len(content) > _LABEL_BYTES:
        return ""
    text = content.decode("utf-8", "replace").strip()
    return int(text) if text.isdecimal() and len(text) < 10 else (text,)
