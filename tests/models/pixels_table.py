"""Pixels beside those of torchvision, timm and transformers, and what they cost, as one page.

``python -m tests.models.pixels_table --into models/pixels.md`` needs ``make .venv/.user``.
"""

import argparse
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from loadtest.bench.timing import median_s
from models.artifact import ImageSpec, Resize
from models.geometry import resized_size
from models.image import decode, decode_pixels
from models.machine import cpu_name
from report.progress import ProgressBar
from tests.models.photographs import KINDS, SOURCES, photograph, source
from tests.models.transforms import (
    CONVERT,
    OVER_WHITE,
    PACKAGES,
    UPRIGHT,
    Case,
    Libraries,
    cases,
    libraries,
    ours,
)

Pixels = NDArray[np.uint8]
PHOTOGRAPHS = 310
LOADERS = {
    "convert": ('Image.open(f).convert("RGB")', CONVERT),
    "upright": ('ImageOps.exif_transpose(Image.open(f)).convert("RGB")', UPRIGHT),
    "white": ("transformers' convert_to_rgb(Image.open(f))", OVER_WHITE),
}


@dataclass
class Row:
    """Differences of one group of transforms.

    Attributes:
        group: Its name.
        is_exact: Whether none is expected.
        transforms: How many transforms.
        compared: How many results.
        different: How many of them differ at all.
        largest: Largest difference of a value, 0-255.
        values: How many values were compared.
        different_values: How many of them differ.
    """

    group: str
    is_exact: bool
    transforms: int = 0
    compared: int = 0
    different: int = 0
    largest: int = 0
    values: int = 0
    different_values: int = 0

    def add(self, expected: Pixels, got: Pixels) -> None:
        """Compare one result."""
        assert expected.shape == got.shape, (self.group, expected.shape, got.shape)
        self.compared += 1
        self.values += got.size
        if np.array_equal(expected, got):
            return
        difference = np.abs(expected.astype(np.int16) - got)
        self.different += 1
        self.largest = max(self.largest, int(difference.max()))
        self.different_values += int((difference > 0).sum())

    def __str__(self) -> str:
        share = self.different_values / max(1, self.values)
        return (
            f"| {self.group} | {self.transforms} | {self.compared} | {self.different} | "
            f"{self.largest} | {share:.2%} |"
        )


def rows_of(every: list[Case]) -> dict[str, Row]:
    """Return an empty row a loader and a group."""
    rows = {name: Row(f"`{text}`", True, 1) for name, (text, _) in LOADERS.items()}
    for case in every:
        row = rows.setdefault(case.group, Row(case.group, case.is_exact))
        row.transforms += 1
    return rows


def compare(encoded: bytes, picture: Path, peers: Libraries, rows: dict[str, Row]) -> None:
    """Add one photograph to every row.

    Args:
        encoded: The file.
        picture: Where it is written, without an ending.
        peers: The libraries.
        rows: As ``rows_of`` makes them.
    """
    every = cases()
    picture.write_bytes(encoded)
    made = peers.transform(picture)
    picture.unlink()
    for name, (_, decoding) in LOADERS.items():
        rows[name].add(made[name], decode_pixels(encoded, decoding))
    for number, (case, got) in enumerate(zip(every, ours(encoded, every), strict=True)):
        rows[case.group].add(made[str(number)], got)


def scaled(encoded: bytes, row: Row) -> None:
    """Compare a JPEG that is decoded at a scale with the same one decoded whole."""
    whole = ImageSpec("RGB", 224, 224, Resize("shorter", "bilinear", 256, 256))
    row.add(decode(encoded, whole), decode(encoded, replace(whole, scaled_decoding=True)))


def measure(encoded: bytes, spec: ImageSpec, resize: Resize) -> tuple[float, float]:
    """Return seconds of libjpeg-turbo and Pillow's resize alone, and of ``decode``."""
    width, height = Image.open(io.BytesIO(encoded)).size
    size = resized_size((height, width), spec.resized, resize)

    def plain() -> Image.Image:
        pixels = simplejpeg.decode_jpeg(encoded, "RGB")
        return Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)

    turns = [
        (median_s(plain, 0.3, 50), median_s(lambda: decode(encoded, spec), 0.3, 50))
        for _ in range(7)
    ]
    return min(turn[0] for turn in turns), min(turn[1] for turn in turns)


