"""First stages: the map between pixels and the latents in which diffusion works."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class PatchPCA(nn.Module):
    """Principal components of square pixel patches, whitened wholly or in part.

    A linear autoencoder with closed-form weights: each ``patch × patch`` block of pixels becomes one
    latent position with `components` channels, whose mean square deviation over the data it was fitted on is 1.

    Parameters
    ----------
    patch
        Side of a patch in pixels.
    components
        Channels of the latent.
    whitening
        In [0, 1]: 1 gives all components the same deviation, 0 leaves them in proportion to their pixels, and what
        lies between is geometric. Large components are then decided at higher noise levels than small ones.
    """

    def __init__(self, patch: int, components: int, whitening: float = 1.0) -> None:
        super().__init__()
        self.whitening = whitening
        self.patch, self.factor, self.channels = patch, patch, components
        values = 3 * patch * patch
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("basis", torch.zeros(components, values))
        self.register_buffer("scale", torch.ones(components))
        self.register_buffer("unit", torch.ones(components))
        self.register_buffer("explained", torch.zeros(()))

    def fit(self, images: Tensor) -> float:
        """Fit to images, float (batch, 3, height, width) in [−1, 1]; return the explained variance in [0, 1]."""
        patches = functional.pixel_unshuffle(images, self.patch).permute(0, 2, 3, 1).flatten(0, 2).double()
        mean = patches.mean(0)
        centred = (patches - mean).numpy()
        values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
        order = np.argsort(values)[::-1][: self.channels]
        basis = vectors[:, order].T
        # An eigenvector's sign is arbitrary: the largest entry decides it.
        basis *= np.sign(np.take_along_axis(basis, np.abs(basis).argmax(1, keepdims=True), 1))
        self.mean.copy_(mean)
        self.basis.copy_(torch.from_numpy(basis.copy()))
        self.scale.copy_(torch.from_numpy(np.sqrt(np.maximum(values[order], 1e-8))))
        deviation = self.scale ** (1 - self.whitening)
        self.unit.copy_(self.scale / (deviation / deviation.square().mean().sqrt()))
        self.explained.fill_(float(values[order].sum() / values.sum()))
        return float(self.explained)

    def encode(self, images: Tensor) -> Tensor:
        """Map images, float (batch, 3, h, w) in [−1, 1], to latents (batch, components, h/patch, w/patch)."""
        patches = functional.pixel_unshuffle(images, self.patch) - self.mean[:, None, None]
        return torch.einsum("cv,bvhw->bchw", self.basis / self.unit[:, None], patches)

    def decode(self, latents: Tensor) -> Tensor:
        """Map latents back to images; the inverse of :meth:`encode` within the span of the components."""
        patches = torch.einsum("cv,bchw->bvhw", self.basis * self.unit[:, None], latents)
        return functional.pixel_shuffle(patches + self.mean[:, None, None], self.patch)
