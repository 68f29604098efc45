"""Samplers: one function an algorithm, on a denoiser D(x; σ)."""

from __future__ import annotations

import torch
from torch import Tensor

from stedm.generator.denoiser import SIGMA_MAX, SIGMA_MIN, Denoise


def karras_sigmas(steps: int, rho: float = 7.0) -> Tensor:
    """Return falling noise levels, float32 (steps + 1,), the last one 0 (EDM, equation 5)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    high, low = SIGMA_MAX ** (1 / rho), SIGMA_MIN ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)]).float()


def dpm_solver_pp_2m(denoise: Denoise, noise: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu 2022, arXiv 2211.01095, algorithm 2), in the variance-exploding parametrisation.

    Parameters
    ----------
    denoise
        The denoiser.
    noise
        Standard normal, (batch, channels, h, w).
    sigmas
        Falling noise levels, (steps + 1,), the last one 0.

    Returns
    -------
    Tensor
        Clean latents, as `noise`; one evaluation a step.
    """
    x = noise * sigmas[0]
    previous = None
    for i in range(len(sigmas) - 1):
        estimate = denoise(x, sigmas[i].expand(len(x)))
        if sigmas[i + 1] == 0:
            return estimate
        step = (sigmas[i] / sigmas[i + 1]).log()
        direction = estimate
        if previous is not None:
            ratio = (sigmas[i - 1] / sigmas[i]).log() / step
            direction = estimate + (estimate - previous) / (2 * ratio)
        shrink = sigmas[i + 1] / sigmas[i]
        x = shrink * x + (1 - shrink) * direction
        previous = estimate
    return x
