"""The denoiser: one interface over the ways to parametrise it, and its loss.

Everything works on x = clean + σ · noise, whatever the parametrisation was published for. A network F becomes
an estimate of the clean latent by D(x; σ) = skip · x + out · F(inside · x, noise level), and is trained so that
F comes near the value that makes D exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]
"""F(scaled noisy latent (batch, channels, h, w), noise level (batch,)), conditions bound."""
Denoise = Callable[[Tensor, Tensor], Tensor]
"""D(noisy latent (batch, channels, h, w), σ (batch,)) → estimate of the clean latent."""


@dataclass(frozen=True)
class Scaling:
    """The factors around a network at some noise levels; each (batch, channels or 1, 1, 1)."""

    skip: Tensor
    out: Tensor
    inside: Tensor
    noise: Tensor
    """The noise level as the network takes it, (batch,)."""


class Parametrisation(Protocol):
    """What is particular to a way of diffusion."""

    power: int
    """The loss is the mean of |error| to this power."""

    def scaling(self, sigma: Tensor, deviation: Tensor) -> Scaling:
        """Return the factors at noise levels (batch,), for latents with this standard deviation a channel."""

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw the noise levels of a training batch, float32 (batch,)."""

    def sigmas(self, steps: int) -> Tensor:
        """Return the falling noise levels of a sampler, float32 (steps + 1,), the last one 0."""


class EDM:
    """EDM (Karras 2022, arXiv 2206.00364, table 1), with σ_data a channel."""

    power = 2
    SIGMA_MIN, SIGMA_MAX, RHO = 0.02, 80.0, 7.0
    """Range of noise levels when sampling. The colour of a patient is one value over all positions of a tile,
    several standard deviations from another's: it must drown at the highest level, or sampling would start from
    noise where training saw a colour."""
    MEAN, STD = -0.2, 1.3
    """Normal distribution of ln σ in training."""
    HIGH_SHARE, HIGH = 0.12, (2.0, 100.0)
    """Share of the training noise levels drawn log-uniformly from high ones, where style decides the colour."""

    def scaling(self, sigma: Tensor, deviation: Tensor) -> Scaling:
        """See :meth:`Parametrisation.scaling`."""
        s, d = sigma[:, None, None, None], deviation[:, None, None]
        total = (s**2 + d**2).sqrt()
        return Scaling(d**2 / total**2, s * d / total, 1 / total, sigma.log() / 4)

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """See :meth:`Parametrisation.draw`."""
        usual = (self.MEAN + self.STD * torch.randn(batch, generator=generator)).exp()
        low, high = self.HIGH
        raised = low * (high / low) ** torch.rand(batch, generator=generator)
        return torch.where(torch.rand(batch, generator=generator) < self.HIGH_SHARE, raised, usual)

    def sigmas(self, steps: int) -> Tensor:
        """See :meth:`Parametrisation.sigmas` (equation 5)."""
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        high, low = self.SIGMA_MAX ** (1 / self.RHO), self.SIGMA_MIN ** (1 / self.RHO)
        return _ended((high + ramp * (low - high)) ** self.RHO)


class Flow:
    """Linear flow matching (Lipman 2023, arXiv 2210.02747) with t = σ / (1 + σ); F is the velocity noise − clean.

    Training times are logit-normal (Esser 2024, arXiv 2403.03206, equation 19), sampling times even.
    """

    power = 2
    MEAN, STD = 0.0, 1.0
    T_MIN, T_MAX = 0.02, 0.9876
    """Range of times when sampling; the highest is σ = 80."""

    def scaling(self, sigma: Tensor, deviation: Tensor) -> Scaling:
        """See :meth:`Parametrisation.scaling`."""
        s = sigma[:, None, None, None]
        return Scaling(1 / (1 + s), -s / (1 + s), 1 / (1 + s), sigma.log() / 4)

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """See :meth:`Parametrisation.draw`."""
        return (self.MEAN + self.STD * torch.randn(batch, generator=generator)).exp()

    def sigmas(self, steps: int) -> Tensor:
        """See :meth:`Parametrisation.sigmas`."""
        t = torch.linspace(self.T_MAX, self.T_MIN, steps, dtype=torch.float64)
        return _ended(t / (1 - t))


