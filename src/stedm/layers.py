"""Layers that several networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stedm.team import part_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the training images of ImageNet in [0, 1], by which published backbones expect their input normalised."""


class ImageNetNorm(nn.Module):
    """Normalisation of images as networks with ImageNet weights expect them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images, float (batch, 3, h, w) in [0, 1], to channels of about mean 0 and deviation 1."""
        return (images - self.mean) / self.std


class Grow(nn.Module):
    """Double the side by repetition and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, h, w) to (batch, width, 2 h, 2 w)."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class StochasticDepth(nn.Module):
    """Drops a residual branch of some samples in training, and of none in evaluation (arXiv 1603.09382).

    Parameters
    ----------
    rate
        Share of the samples whose branch is dropped; the others are raised so that the mean stays.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.part = rate, (0, 1)

    def forward(self, branch: Tensor) -> Tensor:
        """Map a branch, (batch, …), to the same shape."""
        if not self.training or self.rate == 0:
            return branch
        # Drawn for the whole batch, of which another process may hold the rest.
        samples = len(branch) * self.part[1]
        kept = torch.empty(samples, *[1] * (branch.ndim - 1), device=branch.device, dtype=branch.dtype)
        kept = kept.bernoulli_(1 - self.rate)[part_of(samples, self.part)]
        return branch * kept / (1 - self.rate)
