"""What torchvision, timm and transformers make of a picture; runs in an environment that has them.

    python -P libraries.py TRANSFORMS.json < NAMES

Reads the name of a picture a line, writes the pixels of each transform, uint8 [H, W, 3], beside it
in ``<picture>.npz``, and answers ``ok``. Imports nothing of this project.
"""

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

Pixels = NDArray[np.uint8]
Transform = Callable[[Image.Image], Any]


def declare_operators() -> Any:
    """Declare torchvision's compiled operators, which no transform calls.

    A torchvision whose compiled part does not fit this torch registers their shapes as it is
    imported, and fails where they are unknown.
    """
    found = importlib.util.find_spec("torchvision")
    assert found is not None and found.origin is not None, "no torchvision in this environment"
    text = (Path(found.origin).parent / "_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "FRAGMENT")
    for pair in re.findall(r'"torchvision::(\w+)"|register_meta\("(\w+)"\)', text):
        name = "".join(pair)
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor x) -> Tensor")
    return library


KEPT = declare_operators()

TORCHVISION: Any = importlib.import_module("torchvision.transforms")
TORCHVISION_V2: Any = importlib.import_module("torchvision.transforms.v2")
TIMM: Any = importlib.import_module("timm.data")
TRANSFORMERS: Any = importlib.import_module("transformers")
TO_RGB: Any = importlib.import_module("transformers.image_transforms").convert_to_rgb

FILTERS = {
    "nearest": 0,
    "lanczos": 1,
    "bilinear": 2,
    "bicubic": 3,
    "box": 4,
    "hamming": 5,
}


def torchvisions(case: dict[str, Any]) -> Transform:
    module = TORCHVISION_V2 if case["v2"] else TORCHVISION
    steps = [module.Resize(case["resize"], TORCHVISION.InterpolationMode(case["filter"]))]
    if "crop" in case:
        steps.append(module.CenterCrop(case["crop"]))
    composed: Transform = module.Compose(steps)
    return composed


def timms(case: dict[str, Any]) -> Transform:
    transform = TIMM.create_transform(
        tuple(case["size"]),
        is_training=False,
        interpolation=case["filter"],
        crop_pct=case["crop_pct"],
        crop_mode=case["crop_mode"],
        normalize=False,
    )
    return lambda image: transform(image).permute(1, 2, 0).numpy()


def transformerss(case: dict[str, Any]) -> Transform:
    options = case["options"]
    if "resample" in options:
        options = options | {"resample": FILTERS[options["resample"]]}
    made = getattr(TRANSFORMERS, case["class"])(**options, do_rescale=False, do_normalize=False)
    return lambda image: np.moveaxis(np.asarray(made(image)["pixel_values"][0]), 0, -1)


LIBRARIES = {"torchvision": torchvisions, "timm": timms, "transformers": transformerss}
LOADERS: dict[str, Callable[[Image.Image], Any]] = {
    "convert": lambda image: image.convert("RGB"),
    "upright": lambda image: ImageOps.exif_transpose(image).convert("RGB"),
    "white": lambda image: TO_RGB(image, return_numpy=True),
}


def pixels(image: Any) -> Pixels:
    """Return uint8 [H, W, 3], whatever the type of whole numbers."""
    values = np.asarray(image)
    as_bytes = values.astype(np.uint8)
    assert values.ndim == 3 and np.array_equal(as_bytes, values), (values.shape, values.dtype)
    return as_bytes


def main() -> None:
    """Answer pictures until there are no more."""
    torch.set_num_threads(1)
    cases = json.loads(Path(sys.argv[1]).read_text())
    transforms = [LIBRARIES[case["library"]](case) for case in cases]
    print("ready", flush=True)
    for line in sys.stdin:
        path = Path(line.strip())
        given = {name: load(Image.open(path)) for name, load in LOADERS.items()}
        # ``convert`` leaves the note of a transparent colour, by which CLIP's and BiT's processors
        # lay a picture over white that was meant to be opaque.
        given["convert"].info.pop("transparency", None)
        made = {f"{i}": pixels(each(given["convert"])) for i, each in enumerate(transforms)}
        arrays: dict[str, Any] = made | {name: pixels(image) for name, image in given.items()}
        np.savez(path.with_suffix(".npz"), **arrays)
        print("ok", flush=True)


if __name__ == "__main__":
    main()
