"""The columns of a table: those that the user names, and those that have usual names.

Knows no format: ``parquet``, ``arrow``, ``delimited``, ``json_rows`` read tables, ``formats`` opens
them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from scoring.files import FileRow, beside
from scoring.rows import Image, ScoreError
from scoring.urls import is_url

# Usual names of a column of images or paths, tried in this order if no name is given.
IMAGES = ("image", "img", "path", "file", "filename", "file_name", "filepath", "file_path")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a table's columns; "" searches for the images and uses no column for the others.

    A name with dots is a field of a struct: ``image.bytes``.

    Attributes:
        image: Image bytes, or paths.
        label: True labels: text, or whole numbers that are indexes, or lists of them.
        id: Ids of the rows; by default the path, or the table's path and the row's number.
        keep: Columns to copy to the output.
    """

    image: str = ""
    label: str = ""
    id: str = ""
    keep: tuple[str, ...] = ()

    def within(
        self, path: str, names: Sequence[str], candidates: Sequence[str], nested: Sequence[str] = ()
    ) -> "Columns":
        """Return the columns as a table has them: found, and named as it names them.

        Args:
            path: The table, for messages.
            names: Its columns.
            candidates: Those that may hold images.
            nested: Fields of its columns, with dots.

        Returns:
            The columns; "" in ``keep`` where the table lacks one.

        Raises:
            ScoreError: It lacks the column of images, labels or ids.
        """
        image = self.image or image_column(path, names, candidates)
        known = (*names, *nested)
        for name in (image, self.label, self.id):
            if name and not resolve(name, known):
                raise ScoreError(f'{path}: expected a column "{name}", got {", ".join(names)}')
        return Columns(
            resolve(image, known),
            resolve(self.label, known),
            resolve(self.id, known),
            tuple(resolve(name, known) for name in self.keep),
        )


def resolve(name: str, names: Sequence[str]) -> str:
    """Return the column that a name means: the same one, or one with spaces around it; else ""."""
    if not name or name in names:
        return name
    return next((other for other in names if other.strip() == name.strip()), "")


def usual_image(candidates: Sequence[str]) -> str:
    """Return the column with the most usual name for images, "" if there is none."""
    lower = {name.strip().lower(): name for name in reversed(candidates)}
    return next((lower[name] for name in IMAGES if name in lower), "")


def image_column(path: str, names: Sequence[str], candidates: Sequence[str]) -> str:
    """Return the column of images if no name is given.

    Raises:
        ScoreError: None has a usual name, and there are several.
    """
    found = usual_image(candidates)
    if not found and len(candidates) == 1:
        found = candidates[0]
    if not found:
        raise ScoreError(
            f"{path}: expected a column of images or paths, got {', '.join(names) or 'none'}; "
            "name it with --image-column"
        )
    return found


def file_of(table: str, path: str | None) -> Image:
    r"""Return the file that a table names; ``photos\cat\1.jpg`` is how Windows writes a path.

    Args:
        table: Path of the table: relative paths begin at its folder.
        path: What the cell holds.
    """
    if not path or not path.strip():
        return nothing()
    if "\\" in path and "/" not in path and not is_url(path):
        path = path.replace("\\", "/")
    return FileRow(beside(table, path))


def is_file(path: str) -> bool:
    """Whether there is such a file; what is no path is none."""
    try:
        return os.path.isfile(path)  # noqa: PTH113 - never raises but for what is no path
    except ValueError:
        return False


def nothing() -> ScoreError:
    """Return the error of a row without an image."""
    return ScoreError("image: expected bytes or a path, got nothing")
