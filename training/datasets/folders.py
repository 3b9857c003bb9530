"""Listing of ``folder:PATH``: every file below the folder of a class, in any number of parts."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from models.image import ENDINGS, ImageError
from models.junk import is_in_hidden_folder, is_junk
from training.datasets.listing import (
    PART_NAMES,
    SPLITS,
    WHOLE,
    Content,
    Listing,
    Row,
    one_form,
    part_of,
)
from training.errors import DatasetError


def list_folder(name: str, folder: Path) -> Listing:
    """List the images in a folder with one sub-folder per class.

    If its sub-folders are called ``train`` and ``test`` (or ``validation``, ``val``, ``valid``, in
    any case), each of them has the classes. Folders within a class belong to it.

    Args:
        name: Name of the dataset.
        folder: Its folder.

    Raises:
        DatasetError: It is no folder, there are fewer than two classes, or other folders stand
            beside the parts.
    """
    parts = _parts(folder)
    classes = {part: _folders(part) for part in parts}
    labels = tuple(
        sorted({one_form(_name(path.name)) for each in classes.values() for path in each})
    )
    if len(labels) < 2:
        raise DatasetError(
            f"{folder}: expected two or more sub-folders, one per class, got {len(labels)}"
        )
    numbers = {label: number for number, label in enumerate(labels)}
    files: list[Path] = []
    rows: list[Row] = []
    passed_over = 0
    for part, split in parts.items():
        without_class = [path for path in _children(part) if path.suffix[1:].lower() in ENDINGS]
        groups = [(path, numbers[one_form(_name(path.name))]) for path in classes[part]]
        for found, target in [*((_walk(path), at) for path, at in groups), (without_class, -1)]:
            kept = [path for path in found if not _is_junk(path.relative_to(part))]
            passed_over += len(found) - len(kept)
            files += kept
            rows += [Row(_name(path), None, split, target) for path in kept]
    return Listing(
        name, labels, rows, lambda wanted: _read(files, wanted), passed_over, str(folder)
    )


def _parts(folder: Path) -> dict[Path, str]:
    """Return the folders of the parts with their splits, or the folder itself."""
    parts = {path: part_of(path.name) for path in _folders(folder)}
    others = [path.name for path, split in parts.items() if not split]
    splits = {split for split in parts.values() if split}
    if "train" not in splits or (others and len(splits) == 1):
        return {folder: WHOLE}  # a class may be called train
    if others:
        raise DatasetError(
            f"{folder}: expected parts ({PART_NAMES}) with the classes in each, or classes, got "
            f"{', '.join(path.name for path in parts)}; move {', '.join(others)} elsewhere"
        )
    return dict(sorted(parts.items(), key=lambda part: SPLITS.index(part[1])))


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
    return [
        path for path in _children(folder) if path.is_dir() and not _is_junk(Path(path.name, "x"))
    ]


def _walk(folder: Path) -> list[Path]:
    """Return the files below a folder; links to folders are followed, each folder once."""
    found = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(root))
        folders[:] = sorted(
            name for name in folders if os.path.realpath(Path(root, name)) not in seen
        )
        found += [Path(root, name) for name in sorted(names)]
    return found


def _name(path: Path | str) -> str:
    """Return a path as text; bytes of a name that is no UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _is_junk(path: Path) -> bool:
    name = path.as_posix()
    return is_junk(name) or is_in_hidden_folder(name)
