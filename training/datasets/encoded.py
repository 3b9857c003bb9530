"""Encoded images (JPEG, PNG, WebP, BMP) to one array, and the reader of ``folder:PATH``.

Every image goes through ``models.image.decode`` with the spec that the published model will carry,
so that a pixel means the same here and in the service. Legend: N rows, H height, W width, C
channels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.artifact import ImageSpec, Mode
from models.image import ImageError, decode, read_size
from training.datasets.splits import Source, Split, hold_out
from training.errors import DatasetError

_TEST_FRACTION = 0.2
_TEST_SEED = 0
_PARTS = {"train", "test"}


@dataclass(frozen=True, slots=True)
class Encoded:
    """One image as it lies in a file.

    Attributes:
        where: What an error names: the file, and the row if it holds many.
        content: The encoded bytes.
    """

    where: str
    content: bytes


def image_spec(mode: Mode, height: int, width: int) -> ImageSpec:
    """Return how files become images of a size: in training here, in serving as published."""
    return ImageSpec(
        mode, height, width, resize="stretch", interpolation="area", scaled_decoding=True
    )


def decode_all(
    images: Iterable[Encoded], count: int, *, image_size: int = 0, grey: bool = False
) -> NDArray[np.uint8]:
    """Decode images of one size, or bring them to one.

    Args:
        images: ``count`` of them, at least one; read one at a time.
        count: N; given, so that the array is made once.
        image_size: H and W of the result; 0 for the size of the first, which all must have.
        grey: Whether C is 1, not 3.

    Returns:
        images_NHWC: uint8 [N, H, W, C], 0-255.

    Raises:
        DatasetError: An image cannot be decoded, or has another size than the first.
    """
    spec: ImageSpec | None = None
    images_NHWC = np.empty((0, 0, 0, 0), np.uint8)
    for row, image in enumerate(images):
        try:
            width, height = read_size(image.content)
            if spec is None:
                side = (image_size, image_size) if image_size else (height, width)
                spec = image_spec("L" if grey else "RGB", *side)
                images_NHWC = np.empty((count, *spec.shape_HWC), np.uint8)
            if not image_size and (height, width) != (spec.height, spec.width):
                raise DatasetError(
                    f"{image.where}: expected {spec.width} x {spec.height} pixels like the first "
                    f"image, got {width} x {height}; choose one size with --image-size"
                )
            images_NHWC[row] = decode(image.content, spec)
        except ImageError as error:
            raise DatasetError(f"{image.where}: {error}") from error
    return images_NHWC


def read_folder(folder: Path, *, image_size: int = 0, grey: bool = False) -> Source:
    """Read images from a folder with one sub-folder a class.

    If its two sub-folders are called ``train`` and ``test``, each of them has the classes;
    otherwise a fifth of every class becomes the test part, the same in every run.

    Args:
        folder: What was given after ``folder:``.
        image_size: See ``decode_all``.
        grey: See ``decode_all``.

    Raises:
        DatasetError: There are no two classes, a class is empty, or a file is no image.
    """
    if {path.name for path in _subfolders(folder)} == _PARTS:
        labels = _labels(folder / "train")
        if _labels(folder / "test") != labels:
            raise DatasetError(
                f"{folder / 'test'}: expected the classes of train, {', '.join(labels)}, "
                f"got {', '.join(_labels(folder / 'test'))}"
            )
        train, test = (
            _read_classes(folder / part, labels, image_size, grey) for part in ("train", "test")
        )
        return Source(labels, train, test)
    labels = _labels(folder)
    return split_off_test(labels, _read_classes(folder, labels, image_size, grey))


def split_off_test(labels: tuple[str, ...], everything: Split) -> Source:
    """Cut a test part off, a fifth of each class, by a seed that is not configurable."""
    return Source(labels, *hold_out(everything, _TEST_FRACTION, _TEST_SEED))


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    except OSError as error:
        raise DatasetError(
            f"{folder}: expected a folder with one sub-folder a class, got {error.strerror}"
        ) from error


def _labels(folder: Path) -> tuple[str, ...]:
    labels = tuple(path.name for path in _subfolders(folder))
    if len(labels) < 2:
        raise DatasetError(
            f"{folder}: expected two or more sub-folders, one a class, got {len(labels)}"
        )
    return labels


def _read_classes(folder: Path, labels: tuple[str, ...], image_size: int, grey: bool) -> Split:
    files: list[Path] = []
    targets: list[int] = []
    for target, label in enumerate(labels):
        # Hidden files are those that file managers leave behind.
        found = sorted(path for path in (folder / label).iterdir() if path.name[0] != ".")
        if not found:
            raise DatasetError(f"{folder / label}: expected images of this class, got none")
        files += found
        targets += [target] * len(found)
    images_NHWC = decode_all(_read_files(files), len(files), image_size=image_size, grey=grey)
    return Split(images_NHWC, np.array(targets, np.int64))


def _read_files(files: list[Path]) -> Iterator[Encoded]:
    for path in files:
        try:
            yield Encoded(str(path), path.read_bytes())
        except OSError as error:
            raise DatasetError(
                f"{path}: expected a readable image, got {error.strerror}"
            ) from error
