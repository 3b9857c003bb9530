"""Features of small pictures: how much of them looks like patches of the pictures themselves.

Nothing is trained: filters are random patches, whitened; their responses are thresholded and
averaged over nine parts of the picture; the picture itself, very small, is added. Coates, Ng and
Lee 2011, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", and Coates and
Ng 2011, "The Importance of Encoding Versus Training with Sparse Coding and Vector Quantization",
which found random patches as good as learned ones.
Legend: N rows, S side of the pictures, C channels, F filters, D features.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

# Filters: a share of the rows, within these; more of them than rows only cost time.
_FILTER_SHARE, _FEWEST, _FILTERS = 1 / 32, 16, 128
# Side of a patch; like the threshold, the second paper's, for images of 32 x 32.
_PATCH = 6
# Pixels between patches: half of the cost is in what is computed of each, and neighbours are alike.
_STEP = 2
_THRESHOLD = 0.25
# Added to the variance of a patch, whose pixels are 0-255, and to that of whitened directions.
_CONTRAST = 10.0
_WHITENING = 0.1
# Patches that the whitening is computed from.
_PATCHES = 20_000
# Parts of a side that responses are averaged in.
_PARTS = 3
# Side of the coarse picture among the features.
_COARSE = 8


class PatchFeatures:
    """Computes the features of pictures.

    Args:
        small_NSSC: uint8 [N, S, S, C], the pictures that patches are drawn from.
        seed: Chooses the patches.
    """

    def __init__(self, small_NSSC: NDArray[np.uint8], seed: int = 0):
        side, channels = small_NSSC.shape[1], small_NSSC.shape[3]
        filters = int(np.clip(len(small_NSSC) * _FILTER_SHARE, _FEWEST, _FILTERS))
        self._patch = min(_PATCH, max(1, side // 3))
        self._step = min(_STEP, max(1, side // 8))
        generator = np.random.default_rng(seed)
        rows = generator.integers(0, len(small_NSSC), _PATCHES)
        tops, lefts = generator.integers(0, side - self._patch + 1, (2, _PATCHES))
        steps = np.arange(self._patch)
        patches = small_NSSC[
            rows[:, None, None],
            (tops[:, None] + steps)[:, :, None],
            (lefts[:, None] + steps)[:, None, :],
        ]
        # Channels first, as in the convolution.
        values = patches.transpose(0, 3, 1, 2).reshape(_PATCHES, -1).astype(np.float64)
        values -= values.mean(axis=1, keepdims=True)
        values /= np.sqrt(values.var(axis=1, keepdims=True) + _CONTRAST)
        mean = values.mean(axis=0)
        variances, directions = np.linalg.eigh(np.cov(values.T).reshape(len(mean), len(mean)))
        whitening = directions / np.sqrt(variances + _WHITENING) @ directions.T
        # Flat patches have no direction: those that have one come first.
        order = np.argsort((values**2).sum(axis=1) < 1, kind="stable")
        chosen = (values[order[:filters]] - mean) @ whitening
        chosen /= np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-6)
        kernels = chosen @ whitening
        self._offset_F = torch.from_numpy(kernels @ mean).float().reshape(-1, 1, 1)
        # Without their mean: so they take that of a patch away.
        kernels -= kernels.mean(axis=1, keepdims=True)
        shape = (-1, channels, self._patch, self._patch)
        self._kernels = torch.from_numpy(kernels).float().reshape(shape)

    def __call__(self, small_nSSC: NDArray[np.uint8]) -> Tensor:
        """Compute float32 [n, D] of pictures, uint8 [n, S, S, C]."""
        with torch.inference_mode():
            images = torch.from_numpy(small_nSSC).permute(0, 3, 1, 2).float()
            mean = functional.avg_pool2d(images.mean(1, keepdim=True), self._patch, self._step)
            square = (images**2).mean(1, keepdim=True)
            square = functional.avg_pool2d(square, self._patch, self._step)
            scale = (square - mean**2).clamp_(min=0).add_(_CONTRAST).rsqrt_()
            responses = functional.conv2d(images, self._kernels, stride=self._step)
            responses.mul_(scale).sub_(self._offset_F)
            pooled = [
                functional.adaptive_avg_pool2d(each.sub_(_THRESHOLD).relu_(), _PARTS)
                for each in (-responses, responses)
            ]
            # Patches are normalised: brightness and colour are only in the picture itself.
            coarse = functional.adaptive_avg_pool2d(images, min(_COARSE, images.shape[2]))
            return torch.cat([each.flatten(1) for each in (*pooled, coarse)], dim=1)
