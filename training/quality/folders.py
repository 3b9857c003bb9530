"""Listing of ``folder:PATH``: every file below the folder of a class, in any number of parts."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from models.image import ENDINGS, ImageError
from training.errors import DatasetError
from training.quality.listing import WHOLE, Content, Listing, Row

# What parts are called, in lower case.
_PARTS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
_ORDER = ("train", "validation", "test", WHOLE)
# What systems leave behind in folders, in lower case; hidden files are passed over, too.
_JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})


def list_folder(name: str, folder: Path) -> Listing:
    """List the images in a folder with one sub-folder per class.

    If its sub-folders are called ``train`` and ``test`` (or ``validation``, ``val``, ``valid``, in
    any case), each of them has the classes. Folders within a class belong to it.

    Args:
        name: Name of the dataset.
        folder: Its folder.

    Raises:
        DatasetError: It is no folder, or there are fewer than two classes.
    """
    inside = _folders(folder)
    parts = {path: _PARTS.get(path.name.lower(), "") for path in inside}
    if not all(parts.values()) or "train" not in parts.values():
        parts = {folder: WHOLE}
    # The training part first: of two copies in two parts, the other one is reported.
    parts = dict(sorted(parts.items(), key=lambda part: _ORDER.index(part[1])))
    classes = {part: _folders(part) for part in parts}
    labels = tuple(sorted({path.name for paths in classes.values() for path in paths}))
    if len(labels) < 2:
        raise DatasetError(
            f"{folder}: expected two or more sub-folders, one per class, got {len(labels)}"
        )
    files: list[Path] = []
    rows: list[Row] = []
    passed_over = 0
    for part, split in parts.items():
        without_class = [path for path in _children(part) if path.suffix[1:].lower() in ENDINGS]
        groups = [(path, labels.index(path.name)) for path in classes[part]]
        for found, target in [*((_walk(path), at) for path, at in groups), (without_class, -1)]:
            kept = [path for path in found if not _is_junk(path.relative_to(part))]
            passed_over += len(found) - len(kept)
            files += kept
            rows += [Row(_name(path), None, split, target) for path in kept]
    return Listing(name, labels, rows, lambda wanted: _read(files, wanted), passed_over)


def _read(files: list[Path], wanted: Collection[int] | None) -> Iterator[tuple[int, Content]]:
    for index, path in enumerate(files):
        if wanted is not None and index not in wanted:
            continue
        try:
            yield index, path.read_bytes()
        except OSError as error:
            yield index, ImageError(f"image: expected a readable file, got {error.strerror}")


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DatasetError(
            f"{folder}: expected a folder with one sub-folder per class, got {error.strerror}"
        ) from error


def _folders(folder: Path) -> list[Path]:
    return [path for path in _children(folder) if path.is_dir() and not _is_junk(Path(path.name))]


def _walk(folder: Path) -> list[Path]:
    found = []
    for root, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(root, name) for name in sorted(names)]
    return found


def _name(path: Path) -> str:
    """Return a path as text; bytes of a name that is no UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _is_junk(path: Path) -> bool:
    return any(part[0] == "." or part.lower() in _JUNK for part in path.parts)
