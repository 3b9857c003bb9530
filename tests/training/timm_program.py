"""Fine-tunes networks of timm in a folder and prints what came out, as JSON.

A program of its own: timm and torchvision are not in the environment of the tests.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from models.image import decode
from models.repository import ModelRepository
from training.errors import ConfigError
from training.initial import untrained
from training.parts import split
from training.pipeline import export, load_data, train
from training.pretrained import load_timm, own_image
from training.recipes import resolve

NETWORK = "test_convnext"


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    photos = write_photos(folder / "photos")
    torch.manual_seed(7)
    network = timm.create_model(NETWORK, num_classes=9)
    file = folder / "weights.safetensors"
    save_file(network.state_dict(), file)
    beside = folder / "hub"
    beside.mkdir()
    save_file(network.state_dict(), beside / "model.safetensors")
    own = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "input_size": [3, 64, 64]}
    own |= {"crop_pct": 1.0, "interpolation": "bilinear", "crop_mode": "squash"}
    (beside / "config.json").write_text(
        json.dumps({"architecture": NETWORK, "pretrained_cfg": own})
    )
    options: dict[str, Any] = {"weights": file, "epochs": 1, "least_steps": 0, "size": "64"}
    config = resolve(f"folder:{photos}", f"timm:{NETWORK}", folder / "run", **options)
    dataset = load_data(config)
    begun = split(untrained(config, dataset).network)[0].state_dict()
    run = train(dataclasses.replace(config, freeze="stages.0", first_lr=0.1))
    artifact = export(run, "birds", ModelRepository(folder / "models"), embedding=True)
    result = {
        "artifact": json.loads(artifact.to_json()),
        "loaded": all(torch.equal(value, network.state_dict()[n]) for n, value in begun.items()),
        "own pixels": largest_difference(config, photos, {}),
        "folder's pixels": largest_difference(
            dataclasses.replace(config, weights=beside, size=None), photos, own
        ),
        "grey": list(next(load_timm(f"timm:{NETWORK}", file, (64, 64, 1)).parameters()).shape),
        "errors": list(errors(config, folder)),
    }
    print(json.dumps(result))


def write_photos(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    for label in ("finch", "heron", "owl"):
        (folder / label).mkdir(parents=True)
        for number, size in enumerate(((90, 70), (64, 64), (100, 151), (70, 65), (333, 200))):
            noise = generator.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
            Image.fromarray(noise).resize(size).save(folder / label / f"{number}.jpg")
    return folder


def largest_difference(config: Any, photos: Path, own: dict[str, Any]) -> int:
    """Compare the contract's pixels with those of timm's own transform, on the same decoder."""
    spec = own_image(config)
    assert spec is not None
    data = {"input_size": (3, spec.height, spec.width), **own}
    cfg = timm.get_pretrained_cfg(NETWORK).to_dict() | data
    steps = create_transform(**resolve_data_config(pretrained_cfg=cfg)).transforms[:-2]
    largest = 0
    for path in sorted(photos.rglob("*.jpg")):
        whole = dataclasses.replace(spec, resize=None, height=0, width=0)
        with Image.open(path) as opened:
            size = opened.size
        whole = dataclasses.replace(whole, width=size[0], height=size[1], scaled_decoding=False)
        picture = Image.fromarray(decode(path.read_bytes(), whole))
        for step in steps:
            picture = step(picture)
        got = decode(path.read_bytes(), dataclasses.replace(spec, scaled_decoding=False))
        largest = max(largest, int(np.abs(np.asarray(picture).astype(int) - got).max()))
    return largest


def errors(config: Any, folder: Path) -> Any:
    other = folder / "other.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), other)
    hub = folder / "other-hub"
    hub.mkdir()
    (hub / "config.json").write_text(json.dumps({"architecture": "test_vit"}))
    empty = folder / "empty"
    empty.mkdir()
    for change in (
        {"weights": other},
        {"weights": hub},
        {"weights": empty},
        {"weights": folder / "nothing.safetensors"},
        {"weights": None},
        {"network": "timm:test_convnexd"},
    ):
        changed = dataclasses.replace(config, **change)
        try:
            untrained(changed, load_data(changed))
        except ConfigError as error:
            yield str(error)
        else:
            yield f"no error for {change}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
