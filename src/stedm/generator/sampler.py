"""Samplers: one function an algorithm, on a denoiser D(x; σ) and falling noise levels that end in 0.

Each takes standard normal noise (batch, channels, h, w) and returns clean latents of its shape. All are
deterministic: the noise decides.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from stedm.generator.denoiser import Denoise


def ddim(denoise: Denoise, noise: Tensor, sigmas: Tensor) -> Tensor:
    """DDIM with η = 0 (Song 2021, arXiv 2010.02502, equation 12), here Euler's method; one evaluation a step."""
    x = noise * sigmas[0]
    for now, after in pairwise(sigmas):
        estimate = denoise(x, now.expand(len(x)))
        x = estimate + after / now * (x - estimate)
    return x


def heun(denoise: Denoise, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Heun's method (Karras 2022, arXiv 2206.00364, algorithm 1); two evaluations a step, one in the last."""
    x = noise * sigmas[0]
    for now, after in pairwise(sigmas):
        slope = (x - denoise(x, now.expand(len(x)))) / now
        euler = x + (after - now) * slope
        if after > 0:
            corrected = (euler - denoise(euler, after.expand(len(x)))) / after
            euler = x + (after - now) * (slope + corrected) / 2
        x = euler
    return x


def dpm_solver_pp_2m(denoise: Denoise, noise: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu 2022, arXiv 2211.01095, algorithm 2); one evaluation a step."""
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


SAMPLERS: dict[str, Callable[[Denoise, Tensor, Tensor], Tensor]] = {
    "ddim": ddim,
    "heun": heun,
    "dpm++2m": dpm_solver_pp_2m,
}
"""By their names in the configuration (`synthetic.sampler`)."""
