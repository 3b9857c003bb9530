"""Compare the tensors of a user's transform with pixels that the contract's geometry gives.

Legend: H height, W width, C channels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import AdoptError
from export.options import Options
from models.artifact import ImageSpec
from models.image import ImageError, decode

# Pixels of 0-255 that differ by less are the same: float32 rounds a normalised one by about 1e-5.
SAME_PIXEL = 0.02


@dataclass(frozen=True, slots=True)
class PixelDifference:
    """How far a transform's tensors are from the contract's pixels.

    Attributes:
        largest: Largest difference of a pixel, 0-255.
        images: How many images were compared.
        differing: How many of them differ.
        worst: What differs most: a file, or what was made of one.
    """

    largest: float
    images: int
    differing: int
    worst: str

    @property
    def is_none(self) -> bool:
        """Whether all pixels are the same."""
        return self.differing == 0

    def joined(self, other: "PixelDifference") -> "PixelDifference":
        """Return the difference of the images of both."""
        return PixelDifference(
            max(self.largest, other.largest),
            self.images + other.images,
            self.differing + other.differing,
            self.worst if self.largest >= other.largest else other.worst,
        )

    def __str__(self) -> str:
        """Return the difference in words."""
        return (
            f"up to {self.largest:.3g} of 255 in {self.differing} of {self.images} images "
            f"(most in {self.worst})"
        )


def choose_spec(
    specs: Iterable[ImageSpec], pairs: Sequence[tuple[Path, Path]], options: Options
) -> ImageSpec:
    """Return the spec whose pixels are nearest to the tensors.

    Args:
        specs: What images may look like, the likeliest first.
        pairs: Some image files, each with its tensor's file.
        options: How pixels become the tensor's numbers.
    """
    best: tuple[float, ImageSpec] | None = None
    for spec in specs:
        try:
            found = sum(_mean_difference(image, tensor, spec, options) for image, tensor in pairs)
        except ImageError as error:
            raise AdoptError(f"{error}") from None
        # A later one must be clearly better: a sum of rounding errors chooses nothing.
        if best is None or found < best[0] - SAME_PIXEL:
            best = found, spec
        if best[0] <= SAME_PIXEL:
            break
    assert best is not None, "a reading has at least one spec; this is a bug"
    return best[1]


def measure(
    pairs: Sequence[tuple[Path, Path]], spec: ImageSpec, options: Options
) -> PixelDifference:
    """Compare every tensor with the pixels that the contract makes of its file.

    Args:
        pairs: Image files, each with its tensor's file.
        spec: What images become.
        options: How pixels become the tensor's numbers.

    Raises:
        AdoptError: A file cannot be decoded.
    """
    differences = []
    for image, tensor in pairs:
        try:
            differences.append(_difference(image, tensor, spec, options).max())
        except ImageError as error:
            raise AdoptError(f"{image}: {error}") from None
    worst = int(np.argmax(differences))
    return PixelDifference(
        float(differences[worst]),
        len(pairs),
        sum(1 for difference in differences if not difference <= SAME_PIXEL),
        str(pairs[worst][0]),
    )


def _difference(
    image: Path, tensor: Path, spec: ImageSpec, options: Options
) -> NDArray[np.float64]:
    """Return the absolute difference [H, W, C] in units of pixels, 0-255."""
    values_HWC = np.load(tensor, allow_pickle=False).astype(np.float64).transpose(1, 2, 0)
    pixels_HWC = (values_HWC * np.array(options.std) + np.array(options.mean)) / options.scale
    if options.channels == "BGR":
        pixels_HWC = pixels_HWC[..., ::-1]
    ours_HWC = decode(image.read_bytes(), spec)
    if ours_HWC.shape != pixels_HWC.shape:
        raise AdoptError(
            f"transform: expected tensors of one size, got {pixels_HWC.shape[:2]} for {image} and "
            f"{ours_HWC.shape[:2]} before: end it in a crop to one size"
        )
    difference: NDArray[np.float64] = np.abs(pixels_HWC - ours_HWC)
    return difference


def _mean_difference(image: Path, tensor: Path, spec: ImageSpec, options: Options) -> float:
    return float(_difference(image, tensor, spec, options).mean())
