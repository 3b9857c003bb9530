"""Features of a frozen body: computed once, then only the head is trained on them.

They lie in the user's cache, by a checksum of the weights and the pixels: a second run on the same
images, with another head or other options, does not compute them again.
Legend: N rows, H height, W width, C channels, D width of the embedding.
"""

import hashlib
import logging
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pooch
import torch
from numpy.typing import NDArray

from models.files import replacing
from training.config import TrainConfig
from training.datasets.splits import Split
from training.networks import ImageNetwork
from training.parts import split as split_network

_LOG = logging.getLogger(__name__)

# Rows that are run at once: 64 photographs of 224 x 224 are 40 MB of float32.
_ROWS = 64
_MAGIC = b"foveal features 1"


def are_cached(config: TrainConfig) -> bool:
    """Return whether the features of an image are the same in every epoch of a run."""
    return config.freeze == "body" and not (config.shift or config.flip or config.cutout)


def features_of(network: ImageNetwork, split: Split) -> Split:
    """Return the embeddings of a split in place of its images.

    Args:
        network: In evaluation mode.
        split: N rows.

    Returns:
        Its ``images_NHWC`` are float32 [N, D]; the targets are those of ``split``.
    """
    path = _place(_checksum(network, split))
    features_ND = _read(path, len(split))
    if features_ND is None:
        started_s = time.monotonic()
        features_ND = _compute(network, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.save(cast(Any, file), features_ND, allow_pickle=False)
        _LOG.info(
            "features of %d images in %.1f s, kept in %s",
            len(split),
            time.monotonic() - started_s,
            path,
        )
    return Split(cast(Any, features_ND), split.targets_N)


def _compute(network: ImageNetwork, split: Split) -> NDArray[np.float32]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device).eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(split), _ROWS):
            images_NHWC = torch.from_numpy(split.images_NHWC[start : start + _ROWS])
            parts.append(network.embed(images_NHWC.to(device)).float().cpu())
    network.to("cpu")
    features_ND: NDArray[np.float32] = torch.cat(parts).numpy()
    return features_ND


def _checksum(network: ImageNetwork, split: Split) -> str:
    """Hash what the features depend on: layers, weights, and the pixels in their order."""
    digest = hashlib.sha256(_MAGIC)
    digest.update(torch.__version__.encode())
    body, _ = split_network(network.network)
    for value in (network.scale_C, network.offset_C, *body.state_dict().values()):
        digest.update(str(list(value.shape)).encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    digest.update(str(body).encode())
    digest.update(str(split.images_NHWC.shape).encode())
    for start in range(0, len(split), _ROWS):
        digest.update(np.ascontiguousarray(split.images_NHWC[start : start + _ROWS]).data)
    return digest.hexdigest()


def _place(checksum: str) -> Path:
    return Path(pooch.os_cache("foveal")) / "features" / f"{checksum}.npy"


def _read(path: Path, rows: int) -> NDArray[np.float32] | None:
    """Read what an earlier run has computed; None: nothing, or a damaged file."""
    try:
        features_ND = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    is_whole = features_ND.dtype == np.float32 and features_ND.shape[:1] == (rows,)
    return features_ND if is_whole and features_ND.ndim == 2 else None
