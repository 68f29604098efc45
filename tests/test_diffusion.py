"""Parametrisations, samplers and guidance against exact answers and the published formulas."""

import math

import pytest
import torch

from stedm.generator.denoiser import EDM, PARAMETRISATIONS, Epsilon, Flow, denoising_loss, estimate
from stedm.generator.guidance import Guidance, guided, rescaled
from stedm.generator.sampler import SAMPLERS, ddim, dpm_solver_pp_2m, heun

WAYS = sorted(PARAMETRISATIONS)
ONE = torch.ones(2)


def gaussian_denoiser(mean: float, std: float):
    """The exact denoiser of data that are normal with this mean and standard deviation."""
    return lambda x, s: mean + (std**2 / (std**2 + s[:, None, None, None] ** 2)) * (x - mean)


def noise_of(count: int) -> torch.Tensor:
    return torch.randn((count, 1, 1, 1), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("way", WAYS)
def test_samplers_reach_the_distribution_of_an_exact_denoiser(way, sampler):
    sigmas = PARAMETRISATIONS[way].sigmas(60)
    drawn = SAMPLERS[sampler](gaussian_denoiser(0.7, 0.5), noise_of(4096), sigmas)
    assert float(drawn.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("sampler, order", [(ddim, 1), (heun, 2), (dpm_solver_pp_2m, 2)])
def test_the_error_falls_with_the_order_of_the_sampler(sampler, order):
    """For normal data the exact solution is x(0) = mean + std / √(std² + σ²) · (x(σ) − mean)."""
    noise, errors = noise_of(256), []
    for steps in (24, 48):
        sigmas = EDM().sigmas(steps)
        exact = 0.7 + 0.5 / math.hypot(0.5, EDM.SIGMA_MAX) * (noise * sigmas[0] - 0.7)
        errors.append(float((sampler(gaussian_denoiser(0.7, 0.5), noise, sigmas) - exact).abs().mean()))
    assert 0.8 * 2**order < errors[0] / errors[1] < 1.6 * 2**order


def test_ddim_is_the_published_step_in_its_own_variables():
    way = Epsilon()
    sigmas = way.sigmas(8)
    network = lambda x, t: torch.tanh(x) + t[:, None, None, None] / 1000  # noqa: E731
    noise = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    ours = ddim(lambda x, s: estimate(way, network, x, s, ONE), noise, sigmas)
    kept = 1 / (1 + sigmas.double() ** 2)
    x = (noise * sigmas[0]).double() * kept[0].sqrt()
    for now, after, sigma in zip(kept[:-1], kept[1:], sigmas[:-1], strict=True):
        predicted = network(x.float(), way.timestep(sigma.expand(2))).double()
        clean = (x - (1 - now).sqrt() * predicted) / now.sqrt()
        x = after.sqrt() * clean + (1 - after).sqrt() * predicted
    assert torch.allclose(ours, x.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_a_network_that_gives_what_is_wanted_makes_the_denoiser_exact(way):
    parametrisation, deviation = PARAMETRISATIONS[way], torch.tensor([2.0, 0.3])
    random = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(64, 2, 4, 4, generator=random) for _ in range(2))
    sigma = parametrisation.draw(64, random)
    scaling = parametrisation.scaling(sigma, deviation)
    x = clean + sigma[:, None, None, None] * noise
    perfect = lambda *_: (clean - scaling.skip * x) / scaling.out  # noqa: E731
    assert torch.allclose(estimate(parametrisation, perfect, x, sigma, deviation), clean, atol=1e-3)
    assert float(denoising_loss(parametrisation, perfect, clean, sigma, noise, deviation)) < 1e-6
    assert bool((sigma > 0).all()) and len(set(sigma.tolist())) > 32


def test_what_the_networks_predict_is_what_was_published():
    random = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(5, 2, 4, 4, generator=random) for _ in range(2))
    sigma = torch.tensor([0.1, 0.5, 1.0, 4.0, 20.0])
    x, s = clean + sigma[:, None, None, None] * noise, sigma[:, None, None, None]
    epsilon, flow = Epsilon().scaling(sigma, ONE), Flow().scaling(sigma, ONE)
    assert torch.allclose((clean - epsilon.skip * x) / epsilon.out, noise, atol=1e-4)
    assert torch.allclose(epsilon.inside * x, (clean + s * noise) / (1 + s**2).sqrt(), atol=1e-5)
    t = s / (1 + s)
    assert torch.allclose((clean - flow.skip * x) / flow.out, noise - clean, atol=1e-4)
    assert torch.allclose(flow.inside * x, (1 - t) * clean + t * noise, atol=1e-5)


def test_edm_loss_of_a_silent_network_is_one_at_any_deviation():
    """With c_skip the best linear estimate, what is left for F has variance 1 (Karras 2022, appendix B.6)."""
    random = torch.Generator().manual_seed(0)
    deviation = torch.tensor([3.0, 0.2])
    clean = torch.randn(2048, 2, 4, 4, generator=random) * deviation[:, None, None]
    noise = torch.randn(clean.shape, generator=random)
    for sigma in (0.05, 1.0, 30.0):
        levels = torch.full((2048,), sigma)
        silent = denoising_loss(EDM(), lambda x, n: torch.zeros_like(x), clean, levels, noise, deviation)
        assert float(silent) == pytest.approx(1, abs=0.02)
        bad = denoising_loss(EDM(), lambda x, n: torch.zeros_like(x), clean, levels, noise, ONE)
        assert abs(float(bad) - 1) > 0.1 or sigma < 0.1


def test_the_schedule_of_latent_diffusion():
    """ᾱ from the published β by a plain loop; timesteps come back from their noise levels."""
    way, kept = Epsilon(), 1.0
    for t in range(1000):
        beta = (math.sqrt(0.0015) + t / 999 * (math.sqrt(0.0205) - math.sqrt(0.0015))) ** 2
        kept *= 1 - beta
        assert float(way.table[t]) == pytest.approx(math.sqrt((1 - kept) / kept), rel=1e-9)
    chosen = torch.tensor([0, 1, 17, 500, 998, 999])
    assert torch.allclose(way.timestep(way.table[chosen].float()), chosen.float(), atol=1e-2)
    sigmas = way.sigmas(128)
    assert len(sigmas) == 129 and sigmas[-1] == 0 and bool((sigmas.diff() < 0).all())


def constant(value: float, counter: list[str] | None = None, name: str = ""):
    def denoise(x, sigma):
        if counter is not None:
            counter.append(name)
        return x + value

    return denoise


def test_guidance_leans_away_from_the_estimate_without_the_condition():
    x, sigma = torch.zeros(1, 1, 2, 2), torch.ones(1)
    lean = lambda **scales: float(  # noqa: E731
        guided(constant(3), constant(1), constant(2), Guidance(**scales))(x, sigma)[0, 0, 0, 0]
    )
    assert lean() == 3
    assert lean(style=1.5) == 4  # 1 + 1.5 (3 − 1)
    assert lean(layout=3) == 5  # 2 + 3 (3 − 2)
    assert lean(style=1.5, layout=3) == 6
    assert lean(style=0) == 1


def test_guidance_evaluates_only_what_it_needs_and_only_in_its_interval():
    seen: list[str] = []
    parts = [constant(n, seen, name) for n, name in ((3, "both"), (1, "style"), (2, "layout"))]
    guidance = Guidance(style=2, interval=(0.5, 5))
    sigmas = torch.tensor([10.0, 4.0, 1.0, 0.2, 0.0])
    ddim(guided(*parts, guidance), torch.zeros(1, 1, 1, 1), sigmas)
    assert seen == ["both", "both", "style", "both", "style", "both"]
    assert guidance.evaluations(sigmas) == len(seen)


def test_rescaled_guidance_has_the_spread_of_the_unguided_noise_over_the_whole_sample():
    random = torch.Generator().manual_seed(3)
    x, plain, leaned = (torch.randn(2, 3, 4, 5, generator=random) * n for n in (1, 2, 5))
    whole = rescaled(x, plain, leaned, 1.0)
    for before, after, raw in zip(x - plain, x - whole, x - leaned, strict=True):
        assert float(after.std()) == pytest.approx(float(before.std()), rel=1e-5)
        # One factor a sample: a standard deviation per column, as released, would change the directions.
        assert torch.allclose(after / raw, (after / raw).flatten()[0].expand_as(after), rtol=1e-4)
    half = rescaled(x, plain, leaned, 0.7)
    assert torch.allclose(half, 0.7 * whole + 0.3 * leaned, atol=1e-5)
