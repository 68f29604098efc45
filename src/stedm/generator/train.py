"""Training a generator: from a tile store to weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from stedm import seeds
from stedm.augment import reduce_area, to_tensor
from stedm.config import GeneratorConfig
from stedm.device import compile_network, use_device
from stedm.generator.data import TrainingBatches
from stedm.generator.denoiser import denoising_loss
from stedm.generator.guidance import Guidance
from stedm.generator.model import Generator, save_generator
from stedm.generator.sampler import dpm_solver_pp_2m
from stedm.generator.style_map import FILE, roles, write_style_vectors
from stedm.layers import StochasticDepth
from stedm.provenance import Product
from stedm.team import Team, part_of
from stedm.tiles.store import TileStore
from stedm.training import Training, fit, moving_average

log = logging.getLogger("stedm")

FIRST_STAGE_TILES, CHECKED_TILES = 1024, 8
"""Training tiles on which a first stage is fitted, and on which one that is not fitted is measured."""
SHOWN = 64
"""Side of an image in a picture, in pixels, to which larger tiles are reduced."""


class GeneratorTraining(Training):
    """Denoising training of style network and U-Net, with averaged weights.

    Parameters
    ----------
    model
        The generator; its first stage is already fitted and stays as it is.
    config
        Settings of the generator.
    seed
        Seed of the run.
    part
        Which part of each batch is given, and of how many (see :class:`stedm.team.Team`).
    """

    def __init__(self, model: Generator, config: GeneratorConfig, seed: int, part: tuple[int, int] = (0, 1)) -> None:
        super().__init__(
            steps=config.steps,
            lr=config.lr,
            weight_decay=config.weight_decay,
            checkpoint_every=config.checkpoint_every,
            seed=seed,
            schedule=config.schedule,
            accumulate=config.accumulate,
            precision=config.precision,
            samples=config.batch * config.accumulate,
        )
        self.pictures: dict[int, Callable[[Generator], None]] = {}
        """What looks at the averaged weights, by the step after which it does."""
        self.model, self.part = model, part
        for layer in model.modules():
            if isinstance(layer, StochasticDepth):
                layer.part = part
        self.averaged = AveragedModel(model, multi_avg_fn=moving_average(config.ema))
        self.averaged.requires_grad_(False)
        variance = model.first_stage.scale ** (2 * config.component_power)
        self.register_buffer("components", variance / variance.mean())

    def loss(self, batch: dict[str, Tensor], number: int) -> Tensor:
        """Return the denoising loss of a part of a batch, at noise drawn for the batch's number."""
        random = torch.Generator().manual_seed(seeds.derive(self.seed, "generator", "noise", number))
        model = self.model
        with torch.no_grad():
            clean = model.first_stage.encode(batch["images"])
        samples = len(clean) * self.part[1]
        mine = part_of(samples, self.part)
        sigma = model.way.draw(samples, random)[mine].to(clean.device)
        noise = torch.randn((samples, *clean.shape[1:]), generator=random)[mine].to(clean.device)
        style = model.style_vectors(batch["styles"], batch["has_style"])
        network = model.bind(style, batch["layouts"], batch["has_layout"])
        return denoising_loss(model.way, network, clean, sigma, noise, model.deviation, self.components)

    def stepped(self) -> None:
        """Update the averaged weights, and show them where that is asked for."""
        self.averaged.update_parameters(self.model)
        if self.pictures and (picture := self.pictures.get(self.trainer.global_step)):
            picture(self.averaged.module)


