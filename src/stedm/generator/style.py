"""Style: an encoder of one style image, and the aggregation of a set of their vectors (paper, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvEncoder(nn.Module):
    """A light convolutional encoder of one style image.

    Parameters
    ----------
    channels
        Widths; each layer halves the image.
    dim
        Length of the vector.
    """

    def __init__(self, channels: list[int], dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width in zip([3, *channels[:-1]], channels, strict=True):
            layers += [
                nn.Conv2d(width_in, width, 3, stride=2, padding=1),
                nn.GroupNorm(1, width),
                nn.SiLU(),
            ]
        self.body = nn.Sequential(*layers)
        # Group norm removes the mean colour, which is half of a style: it enters beside the features.
        self.head = nn.Linear(2 * channels[-1] + 6, dim)

    def forward(self, images: Tensor) -> Tensor:
        """Map images, float (batch, 3, side, side) in [−1, 1], to vectors (batch, dim)."""
        features = self.body(images)
        spread = images.flatten(2).std(2)
        mean = images.mean((2, 3))
        return self.head(torch.cat([features.mean((2, 3)), features.amax((2, 3)), mean, spread], 1))


class MeanAggregation(nn.Module):
    """The mean over the set, normalised and mapped; any set size, any order."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.map = nn.Linear(dim, dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (batch, count, dim) to (batch, dim)."""
        return self.map(self.norm(vectors.mean(1)))


class StyleNet(nn.Module):
    """Style images to one style vector, with a learned vector for no style.

    Parameters
    ----------
    channels, dim
        See :class:`ConvEncoder`.
    """

    def __init__(self, channels: list[int], dim: int) -> None:
        super().__init__()
        self.encoder = ConvEncoder(channels, dim)
        self.aggregation = MeanAggregation(dim)
        self.null = nn.Parameter(torch.zeros(dim))

    def forward(self, images: Tensor) -> Tensor:
        """Map style images, float (batch, count, 3, side, side) in [−1, 1], to vectors (batch, dim)."""
        batch, count = images.shape[:2]
        return self.aggregation(self.encoder(images.flatten(0, 1)).view(batch, count, -1))

    def with_null(self, vectors: Tensor, has_style: Tensor) -> Tensor:
        """Put the null vector where `has_style`, bool (batch,), is False."""
        return torch.where(has_style[:, None], vectors, self.null)
