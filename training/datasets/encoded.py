"""The reader of ``folder:PATH``, and the decoding of image files.

Every image goes through ``models.image.decode`` with the spec of the published model, so a pixel
means the same here and in the service. Legend: N rows, H height, W width, C
channels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.artifact import ImageSpec, Mode, Resize
from models.image import ImageError, decode, read_size
from training.datasets.splits import Source, Split, split_off_test
from training.errors import DatasetError

_PARTS = {"train", "test"}


@dataclass(frozen=True, slots=True)
class Reading:
    """How encoded images of any size become those of a dataset.

    Attributes:
        image_size: Height and width of the result; 0 for the size that all images have.
        grey: Whether images are read as grey.
        own: How a pretrained network wants its pixels, in place of both; None: it does not say.
    """

    image_size: int = 0
    grey: bool = False
    own: ImageSpec | None = None


AS_THEY_ARE = Reading()


@dataclass(frozen=True, slots=True)
class Encoded:
    """One image in its encoded form.

    Attributes:
        where: Place for error messages: the file, and the row if a file holds many images.
        content: The encoded bytes.
    """

    where: str
    content: bytes


def image_spec(mode: Mode, height: int, width: int) -> ImageSpec:
    """Return the spec that brings files to a size, in training and in the published model.

    Both sides are stretched to the size. What is transparent is white, as pages show it: two files
    that look the same are the same.
    """
    return ImageSpec(
        mode,
        height,
        width,
        Resize("both", "hamming"),
        background=(255, 255, 255),
        scaled_decoding=True,
    )


def decode_all(images: Iterable[Encoded], count: int, reading: Reading) -> NDArray[np.uint8]:
    """Decode images of one size, or resize them to one.

    Args:
        images: ``count`` images, at least one; read one at a time.
        count: N, needed to allocate the array once.
        reading: Size and mode of the result. Without a size all images must have that of the first.

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
                side = (reading.image_size,) * 2 if reading.image_size else (height, width)
                spec = reading.own or image_spec("L" if reading.grey else "RGB", *side)
                images_NHWC = np.empty((count, *spec.shape_HWC), np.uint8)
            is_any_size = reading.image_size or reading.own
            if not is_any_size and (height, width) != (spec.height, spec.width):
                raise DatasetError(
                    f"{image.where}: expected {spec.width} x {spec.height} pixels like the first "
                    f"image, got {width} x {height}; choose one size with --image-size"
                )
            images_NHWC[row] = decode(image.content, spec)
        except ImageError as error:
            raise DatasetError(f"{image.where}: {error}") from error
    return images_NHWC


def read_folder(folder: Path, reading: Reading = AS_THEY_ARE) -> Source:
    """Read images from a folder with one sub-folder per class.

    If its two sub-folders are called ``train`` and ``test``, each of them has the classes;
    otherwise a fifth of every class becomes the test part, see ``split_off_test``.

    Args:
        folder: The path after ``folder:``.
        reading: See ``decode_all``.

    Raises:
        DatasetError: There are fewer than two classes, a class is empty, or a file is no image.
    """
    if {path.name for path in _subfolders(folder)} == _PARTS:
        labels = _labels(folder / "train")
        if _labels(folder / "test") != labels:
            raise DatasetError(
                f"{folder / 'test'}: expected the classes of train, {', '.join(labels)}, "
                f"got {', '.join(_labels(folder / 'test'))}"
            )
        train, test = (_read_classes(folder / part, labels, reading) for part in ("train", "test"))
        return Source(labels, train, test)
    labels = _labels(folder)
    return split_off_test(labels, _read_classes(folder, labels, reading))


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    except OSError as error:
        raise DatasetError(
            f"{folder}: expected a folder with one sub-folder per class, got {error.strerror}"
        ) from error


def _labels(folder: Path) -> tuple[str, ...]:
    labels = tuple(path.name for path in _subfolders(folder))
    if len(labels) < 2:
        raise DatasetError(
            f"{folder}: expected two or more sub-folders, one per class, got {len(labels)}"
        )
    return labels


def _read_classes(folder: Path, labels: tuple[str, ...], reading: Reading) -> Split:
    files: list[Path] = []
    targets: list[int] = []
    for target, label in enumerate(labels):
        # File managers leave hidden files behind.
        found = sorted(path for path in (folder / label).iterdir() if path.name[0] != ".")
        if not found:
            raise DatasetError(f"{folder / label}: expected images of this class, got none")
        files += found
        targets += [target] * len(found)
    images_NHWC = decode_all(_read_files(files), len(files), reading)
    return Split(images_NHWC, np.array(targets, np.int64))


def _read_files(files: list[Path]) -> Iterator[Encoded]:
    for path in files:
        try:
            yield Encoded(str(path), path.read_bytes())
        except OSError as error:
            raise DatasetError(
                f"{path}: expected a readable image, got {error.strerror}"
            ) from error