def train_generator(
    making: Product,
    *,
    store: TileStore,
    labelled: Collection[str],
    unlabelled: Collection[str],
    config: GeneratorConfig,
    seed: int,
    device: str = "auto",
    threads: int = 1,
    workers: int = 0,
    team: Team | None = None,
    compile: bool = False,
    channels_last: bool = True,
    pictures: int = 0,
) -> None:
    """Train a generator and write its averaged weights, settings and preview.

    Parameters
    ----------
    making
        The product in the making; takes up the state that an earlier process left in its folder.
    store
        Real tiles.
    labelled, unlabelled
        Patients of the training split with and without labels.
    config
        Settings.
    seed
        Seed of the run.
    device, threads, workers, compile, channels_last, pictures
        See :class:`stedm.config.ExecutionConfig`.
    team
        The processes that train together; the one that leads writes.
    """
    where, team = use_device(device, threads), team or Team()
    batches = TrainingBatches(store, labelled, unlabelled, config, seed, team.part)
    torch.manual_seed(seeds.derive(seed, "generator", "weights"))
    model = Generator(config)
    tiles = FIRST_STAGE_TILES if config.first_stage.kind == "pca" else CHECKED_TILES
    explained = model.fit_first_stage(_first_stage_images(batches, seed, tiles))
    log.info("first stage: %d channels hold %.1f %% of the variance", model.first_stage.channels, 100 * explained)
    if channels_last:
        model.unet.to(memory_format=torch.channels_last)
    module = GeneratorTraining(model, config, seed, team.part)
    preview = making.folder / "preview"
    if team.leads:
        module.pictures = {step: _picture(preview, step, batches, seed) for step in _even(config.steps, pictures)}
    if compile:
        compile_network(model.unet, where)
    label = f"generator seed {seed}"
    facts = fit(module, batches, folder=making.folder, device=where, label=label, workers=workers, team=team)
    if not team.leads:
        return
    averaged: Generator = module.averaged.module
    save_generator(making.folder, averaged)
    _write_samples(preview / "samples.png", averaged, batches, seed)
    if config.style.sampling != "none":
        write_style_vectors(preview / FILE, averaged, store, roles(store, labelled, unlabelled), config.style, seed)
    making.facts |= facts | {
        "device": str(where),
        "threads": threads,
        "compiled": compile,
        "channels_last": channels_last,
        "parameters": sum(p.numel() for p in model.parameters()),
        "explained_variance": round(explained, 4),
        "labelled": sorted(labelled),
    }


def _first_stage_images(batches: TrainingBatches, seed: int, count: int) -> Tensor:
    random = seeds.generator(seed, "generator", "first stage")
    pools = [batches.labelled, *([batches.unlabelled] if batches.unlabelled else [])]
    chosen = [pools[n % len(pools)] for n in range(count)]
    return to_tensor([pool.read(pool.draw(random))[0] for pool in chosen]) * 2 - 1


def _even(steps: int, count: int) -> list[int]:
    """Return the steps after which so many pictures are drawn, at even distances from start and end."""
    return [steps * (number + 1) // (count + 1) for number in range(count)]


def _picture(preview: Path, step: int, batches: TrainingBatches, seed: int) -> Callable[[Generator], None]:
    def write(model: Generator) -> None:
        model.eval()
        _write_samples(preview / f"samples-{step:06d}.png", model, batches, seed)
        model.train()

    return write


@torch.no_grad()
def _write_samples(path: Path, model: Generator, batches: TrainingBatches, seed: int) -> None:
    """Draw eight training samples again: a column each, of image, layout, a style image and what is drawn.

    Random numbers are the picture's own, so that a training does not depend on who looks at it.
    """
    device = model.deviation.device
    batch = {key: value[:8].to(device) for key, value in batches.batch(0).items()}
    style = model.style_vectors(batch["styles"], batch["has_style"])
    layouts = batch["layouts"]
    denoise = model.guided(style, layouts, Guidance(style=1.5))
    random = torch.Generator().manual_seed(seeds.derive(seed, "generator", "samples"))
    latent = model.first_stage.encode(batch["images"])
    noise = torch.randn(latent.shape, generator=random).to(device)
    drawn = model.first_stage.decode(dpm_solver_pp_2m(denoise, noise, model.way.sigmas(12).to(device)))
    side = drawn.shape[-1] // max(1, drawn.shape[-1] // SHOWN)
    shown = torch.nn.functional.interpolate(batch["styles"][:, 0], size=side)
    rows = [batch["images"], (2 * layouts - 1).expand(-1, 3, -1, -1), drawn]
    rows = [reduce_area(row, side) for row in rows]
    rows.insert(2, shown)
    grid = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
    pixels = ((grid.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
