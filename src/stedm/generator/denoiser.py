"""The denoiser: preconditioning, loss and guidance around a network, after EDM (Karras 2022, arXiv 2206.00364)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Network = Callable[[Tensor, Tensor], Tensor]
"""F(scaled noisy latent, noise embedding), conditions bound."""
Denoise = Callable[[Tensor, Tensor], Tensor]
"""D(noisy latent (batch, …), σ (batch,)) → estimate of the clean latent."""

SIGMA_DATA = 1.0
"""Standard deviation of the latents, which the first stage whitens."""
SIGMA_MIN, SIGMA_MAX = 0.02, 80.0
"""Range of noise levels when sampling. The colour of a patient is one value over all positions of a tile, several
standard deviations from another's: it must drown at the highest level, or sampling would start from noise where
training saw a colour."""
NOISE_MEAN, NOISE_STD = -0.1, 1.3
"""Normal distribution of ln σ in training."""
HIGH_SHARE, HIGH = 0.2, (2.0, 100.0)
"""Share of the training noise levels drawn log-uniformly from the high ones, where style decides the colour."""


def precondition(network: Network, x: Tensor, sigma: Tensor) -> Tensor:
    """Return the denoiser's estimate D(x; σ) (EDM, equation 7 and table 1).

    Parameters
    ----------
    network
        F with its conditions bound.
    x
        Noisy latent, (batch, channels, h, w).
    sigma
        Noise level, (batch,).
    """
    s = sigma[:, None, None, None]
    total = (s**2 + SIGMA_DATA**2).sqrt()
    c_skip = SIGMA_DATA**2 / total**2
    c_out = s * SIGMA_DATA / total
    return c_skip * x + c_out * network(x / total, sigma.log() / 4)


def edm_loss(network: Network, clean: Tensor, sigma: Tensor, noise: Tensor, components: Tensor | None = None) -> Tensor:
    """Return the weighted denoising loss (EDM, equation 8, with λ(σ) of table 1).

    Parameters
    ----------
    network
        F with its conditions bound.
    clean
        Clean latent, (batch, channels, h, w).
    sigma
        Noise levels, (batch,).
    noise
        Standard normal, as `clean`.
    components
        Weights of the channels, (channels,), of mean 1; by default all alike.
    """
    s = sigma[:, None, None, None]
    weight = (s**2 + SIGMA_DATA**2) / (s * SIGMA_DATA) ** 2
    estimate = precondition(network, clean + s * noise, sigma)
    error = (estimate - clean) ** 2
    if components is not None:
        error = error * components[:, None, None]
    return (weight * error).mean()


def draw_sigma(batch: int, generator: torch.Generator) -> Tensor:
    """Draw training noise levels, (batch,): log-normal, and a share of high ones."""
    usual = (NOISE_MEAN + NOISE_STD * torch.randn(batch, generator=generator)).exp()
    low, high = HIGH
    raised = low * (high / low) ** torch.rand(batch, generator=generator)
    return torch.where(torch.rand(batch, generator=generator) < HIGH_SHARE, raised, usual)


def guided(conditional: Denoise, unconditional: Denoise, scale: float) -> Denoise:
    """Extrapolate from the estimate without to the one with the condition (Ho 2022, arXiv 2207.12598)."""
    if scale == 1:
        return conditional

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        base = unconditional(x, sigma)
        return base + scale * (conditional(x, sigma) - base)

    return denoise


class Denoiser(nn.Module):
    """A U-Net with its preconditioning; conditions are given at each call."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def bind(self, style: Tensor, layout: Tensor, has_layout: Tensor) -> Network:
        """Return the network with its conditions bound."""
        return lambda x, noise: self.unet(x, noise, style, layout, has_layout)

    def forward(self, x: Tensor, sigma: Tensor, style: Tensor, layout: Tensor, has_layout: Tensor) -> Tensor:
        """Return the estimate of the clean latent; see :func:`precondition` and ``UNet.forward``."""
        return precondition(self.bind(style, layout, has_layout), x, sigma)
