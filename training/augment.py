"""The augment stage: change a whole batch of training images at once, as uint8.

uint8 needs a quarter of the memory of float32, and is the input of the network in serving too.
Legend: N rows, H height, W width, C channels.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Augment:
    """The changes to each batch; the defaults change nothing.

    Attributes:
        shift: Largest shift in each direction, pixels, less than the side of an image.
        flip: Mirror each image left to right with probability 0.5.
        cutout: With probability 0.5, fill a square of this side (pixels, 0 for none) with noise,
            anywhere in the image, cut off at its border.
        border: Pixels that a shift moves in: ``black``, or the image mirrored at its outermost
            pixels (``reflect``).
    """

    shift: int = 0
    flip: bool = False
    cutout: int = 0
    border: Literal["black", "reflect"] = "black"

    def __call__(self, images_NHWC: Tensor, generator: torch.Generator) -> Tensor:
        """Return a changed copy of a batch.

        Args:
            images_NHWC: uint8 [N, H, W, C], 0-255, on any device. Not modified.
            generator: The only source of randomness, of the same device.

        Returns:
            uint8 [N, H, W, C], 0-255.
        """
        if self.shift:
            images_NHWC = _shift(images_NHWC, self.shift, self.border, generator)
        if self.flip:
            draws = torch.rand(len(images_NHWC), generator=generator, device=images_NHWC.device)
            mirrored = draws < 0.5
            images_NHWC = torch.where(
                mirrored[:, None, None, None], images_NHWC.flip(2), images_NHWC
            )
        if self.cutout:
            images_NHWC = _cutout(images_NHWC, self.cutout, generator)
        return images_NHWC


@dataclass(frozen=True, slots=True)
class Blend:
    """A batch blended with itself in another order.

    Attributes:
        images: float32, of the shape of the batch.
        order: int64 [N], the rows that were blended in.
        share: Share of a row's own pixels and target, 0-1.
    """

    images: Tensor
    order: Tensor
    share: float


def mixup(images: Tensor, alpha: float) -> Blend:
    """Blend each row with another one (Zhang et al. 2017).

    Args:
        images: A batch, its rows first; pixels or features. Not modified.
        alpha: Parameter of the Beta distribution that the share is drawn from, more than 0. The
            draws come from torch's own generator.
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(images)).to(images.device)
    values = images.float()
    return Blend(share * values + (1 - share) * values[order], order, share)


def _shift(images_NHWC: Tensor, limit: int, border: str, generator: torch.Generator) -> Tensor:
    """Pad by the limit, then crop each image at its own place."""
    rows, height, width, _ = images_NHWC.shape
    device = images_NHWC.device
    padded = _pad(images_NHWC, limit, border)
    corners = torch.randint(0, 2 * limit + 1, (2, rows, 1), generator=generator, device=device)
    y_NH = corners[0] + torch.arange(height, device=device)
    x_NW = corners[1] + torch.arange(width, device=device)
    rows_N = torch.arange(rows, device=device)
    return padded[rows_N[:, None, None], y_NH[:, :, None], x_NW[:, None, :]]


def _pad(images_NHWC: Tensor, limit: int, border: str) -> Tensor:
    """Pad on all four sides; the mirror by index, which every device supports for uint8."""
    if border == "black":
        return functional.pad(images_NHWC, (0, 0, limit, limit, limit, limit))
    _, height, width, _ = images_NHWC.shape
    device = images_NHWC.device
    y_H = _reflect(torch.arange(-limit, height + limit, device=device), height)
    x_W = _reflect(torch.arange(-limit, width + limit, device=device), width)
    return images_NHWC[:, y_H][:, :, x_W]


def _reflect(places: Tensor, size: int) -> Tensor:
    """Mirror positions of -size < position < 2 * size - 1 into 0 <= position < size."""
    last = size - 1
    return last - (last - places.abs()).abs()


def _cutout(images_NHWC: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Fill one square of half of the images with noise (DeVries & Taylor 2017, Zhong et al. 2017).

    Noise, not black: black is the background of the grey datasets.
    """
    rows, height, width, channels = images_NHWC.shape
    place: Any = {"generator": generator, "device": images_NHWC.device}
    y_N = torch.randint(1 - side // 2, height - side // 2, (rows, 1), **place)
    x_N = torch.randint(1 - side // 2, width - side // 2, (rows, 1), **place)
    offset_NH = torch.arange(height, device=images_NHWC.device) - y_N
    offset_NW = torch.arange(width, device=images_NHWC.device) - x_N
    inside_NH = (offset_NH >= 0) & (offset_NH < side)
    inside_NW = (offset_NW >= 0) & (offset_NW < side)
    chosen_N = torch.rand(rows, **place) < 0.5
    mask_NHW = inside_NH[:, :, None] & inside_NW[:, None, :] & chosen_N[:, None, None]
    noise = torch.randint(0, 256, (rows, height, width, channels), dtype=torch.uint8, **place)
    return torch.where(mask_NHW[..., None], noise, images_NHWC)
