"""Transforms of torchvision, timm and transformers, each with the ``ImageSpec`` that says the same.

``libraries`` runs the transforms, where those libraries are installed.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from export.geometry import image_spec
from export.options import Options
from models.artifact import Crop, Filter, ImageSpec, Resize
from models.geometry import fit
from models.image import decode, decode_pixels
from models.pixels import Decoding
from tests.server import ROOT

Pixels = NDArray[np.uint8]
# What a user's environment has and this project's has not; `make .venv/.user`.
PACKAGES = ROOT / ".venv" / "user"
# How pictures become pixels before the transforms: ``Image.open(f).convert("RGB")``.
CONVERT = Decoding("RGB", False, None, None, True)
# The same after ``ImageOps.exif_transpose``.
UPRIGHT = Decoding("RGB", True, None, None, True)
# What CLIP's and BiT's processors do themselves with a file that nobody converted.
OVER_WHITE = Decoding("RGB", False, (255, 255, 255), None, True)
FILTERS: tuple[Filter, ...] = get_args(Filter)


@dataclass(frozen=True, slots=True)
class Case:
    """One transform.

    Attributes:
        group: Its row of the table.
        transform: As ``libraries`` reads it.
        spec: What is to be the same.
        is_exact: Whether the library resizes with Pillow.
    """

    group: str
    transform: dict[str, Any]
    spec: ImageSpec
    is_exact: bool = True


def adopted(size: tuple[int, int], **options: Any) -> ImageSpec:
    """What ``foveal adopt`` makes of its options."""
    return image_spec(Options(loader="pillow", **options), "RGB", *size)


def cases() -> list[Case]:
    return [*torchvisions(), *timms(), *transformerss()]


def torchvisions() -> Iterator[Case]:
    for v2 in (False, True):
        name = f"torchvision {'v2' if v2 else 'v1'}"
        base: dict[str, Any] = {"library": "torchvision", "v2": v2}
        pairs = [(256, 224), (235, 224), (224, 224), (342, 299), (61, 48), (40, 64)]
        every = [(256, 224, kind) for kind in FILTERS]
        for resize, crop, kind in [*every, *((a, b, "bicubic") for a, b in pairs[1:])]:
            transform = base | {"resize": resize, "crop": crop, "filter": kind}
            spec = adopted((crop, crop), resize=resize, filter=kind)
            yield Case(f"{name} Resize(k), CenterCrop(n)", transform, spec)
        wide = base | {"resize": 256, "crop": [192, 224], "filter": "bilinear"}
        yield Case(f"{name} Resize(k), CenterCrop(n)", wide, adopted((192, 224), resize=256))
        for height, width, kind in ((224, 224, "bilinear"), (97, 131, "bicubic"), (33, 20, "box")):
            transform = base | {"resize": [height, width], "filter": kind}
            spec = adopted((height, width), resize="stretch", filter=kind)
            yield Case(f"{name} Resize((h, w))", transform, spec)


def timms() -> Iterator[Case]:
    rules: dict[str, Literal["stretch", "crop", "pad"]]
    rules = {"center": "crop", "squash": "stretch", "border": "pad"}
    shares: list[tuple[tuple[int, int], float, Filter]] = [
        *(((224, 224), 0.875, kind) for kind in FILTERS),
        ((224, 224), 0.9, "bicubic"),
        ((224, 224), 0.95, "bicubic"),
        ((224, 224), 1.0, "bicubic"),
        ((240, 240), 0.965, "bilinear"),
        ((192, 256), 0.9, "bicubic"),
        ((256, 160), 0.875, "bilinear"),
    ]
    for mode, rule in rules.items():
        for size, share, kind in shares:
            transform = {
                "library": "timm",
                "size": [3, *size],
                "filter": kind,
                "crop_pct": share,
                "crop_mode": mode,
            }
            # timm pads with its default mean: 0.485, 0.456, 0.406.
            colour = (124, 116, 104) if mode == "border" else None
            spec = adopted(size, resize=rule, crop_share=share, filter=kind, pad_colour=colour)
            yield Case(f"timm crop_mode={mode}", transform, spec)


def transformerss() -> Iterator[Case]:
    side = {"height": 224, "width": 224}
    edge = {"shortest_edge": 224}
    named: list[tuple[str, str, dict[str, Any], ImageSpec]] = []

    def add(models: str, kind: str, given: dict[str, Any], size: int, **options: Any) -> None:
        spec = adopted((size, size), crop_rounding="floor", **options)
        named.append((models, kind, given, spec))

    add("ViT, Swin", "ViT", {"size": side}, 224, resize="stretch")
    add("ViT, Swin", "ViT", {"resample": "bicubic"}, 224, resize="stretch", filter="bicubic")
    add("DeiT", "DeiT", {}, 224, resize="stretch", crop_share=0.875, filter="bicubic")
    add("BiT, DINOv2", "Bit", {"size": edge}, 224, resize=224, filter="bicubic")
    larger = {"size": {"shortest_edge": 256}}
    add("BiT, DINOv2", "Bit", larger, 224, resize=256, filter="bicubic")
    share = {"crop_share": 224 / 256, "filter": "bicubic"}
    add("ConvNeXT, ResNet", "ConvNext", {"size": edge}, 224, **share)
    add("ConvNeXT, ResNet", "ConvNext", {}, 384, resize="stretch", filter="bicubic")
    other = {"size": edge, "crop_pct": 0.95, "resample": "bilinear"}
    add("ConvNeXT, ResNet", "ConvNext", other, 224, crop_share=0.95)
    add("EfficientNet", "EfficientNet", {"include_top": False}, 346, filter="bicubic")
    cropped = {"include_top": False, "do_center_crop": True, "resample": "nearest"}
    named.append(
        (
            "EfficientNet",
            "EfficientNet",
            cropped,
            ImageSpec(
                *("RGB", 289, 289, Resize("both", "nearest", 346, 346), Crop(rounding="floor")),
                exif=False,
                clip_16_bits=True,
            ),
        )
    )
    add("MobileNet", "MobileNetV1", {}, 224, resize=256)
    add("MobileNet", "MobileNetV2", {}, 224, resize=256)
    add("CLIP", "CLIP", {}, 224, resize=224, filter="bicubic")
    yield from (case for each in named for case in backends(*each))


def backends(models: str, kind: str, options: dict[str, Any], spec: ImageSpec) -> Iterator[Case]:
    for name, is_exact in (("Pil", True), ("", False)):
        transform = {
            "library": "transformers",
            "class": f"{kind}ImageProcessor{name}",
            "options": options,
        }
        where = "Pillow" if is_exact else "tensors"
        yield Case(f"transformers {models}, {where}", transform, spec, is_exact)


class Libraries:
    """The process that runs the transforms."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        """Wait until it has imported them."""
        self._child = child
        self._expect("ready")

    def transform(self, picture: Path) -> dict[str, Pixels]:
        """Return the pixels of each case by its number, and of the loaders by their names."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{picture}\n")
        self._child.stdin.flush()
        self._expect("ok")
        file = picture.with_suffix(".npz")
        with np.load(file) as arrays:
            made = dict(arrays)
        file.unlink()
        return made

    def _expect(self, word: str) -> None:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line == f"{word}\n", f"expected {word!r} of the libraries, got {line!r}"


@contextmanager
def libraries(python: list[str], env: dict[str, str], folder: Path) -> Iterator[Libraries]:
    """Start the process that runs the transforms of ``cases``.

    Args:
        python: A Python that has torchvision, timm and transformers, and its options.
        env: Its environment.
        folder: For the list of transforms.
    """
    file = folder / "transforms.json"
    file.write_text(json.dumps([case.transform for case in cases()]))
    program = Path(__file__).with_name("libraries.py")
    child = subprocess.Popen(
        [*python, str(program), str(file)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Libraries(child)
    finally:
        child.kill()
        child.communicate()


def ours(encoded: bytes, every: list[Case]) -> Iterator[Pixels]:
    """Decode and fit a picture for each case: ``decode``, but that its file is parsed once."""
    pixels = decode_pixels(encoded, CONVERT)
    first = every[0].spec
    np.testing.assert_array_equal(decode(encoded, first), fit(pixels, first))
    for case in every:
        yield fit(pixels, case.spec)
