"""Style: an encoder of one style image, and the network around encoder and aggregation (paper, section 3)."""

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


def colour_moments(images: Tensor) -> Tensor:
    """Return the colour statistics of sets of images: means, deviations and covariances of RGB over all pixels.

    Parameters
    ----------
    images
        float (batch, count, 3, side, side) in [−1, 1].

    Returns
    -------
    Tensor
        (batch, 9), each of the order of 1.
    """
    pixels = images.transpose(1, 2).flatten(2)
    mean = pixels.mean(2)
    centred = pixels - mean[:, :, None]
    covariance = torch.einsum("bin,bjn->bij", centred, centred) / pixels.shape[2]
    mixed = covariance[:, [0, 0, 1], [1, 2, 2]]
    return torch.cat([2 * mean, 2 * centred.std(2), 8 * mixed], 1)


class StyleNet(nn.Module):
    """Style images to one style vector, with a learned vector for no style.

    Parameters
    ----------
    encoder
        Images (batch, 3, side, side) to vectors (batch, `width`); None where the aggregation takes images.
    width, dim
        Length of the encoder's vectors, and of the style vector; a linear layer maps where they differ.
    aggregation
        Vectors (batch, count, dim), or images (batch, count, 3, side, side), to (batch, dim).
    frozen
        The encoder does not learn: no gradients, and always in evaluation mode.
    moments
        Add a linear map of the set's :func:`colour_moments`, a short way that is learned long before the encoder.
    """

    def __init__(
        self,
        encoder: nn.Module | None,
        aggregation: nn.Module,
        *,
        width: int,
        dim: int,
        frozen: bool = False,
        moments: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = nn.Identity() if width == dim else nn.Linear(width, dim)
        self.aggregation = aggregation
        self.null = nn.Parameter(torch.zeros(dim))
        self.moments = nn.Linear(9, dim) if moments else None
        self.frozen = frozen
        if frozen:
            self.encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> StyleNet:
        """Switch between training and evaluation, which a frozen encoder does not leave."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map style images, float (batch, count, 3, side, side) in [−1, 1], to vectors (batch, dim)."""
        vector = self.aggregation(images if self.encoder is None else self._encoded(images))
        return vector if self.moments is None else vector + self.moments(colour_moments(images))

    def _encoded(self, images: Tensor) -> Tensor:
        vectors = self.projection(self.encoder(images.flatten(0, 1)))
        return vectors.unflatten(0, images.shape[:2])

    def with_null(self, vectors: Tensor, has_style: Tensor) -> Tensor:
        """Put the null vector where `has_style`, bool (batch,), is False."""
        return torch.where(has_style[:, None], vectors, self.null)
