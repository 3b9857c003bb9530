"""The photograph cases: timm's networks at 224, adopted, and JPEGs of two sizes, made by code.

The graphs have random weights, which cost what trained ones cost, and are adopted once, into the
folder of the peers' environments; every server of a run loads the same ONNX file. A JPEG is made of
noise at every scale, as natural pictures have it, so its data is about as long as a photograph's.
"""

import dataclasses
import functools
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from loadtest.bench.servers import HERE, Peer, environment, peers_folder
from models.artifact import ModelArtifact
from models.repository import ModelRepository

NETWORKS = ("resnet50", "mobilenetv3", "vit_tiny")
# Name of a photograph, and its height, width and grain.
PHOTOGRAPHS = {"640x427": (427, 640, 16.0), "12 megapixels": (3000, 4000, 5.0)}
# What torch.export needs, and the packages whose networks and transforms are adopted.
_TIMM = Peer("timm", ("torch", "torchvision", "timm", "onnx", "onnxscript"), "", "")
# Networks whose int8 file passes its gate with random weights, and the images that it takes.
_INT8 = frozenset({"resnet50"})
_PROOFS, _GATE_PROOFS = 8, 100


def adopted(network: str, say: Callable[[str], None]) -> Path:
    """Return a repository that holds one of ``NETWORKS``; it is adopted first if it is not there.

    Args:
        network: Name of the network, and of the model.
        say: Called with a line before what takes minutes.

    Raises:
        subprocess.CalledProcessError: The adoption failed; its message is on standard error.
    """
    folder = peers_folder() / "photo-models" / network
    if (folder / network).exists():
        return folder
    say(f"adopting {network}")
    folder.mkdir(parents=True, exist_ok=True)
    source = f"{HERE / 'peer_servers/timm_networks.py'}:{network}"
    words = ["adopt", source, "--python", str(environment(_TIMM) / "python"), "--name", network]
    with tempfile.TemporaryDirectory() as images:
        for i in range(_GATE_PROOFS if network in _INT8 else _PROOFS):
            Path(images, f"{i}.jpg").write_bytes(photograph(427, 640, seed=i))
        words += ["--images", images, "--models", str(folder)]
        words += ["--precision", "fp32,int8"] if network in _INT8 else []
        program = str(HERE.parents[1] / "foveal.py")
        subprocess.run([sys.executable, program, *words], check=True, stdout=subprocess.DEVNULL)
    return folder


def is_large(size: str) -> bool:
    """Return whether scaled decoding has an effect on one of ``PHOTOGRAPHS``."""
    return min(PHOTOGRAPHS[size][:2]) >= 2 * 2 * 256


def scaled(models: Path, artifact: ModelArtifact) -> Path:
    """Return a repository whose only version decodes large JPEGs at a scale, else is the same."""
    copy = ModelRepository(models.with_name(f"{models.name}-scaled"))
    if (copy.root / artifact.name).exists():
        return copy.root

    def build(folder: Path, version: int) -> ModelArtifact:
        source = ModelRepository(models).path(artifact.name, artifact.version)
        shutil.copytree(source, folder, dirs_exist_ok=True)
        image = dataclasses.replace(artifact.image, scaled_decoding=True)
        return dataclasses.replace(artifact, version=version, image=image)

    copy.publish(artifact.name, build)
    return copy.root


@functools.cache
def photograph(height: int, width: int, grain: float = 16.0, seed: int = 0) -> bytes:
    """Return a JPEG whose data is as long as a photograph's.

    Args:
        height: Pixels.
        width: Pixels.
        grain: Standard deviation of a sensor's noise: at 640 x 427 pixels 16 makes 190 KB, at 12
            megapixels 5 makes 4.3 MB.
        seed: Of all noise.
    """
    numbers = np.random.default_rng(seed)
    scene = 128 + grain * numbers.standard_normal((height, width, 3), dtype=np.float32)
    cell, amplitude = max(height, width) // 3, 48.0
    while cell:
        # Smooth noise in cells of one size; the amplitude falls with it, as in natural pictures.
        cells = numbers.uniform(-1, 1, (height // cell + 2, width // cell + 2)).astype(np.float32)
        layer = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
        scene += np.asarray(layer)[:, :, None] * amplitude
        cell, amplitude = cell // 3, amplitude * 0.66
    content = io.BytesIO()
    Image.fromarray(scene.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=95)
    return content.getvalue()
