"""The paper's preset at its true size: one optimiser step and one guided sampling step, on a CPU."""

import json
import subprocess
import sys

import pytest
from conftest import MINI, PROJECT

LIMIT_GB = 12

SCRIPT = """
import json, sys, resource
import torch
from stedm.config import parse_config
from stedm.generator.autoencoder import VQ_F4
from stedm.generator.model import Generator
from stedm.generator.train import GeneratorTraining
from stedm.synthetic.draw import guidance_of
from stedm.generator.sampler import SAMPLERS

config = parse_config(json.loads(sys.argv[1]))
torch.manual_seed(0)
model = Generator(config.generator, pretrained=False, shape=VQ_F4)
images = torch.rand(1, 3, 512, 512) * 2 - 1
layouts = (torch.rand(1, 1, 512, 512) > 0.5).float()
styles = torch.rand(1, config.generator.style.count, 3, 256, 256) * 2 - 1
yes = torch.ones(1, dtype=torch.bool)
module = GeneratorTraining(model, config.generator, 0)
batch = {"images": images, "layouts": layouts, "has_layout": yes, "has_style": yes, "styles": styles}
optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)
parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
with torch.no_grad():
    # Layers that start at zero would keep the first step from what lies before them.
    for parameter in parameters.values():
        if not parameter.any():
            parameter.normal_(std=0.02)
before = {name: p.detach().clone() for name, p in parameters.items()}
module.loss(batch, 0).backward()
optimiser.step()
still = [name for name, p in parameters.items() if p.grad is None or not p.grad.any() or torch.equal(p, before[name])]
del before
with torch.no_grad():
    model.eval()
    latent = torch.zeros(1, model.first_stage.channels, *(side // model.first_stage.factor for side in (512, 512)))
    style = model.style(styles)
    sigmas = model.way.sigmas(config.synthetic.steps)[:2]
    denoise = model.guided(style, layouts, guidance_of(config.synthetic))
    drawn = SAMPLERS[config.synthetic.sampler](denoise, torch.randn_like(latent), sigmas)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({
    "latent": list(latent.shape), "drawn": list(drawn.shape), "finite": bool(drawn.isfinite().all()),
    "sigma": float(sigmas[0]), "still": still, "peak": peak,
    "trained": sum(p.numel() for p in model.unet.parameters()),
}))
"""


@pytest.fixture(scope="module")
def measured():
    weights = {"first_stage": {"kind": "vq", "path": "none"}, "unet": {"path": None}, "style": {"path": None}}
    values = {key: MINI[key] for key in ("name", "cohort")}
    values |= {"preset": "paper", "tiles": {"downsample": 2, "tile": 512}, "generator": weights}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(values)], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_training_step_and_a_sampling_step_run_at_the_published_size(measured):
    assert measured["latent"] == measured["drawn"] == [1, 3, 128, 128]
    assert measured["trained"] == 234_635_148
    assert measured["finite"]


def test_the_step_reaches_every_tensor(measured):
    """All but the null conditions, which this sample does not show."""
    assert sorted(measured["still"]) == ["style.null", "unet.null_layout"]


def test_memory_stays_under_the_limit(measured):
    assert measured["peak"] < LIMIT_GB
