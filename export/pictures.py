"""The user's images: files and folders to sorted files, their true labels, and rows of pixels.

Legend: N rows, H height, W width, C channels.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import AdoptError
from models.artifact import ImageSpec
from models.image import ENDINGS, ImageError, decode
from models.labels import distinct_names
from report.progress import ProgressBar

# Decoded pixels that are held at once, and written for the process that runs them.
_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Pictures:
    """Image files, and what is known about them.

    Attributes:
        files: Sorted by path.
        targets_N: Index of each true label, int64 [N]; None: unknown.
    """

    files: tuple[Path, ...]
    targets_N: NDArray[np.int64] | None = None


def find_pictures(paths: Sequence[Path], labels: Sequence[str]) -> Pictures:
    """Find image files, in folders too; folders below them that are named as labels give truth.

    Args:
        paths: Files and folders.
        labels: Label of each class.

    Raises:
        AdoptError: A folder without images, or some folders are labels and one is not.
    """
    found: dict[Path, str | None] = {}
    for path in paths:
        below = dict(_walk(path)) if path.is_dir() else {path: None}
        if not below:
            raise AdoptError(f"{path}: expected image files, got a folder without any")
        found |= below
    files = tuple(sorted(found, key=lambda file: file.parts))
    indices = class_indices(labels)
    folders = [found[file] for file in files]
    known = [folder for folder in folders if folder is not None and folder in indices]
    if not known:
        return Pictures(files)
    for file, folder in zip(files, folders, strict=True):
        if folder is None or folder not in indices:
            raise AdoptError(
                f"{file}: expected a folder named as a label, as {known[0]!r} is, "
                f"got {folder or 'none'!r}; leave it out, or correct --labels"
            )
    return Pictures(files, np.array([indices[folder] for folder in known], np.int64))


def class_indices(labels: Sequence[str]) -> dict[str, int]:
    """Return the index of each name of a class: its label, or ``crane (517)`` if two are equal."""
    return {name: index for index, name in enumerate(distinct_names(labels))}


def decode_chunks(
    files: Sequence[Path], spec: ImageSpec, title: str = "images"
) -> Iterator[NDArray[np.uint8]]:
    """Yield the files as the model decodes them, uint8 [n, H, W, C], some megabytes at a time.

    Raises:
        AdoptError: A file is no image.
    """
    rows = max(1, _CHUNK_BYTES // int(np.prod(spec.shape_HWC)))
    with ProgressBar(title, is_timed=True) as bar:
        for start in range(0, len(files), rows):
            chunk = []
            for file in files[start : start + rows]:
                chunk.append(decode_file(file, spec))
                bar.show(start + len(chunk), len(files))
            yield np.stack(chunk)


def decode_file(file: Path, spec: ImageSpec) -> NDArray[np.uint8]:
    """Decode one file, uint8 [H, W, C].

    Raises:
        AdoptError: It is no image.
    """
    try:
        return decode(file.read_bytes(), spec)
    except ImageError as error:
        raise AdoptError(f"{file}: {error}") from None


def _walk(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield the images below a folder, and the name of the folder right below it that holds each.

    Names that start with a dot are passed over, as are links to folders.
    """
    for name, folders, files in os.walk(folder):
        folders[:] = [below for below in folders if not below.startswith(".")]
        parts = Path(name).relative_to(folder).parts
        for file in files:
            if not file.startswith(".") and Path(file).suffix[1:].lower() in ENDINGS:
                yield Path(name) / file, parts[0] if parts else None
