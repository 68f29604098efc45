"""Guidance: leaning a denoiser towards its conditions while sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from stedm.generator.denoiser import Denoise


@dataclass(frozen=True)
class Guidance:
    """How far to lean, and when.

    Classifier-free guidance (Ho 2022, arXiv 2207.12598) on style and on layout, each away from the estimate
    without that condition; in an interval of noise levels (Kynkäänniemi 2024, arXiv 2404.07724).
    """

    style: float = 1.0
    """Scale on the style; 1 is none."""
    layout: float = 1.0
    """Scale on the layout; 1 is none."""
    rescale: float = 0.0
    """Share in [0, 1] of the rescaling by standard deviations (Lin 2024, arXiv 2305.08891, section 3.4)."""
    interval: tuple[float, float] = (0.0, math.inf)
    """Lowest and highest σ at which estimates are guided."""

    def evaluations(self, sigmas: Tensor) -> int:
        """Return how many times a network is run over all but the last of the noise levels of a sampler."""
        extra = (self.style != 1) + (self.layout != 1)
        return sum(1 + extra * self._within(float(sigma)) for sigma in sigmas[:-1])

    def _within(self, sigma: float) -> bool:
        return self.interval[0] <= sigma <= self.interval[1]


def guided(both: Denoise, no_style: Denoise, no_layout: Denoise, guidance: Guidance) -> Denoise:
    """Return a guided denoiser.

    Parameters
    ----------
    both, no_style, no_layout
        The denoiser with both conditions, with the null style, and with the null layout. What guidance does
        not need is not evaluated.
    guidance
        Scales and interval. All samples of a call have the same noise level.
    """
    if guidance.style == 1 and guidance.layout == 1:
        return both

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        plain = both(x, sigma)
        if not guidance._within(float(sigma[0])):
            return plain
        leaned = plain
        if guidance.style != 1:
            leaned = leaned + (guidance.style - 1) * (plain - no_style(x, sigma))
        if guidance.layout != 1:
            leaned = leaned + (guidance.layout - 1) * (plain - no_layout(x, sigma))
        return rescaled(x, plain, leaned, guidance.rescale) if guidance.rescale else leaned

    return denoise


def rescaled(x: Tensor, plain: Tensor, leaned: Tensor, share: float) -> Tensor:
    """Give the guided noise estimate the spread of the unguided one (Lin 2024, equations 15 and 16).

    The noise estimate is x − D up to a factor; its standard deviation is taken over all channels and positions
    of a sample, and the result is blended with the guided estimate.
    """
    before, after = x - plain, x - leaned
    ratio = before.std((1, 2, 3), keepdim=True) / after.std((1, 2, 3), keepdim=True)
    return x - (share * ratio + 1 - share) * after