class Epsilon:
    """ε-prediction with an absolute error (paper's recipe), on the schedule of latent diffusion.

    1,000 timesteps with √β linear from √0.0015 to √0.0205 (Rombach 2022, arXiv 2112.10752, as released under
    the name `linear`); the variance-preserving x_t is x / √(1 + σ²).
    """

    power = 1
    STEPS, BETAS = 1000, (0.0015, 0.0205)

    def __init__(self) -> None:
        first, last = (math.sqrt(beta) for beta in self.BETAS)
        betas = torch.linspace(first, last, self.STEPS, dtype=torch.float64) ** 2
        kept = (1 - betas).cumprod(0)
        self.table = ((1 - kept) / kept).sqrt()
        """σ of each timestep, rising, float64 (1000,)."""

    def scaling(self, sigma: Tensor, deviation: Tensor) -> Scaling:
        """See :meth:`Parametrisation.scaling`."""
        s = sigma[:, None, None, None]
        return Scaling(torch.ones_like(s), -s, 1 / (1 + s**2).sqrt(), self.timestep(sigma))

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return the timestep of noise levels, float32 in [0, 999], between table entries by ln σ."""
        logs, wanted = self.table.log(), sigma.double().log().cpu()
        above = torch.searchsorted(logs, wanted).clamp(1, self.STEPS - 1)
        share = (wanted - logs[above - 1]) / (logs[above] - logs[above - 1])
        return (above - 1 + share.clamp(0, 1)).float().to(sigma.device)

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """See :meth:`Parametrisation.draw`."""
        return self.table[torch.randint(self.STEPS, (batch,), generator=generator)].float()

    def sigmas(self, steps: int) -> Tensor:
        """See :meth:`Parametrisation.sigmas`: even timesteps, as DDIM takes them."""
        return _ended(self.table[torch.linspace(self.STEPS - 1, 0, steps).round().long()])


def _ended(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


PARAMETRISATIONS: dict[str, Parametrisation] = {"edm": EDM(), "flow": Flow(), "epsilon": Epsilon()}
"""By their names in the configuration (`generator.diffusion`)."""


def estimate(way: Parametrisation, network: Network, x: Tensor, sigma: Tensor, deviation: Tensor) -> Tensor:
    """Return the denoiser's estimate D(x; σ) of the clean latent.

    Parameters
    ----------
    way
        The parametrisation.
    network
        F with its conditions bound.
    x
        Noisy latent, (batch, channels, h, w).
    sigma
        Noise levels, (batch,).
    deviation
        Standard deviation of each channel of clean latents, (channels,).
    """
    scaling = way.scaling(sigma, deviation)
    return scaling.skip * x + scaling.out * network(scaling.inside * x, scaling.noise)


def denoising_loss(
    way: Parametrisation,
    network: Network,
    clean: Tensor,
    sigma: Tensor,
    noise: Tensor,
    deviation: Tensor,
    components: Tensor | None = None,
) -> Tensor:
    """Return the loss of F against the value that makes D exact (for EDM this is equation 8 with λ of table 1).

    Parameters
    ----------
    way, network, sigma, deviation
        See :func:`estimate`.
    clean
        Clean latent, (batch, channels, h, w).
    noise
        Standard normal, as `clean`.
    components
        Weights of the channels, (channels,), of mean 1; by default all alike.
    """
    scaling = way.scaling(sigma, deviation)
    x = clean + sigma[:, None, None, None] * noise
    wanted = (clean - scaling.skip * x) / scaling.out
    error = (network(scaling.inside * x, scaling.noise) - wanted).abs() ** way.power
    return (error if components is None else error * components[:, None, None]).mean()
