"""Archives as sources: zip, and tar with or without compression, streamed in the archive's order.

Each file in the archive is a row, except hidden files. Consecutive files with the same name up to
the first dot are one sample, as WebDataset writes them: if one of them has the ending of an image,
only that one is a row, and a ``.cls`` file beside it (an index or a label) is its true label.
"""

import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Self

from scoring.files import MAX_FILE_BYTES, FileRow, folder_of, is_url, open_binary, pin_files
from scoring.rows import Chunk, Image, Pin, Row, ScoreError, Truth, chunked

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_IMAGE_ENDINGS = frozenset({"jpg", "jpeg", "jpe", "png", "webp", "bmp"})
# A sample is held in memory until its last file; a longer run of files is not a sample.
_SAMPLE_FILES = 16
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    ValueError,
)

# Subclasses that are missing in typeshed.
_CUT = (tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError)  # type: ignore[attr-defined]


class _WholeTar(tarfile.TarInfo):
    """A header that must be whole: the standard library takes a missing one for the end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """Read the next header; raise ReadError unless it is a header or the end mark."""
        try:
            return super().fromtarfile(tarfile_)
        except _CUT:
            raise tarfile.ReadError("the file ends before the archive's end") from None
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"a damaged header ({error})") from None


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
        key = ""
        last = "its beginning"
        try:
            for number, (name, read) in enumerate(files(self._path)):
                if _key(name) != key or len(sample) >= _SAMPLE_FILES:
                    yield from self._sample(sample)
                    sample, key = [], _key(name)
                sample.append((name, b"" if number < start else read()))
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
        images = [(name, image) for name, image in sample if _ending(name) in _IMAGE_ENDINGS]
        declared = [image for name, image in sample if images and _ending(name) == "cls"]
        for name, image in images or sample:
            truth = _index_or_label(declared[0]) if declared else folder_of(name)
            yield Row(f"{self.name}/{_text(name)}", image, truth)


def zip_members(path: str) -> Iterator[_Member]:
    """Yield the files of a zip in the order of its directory."""
    with open_binary(path) as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir() and not _is_hidden(info.filename):
                yield info.filename, lambda info=info: _zip_image(archive, info)  # type: ignore[misc]


def tar_members(path: str) -> Iterator[_Member]:
    """Yield the files of a tar in its order; reads it once, without seeking."""
    with (
        open_binary(path) as file,
        tarfile.open(fileobj=file, mode="r|*", tarinfo=_WholeTar) as tar,
    ):
        while (info := tar.next()) is not None:
            # Otherwise tarfile keeps every header in memory; typeshed lacks the attribute.
            tar.members.clear()  # type: ignore[attr-defined]
            if info.isreg() and not _is_hidden(info.name):
                yield info.name, lambda info=info: _tar_image(tar, info)  # type: ignore[misc]


def _zip_image(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Image:
    if info.file_size > MAX_FILE_BYTES:
        return _too_long(info.file_size)
    try:
        return archive.read(info)
    except _DAMAGED as error:  # a wrong checksum, encryption: an error of one file
        return ScoreError(f"file: expected a readable file in the archive, got: {error}")


def _tar_image(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Image:
    if info.size > MAX_FILE_BYTES:
        return _too_long(info.size)
    member = tar.extractfile(info)
    assert member is not None, "a regular file has content; this is a bug"
    content = member.read()
    if len(content) < info.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def _too_long(size: int) -> ScoreError:
    return ScoreError(f"file: expected at most {MAX_FILE_BYTES} bytes, got {size}")


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
    text = content.decode("utf-8", "replace").strip() if isinstance(content, bytes) else ""
    return int(text) if text.isdecimal() and len(text) < 10 else text