def speed() -> Iterator[str]:
    """Yield the lines of the table of costs."""
    encoded = source(0).read_bytes()
    yield "| 640 x 427 JPEG to | libjpeg-turbo and Pillow's resize | `decode` | ratio |"
    yield "|---|---|---|---|"
    for name, resize in (
        ("224 x 224", Resize("both")),
        ("256, crop 224", Resize("shorter", "bilinear", 256, 256)),
    ):
        plain, mine = measure(encoded, ImageSpec("RGB", 224, 224, resize), resize)
        yield f"| {name} | {plain * 1e3:.2f} ms | {mine * 1e3:.2f} ms | {mine / plain:.2f} |"


def environment() -> dict[str, str]:
    """Return the environment of a process that finds the libraries, and no GPU."""
    return os.environ | {"PYTHONPATH": str(PACKAGES), "CUDA_VISIBLE_DEVICES": ""}


def measured(count: int) -> tuple[dict[str, Row], Row]:
    """Return the rows of all transforms, and the one of decoding at a scale."""
    rows = rows_of(cases())
    at_scale = Row("`scaled_decoding`, against decoding whole", False, 1)
    python = [sys.executable, "-P"]
    with (
        tempfile.TemporaryDirectory() as folder,
        libraries(python, environment(), Path(folder)) as peers,
        ProgressBar("photographs") as progress,
    ):
        for number in range(count):
            kind, encoded = photograph(number)
            compare(encoded, Path(folder) / f"{number}", peers, rows)
            if kind.startswith("JPEG") and min(Image.open(io.BytesIO(encoded)).size) >= 1024:
                scaled(encoded, at_scale)
            progress.show(number + 1, count)
    return rows, at_scale


def table(count: int) -> Iterator[str]:
    """Yield the lines of the table of differences, the exact ones first."""
    rows, at_scale = measured(count)
    yield "| transform | how many | results | that differ | largest difference | of the values |"
    yield "|---|---|---|---|---|---|"
    yield from map(str, sorted(rows.values(), key=lambda row: not row.is_exact))
    yield str(at_scale)


def page(count: int) -> str:
    """Measure everything and return the page."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of palettes whose transparency a conversion drops
        differences = list(table(count))
    packages = ("Pillow", "simplejpeg", "numpy", "torch")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    users = ", ".join(
        next(PACKAGES.glob(f"{name}-*.dist-info")).stem.replace("-", " ")
        for name in ("torchvision", "timm", "transformers")
    )
    lines = [
        "# The pixels, beside those of libraries",
        "",
        "Written by `make pixels`: the same files through a transform of a library, on what",
        '`Image.open(f).convert("RGB")` gives, and through `models.image`; values of 0 to 255.',
        f"{count} photographs of 20 to 4,000 pixels a side, of odd sizes too: crops of the",
        f"{len(SOURCES)} that scikit-learn and matplotlib ship, brought to size, with noise.",
        f"{users};",
        f"{versions}.",
        "",
        *differences,
        "",
        "Tensors: image processors that resize by torchvision on tensors, which is what",
        "transformers' `AutoImageProcessor` takes where torchvision is installed. Their filters",
        "round otherwise than Pillow's, and their nearest (EfficientNet here) takes other pixels.",
        "",
        "BiT's and CLIP's processors lay pictures over white. Given a file as it is opened they do",
        'what the row of `convert_to_rgb` says; after `convert("RGB")` only where the file names',
        "one transparent colour (PNG's tRNS), which is removed here.",
        "",
        f"As many of each kind: {'; '.join(KINDS)}.",
        "",
        f"Cost on one thread, {cpu_name()}, the least of 7 medians in turn with the other's; other",
        "work on the machine raises both:",
        "",
        *speed(),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=int, default=PHOTOGRAPHS, help="How many.")
    parser.add_argument("--into", type=Path, required=True, help="The page.")
    given = parser.parse_args()
    given.into.write_text(page(given.photographs), encoding="utf-8")


if __name__ == "__main__":
    main()
