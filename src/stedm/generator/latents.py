"""First stages behind one interface, and the simplest of them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

PIXEL_SCALE = 0.5
"""Standard deviation of images in [−1, 1], as EDM takes it (arXiv 2206.00364, table 1)."""


class FirstStage(Protocol):
    """A map between pixels and the latents in which diffusion works."""

    channels: int
    """Channels of a latent."""
    factor: int
    """Side of a latent position in pixels."""
    scale: Tensor
    """Deviation of each latent channel in the first stage's own units, which says how much it counts, (channels,)."""

    def fit(self, images: Tensor) -> float:
        """Fit what depends on the data; return the share of the variance of `images` that a round trip keeps."""

    def encode(self, images: Tensor) -> Tensor:
        """Map images, float (batch, 3, h, w) in [−1, 1], to latents (batch, channels, h / factor, w / factor)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Map latents to images."""


@torch.no_grad()
def kept_variance(stage: FirstStage, images: Tensor) -> float:
    """Return the share of the variance of images that encoding and decoding keep, at most 1.

    Images, float (batch, 3, h, w), go through one by one: a deep first stage needs much memory for each.
    """
    lost = sum(float((stage.decode(stage.encode(image)) - image).pow(2).sum()) for image in images.split(1))
    return 1 - lost / float((images - images.mean((0, 2, 3), keepdim=True)).pow(2).sum())


class Pixels(nn.Module):
    """No autoencoder: the pixels of a square are the channels of a latent position (pixel unshuffle).

    Parameters
    ----------
    factor
        Side of the square.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor, self.channels = factor, 3 * factor**2
        self.register_buffer("scale", torch.full((self.channels,), PIXEL_SCALE), persistent=False)

    def fit(self, images: Tensor) -> float:
        """Return the share of the variance kept: all of it."""
        return kept_variance(self, images)

    def encode(self, images: Tensor) -> Tensor:
        """See :meth:`FirstStage.encode`."""
        return functional.pixel_unshuffle(images, self.factor) / PIXEL_SCALE

    def decode(self, latents: Tensor) -> Tensor:
        """See :meth:`FirstStage.decode`."""
        return functional.pixel_shuffle(latents * PIXEL_SCALE, self.factor)
