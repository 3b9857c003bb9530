"""What the user's own pipeline answers for image files: the other side of the proof.

Legend: N files, K classes.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import AdoptError
from export.options import Gives
from export.pictures import class_indices
from models.artifact import Task

_FILE_COLUMNS = ("file", "path", "filename", "image", "id")


@dataclass(frozen=True, slots=True)
class Expected:
    """Answers of the user's own pipeline.

    Attributes:
        files: N image files.
        probabilities_NK: float32 [N, K].
        reference: Whose answers they are, for people: a command, or a file of answers.
        is_labels_only: Only the first labels are known; they have probability 1.
        max_pixel_difference: Largest difference of the pixels, 0-255; None: not compared.
        is_difference_accepted: Whether the user accepts that the answers differ.
    """

    files: tuple[Path, ...]
    probabilities_NK: NDArray[np.float32]
    reference: str
    is_labels_only: bool = False
    max_pixel_difference: float | None = None
    is_difference_accepted: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """What a file of answers says.

    Attributes:
        expected: The user's own answers; None: it says none.
        targets_N: Index of each file's true label, int64 [N]; None: it says none.
    """

    expected: Expected | None
    targets_N: NDArray[np.int64] | None = None


def read_answers(path: Path, files: Sequence[Path], labels: Sequence[str]) -> Given:
    """Read answers to image files.

    Args:
        path: ``.npy``: float [N, K] probabilities or int [N] indices of labels, in the order of the
            sorted files. ``.csv``: a header, a column of file names, and columns named as the
            labels (or K unnamed as 0, 1, ...) of probabilities, or a column ``label``; a column
            ``truth`` has true labels.
        files: The images, sorted.
        labels: Label of each class.

    Raises:
        AdoptError: Another format, other files, or numbers that are no probabilities.
    """
    if not files:
        raise AdoptError(f"{path}: expected --images with the files that it answers, got none")
    if path.suffix == ".npy":
        return Given(_read_array(path, files, len(labels)))
    return _read_table(path, files, labels)


def select_answers(expected: Expected, files: Sequence[Path]) -> Expected:
    """Return the answers to some of the files, in their order.

    Raises:
        AdoptError: One is not answered.
    """
    rows = {file: row for row, file in enumerate(expected.files)}
    missing = next((file for file in files if file not in rows), None)
    if missing is not None or not files:
        raise AdoptError(f"{expected.reference}: expected an answer to {missing}, got none")
    chosen_NK = expected.probabilities_NK[[rows[file] for file in files]]
    return replace(expected, files=tuple(files), probabilities_NK=chosen_NK)


def probabilities(
    outputs_NK: NDArray[np.float32], gives: Gives | None, task: Task = "single-label"
) -> NDArray[np.float32]:
    """Turn the outputs of a network into probabilities.

    Args:
        outputs_NK: float32 [N, K].
        gives: What the outputs are; None: ``probabilities`` if all rows are, else ``logits``.
        task: Of ``multi-label`` each logit is of a sigmoid.

    Returns:
        float32 [N, K]; of one output, [N, 2]: its rest and itself.
    """
    values = outputs_NK.astype(np.float64)
    if gives is None and are_probabilities(outputs_NK):
        gives = "probabilities"
    if gives != "probabilities":
        if values.shape[1] == 1 or task == "multi-label":
            values = 1 / (1 + np.exp(-values))
        else:
            powers = np.exp(values - values.max(axis=1, keepdims=True))
            values = powers / powers.sum(axis=1, keepdims=True)
    if values.shape[1] == 1 and task != "multi-label":
        values = np.concatenate([1 - values, values], axis=1)
    return values.astype(np.float32)


def are_probabilities(outputs_NK: NDArray[np.float32]) -> bool:
    """Return whether every row lies in 0-1 and sums to 1."""
    inside = outputs_NK.min() >= 0 and outputs_NK.max() <= 1
    return bool(inside and np.abs(outputs_NK.sum(axis=1) - 1).max() < 1e-3)


def _read_array(path: Path, files: Sequence[Path], classes: int) -> Expected:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise AdoptError(
            f"{path}: expected an array as numpy.save writes it, got {error}"
        ) from None
    rows = len(files)
    if values.shape == (rows,) and np.issubdtype(values.dtype, np.integer):
        return _labels_only(path, files, values, classes)
    if classes == 2 and values.size == rows and np.issubdtype(values.dtype, np.floating):
        second_N = values.reshape(rows)
        values = np.stack([1 - second_N, second_N], axis=1)
    if values.shape != (rows, classes) or not np.issubdtype(values.dtype, np.floating):
        raise AdoptError(
            f"{path}: expected float [{rows}, {classes}], a row for each of the sorted images, "
            f"got {values.dtype} {list(values.shape)}"
        )
    return _probabilities(path, files, values)


def _read_table(path: Path, files: Sequence[Path], labels: Sequence[str]) -> Given:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *lines = [line for line in csv.reader(file) if line]
    except (ValueError, csv.Error) as error:
        raise AdoptError(f"{path}: expected a CSV with a header, got {error}") from None
    place = next((header.index(name) for name in _FILE_COLUMNS if name in header), 0)
    rows = _find_rows(path, files, {line[place]: line for line in lines if len(line) > place})
    short = next((row for row in rows if len(row) != len(header)), None)
    if short is not None:
        raise AdoptError(
            f"{path}: expected {len(header)} columns, got {len(short)}: {short[place]!r}"
        )
    indices = class_indices(labels)

    def column(name: str) -> NDArray[np.int64]:
        words = [row[header.index(name)] for row in rows]
        found = [indices.get(word, _index(word, len(labels))) for word in words]
        if None in found:
            word = words[found.index(None)]
            raise AdoptError(f"{path}: {name}: expected a label or its index, got {word!r}")
        return np.array(found, np.int64)

    targets_N = column("truth") if "truth" in header else None
    names = list(indices)
    if not set(names) <= set(header):
        names = [str(index) for index in range(len(labels))]
    if set(names) <= set(header):
        places = [header.index(name) for name in names]
        try:
            values = np.array([[float(row[place]) for place in places] for row in rows])
        except ValueError as error:
            raise AdoptError(f"{path}: expected numbers, got {error}") from None
        return Given(_probabilities(path, files, values), targets_N)
    if "label" in header:
        return Given(_labels_only(path, files, column("label"), len(labels)), targets_N)
    if targets_N is None:
        raise AdoptError(
            f"{path}: expected a column for each of the {len(labels)} labels, or one named label "
            f"or truth, got {', '.join(header)[:200]}"
        )
    return Given(None, targets_N)


def _find_rows(path: Path, files: Sequence[Path], lines: dict[str, list[str]]) -> list[list[str]]:
    """Return the line of each file: by its path, by the end of its path, or by its name alone."""
    endings: Counter[str] = Counter()
    by_ending: dict[str, list[str]] = {}
    for name, line in lines.items():
        parts = Path(name).parts
        for start in range(len(parts)):
            ending = "/".join(parts[start:])
            endings[ending] += 1
            by_ending[ending] = line
    rows: list[list[str]] = []
    for file in files:
        whole = file.parts
        ends = ["/".join(whole[start:]) for start in range(len(whole))]
        found = next((end for end in ends if endings[end] == 1), None)
        if found is None:
            raise AdoptError(
                f"{path}: expected one row for each of the {len(files)} images, "
                f"got {endings[file.name] or 'none'} for {file}"
            )
        rows.append(by_ending[found])
    if len({id(row) for row in rows}) < len(rows):
        raise AdoptError(f"{path}: expected a row for each image, got one that fits several")
    return rows


def _index(word: str, classes: int) -> int | None:
    return int(word) if word.isdecimal() and int(word) < classes else None


def _labels_only(
    path: Path, files: Sequence[Path], labels_N: NDArray[np.integer], classes: int
) -> Expected:
    if labels_N.min() < 0 or labels_N.max() >= classes:
        raise AdoptError(
            f"{path}: expected indices of labels, 0 to {classes - 1}, "
            f"got {labels_N.min()} to {labels_N.max()}"
        )
    return Expected(
        tuple(files), np.eye(classes, dtype=np.float32)[labels_N], str(path), is_labels_only=True
    )


def _probabilities(path: Path, files: Sequence[Path], values_NK: NDArray[np.floating]) -> Expected:
    # Written so that NaN, which compares as false, is refused too.
    if not (values_NK.min() >= -1e-6 and values_NK.max() <= 1 + 1e-3):
        raise AdoptError(
            f"{path}: expected probabilities, 0 to 1, got {values_NK.min():.4g} to "
            f"{values_NK.max():.4g}; save what comes after the softmax or sigmoid"
        )
    return Expected(tuple(files), values_NK.astype(np.float32), str(path))
