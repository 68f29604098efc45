"""Training a generator: from a tile store to weights."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from stedm import seeds
from stedm.config import GeneratorConfig
from stedm.device import use_device
from stedm.generator.data import TrainingBatches
from stedm.generator.denoiser import denoising_loss
from stedm.generator.guidance import Guidance
from stedm.generator.model import Generator, save_generator
from stedm.generator.sampler import dpm_solver_pp_2m
from stedm.provenance import Product
from stedm.tiles.store import TileStore
from stedm.training import Training, fit, moving_average, write_curve

log = logging.getLogger("stedm")

FIRST_STAGE_TILES, CHECKED_TILES = 1024, 8
"""Training tiles on which a first stage is fitted, and on which one that is not fitted is measured."""


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
    """

    def __init__(self, model: Generator, config: GeneratorConfig, seed: int) -> None:
        super().__init__(
            steps=config.steps,
            lr=config.lr,
            weight_decay=config.weight_decay,
            checkpoint_every=config.checkpoint_every,
            seed=seed,
            schedule=config.schedule,
            accumulate=config.accumulate,
            precision=config.precision,
        )
        self.model = model
        self.averaged = AveragedModel(model, multi_avg_fn=moving_average(config.ema))
        self.averaged.requires_grad_(False)
        variance = model.first_stage.scale ** (2 * config.component_power)
        self.register_buffer("components", variance / variance.mean())

    def loss(self, batch: dict[str, Tensor], number: int) -> Tensor:
        """Return the denoising loss of a batch at noise drawn for its number."""
        random = torch.Generator().manual_seed(seeds.derive(self.seed, "generator", "noise", number))
        model = self.model
        with torch.no_grad():
            clean = model.first_stage.encode(batch["images"])
        sigma = model.way.draw(len(clean), random).to(clean.device)
        noise = torch.randn(clean.shape, generator=random).to(clean.device)
        style = model.style_vectors(batch["styles"], batch["has_style"])
        network = model.bind(style, batch["layouts"], batch["has_layout"])
        return denoising_loss(model.way, network, clean, sigma, noise, model.deviation, self.components)

    def stepped(self) -> None:
        """Update the averaged weights."""
        self.averaged.update_parameters(self.model)


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
    device, threads, workers
        See :class:`stedm.config.ExecutionConfig`.
    """
    where = use_device(device, threads)
    batches = TrainingBatches(store, labelled, unlabelled, config, seed)
    torch.manual_seed(seeds.derive(seed, "generator", "weights"))
    model = Generator(config)
    tiles = FIRST_STAGE_TILES if config.first_stage.kind == "pca" else CHECKED_TILES
    explained = model.fit_first_stage(_first_stage_images(batches, seed, tiles))
    log.info("first stage: %d channels hold %.1f %% of the variance", model.first_stage.channels, 100 * explained)
    model.unet.to(memory_format=torch.channels_last)
    module = GeneratorTraining(model, config, seed)
    fit(module, batches, folder=making.folder, device=where, label=f"generator seed {seed}", workers=workers)
    averaged: Generator = module.averaged.module
    save_generator(making.folder, averaged)
    write_curve(making.folder / "preview" / "curves.csv", module.curve)
    _write_samples(making.folder / "preview" / "samples.png", averaged, batches, seed)
    making.facts |= {
        "device": str(where),
        "threads": threads,
        "parameters": sum(p.numel() for p in model.parameters()),
        "explained_variance": round(explained, 4),
        "labelled": sorted(labelled),
    }


def _first_stage_images(batches: TrainingBatches, seed: int, count: int) -> Tensor:
    from stedm.augment import to_tensor

    random = seeds.generator(seed, "generator", "first stage")
    pools = [batches.labelled, *([batches.unlabelled] if batches.unlabelled else [])]
    chosen = [pools[n % len(pools)] for n in range(count)]
    return to_tensor([pool.read(pool.draw(random))[0] for pool in chosen]) * 2 - 1


@torch.no_grad()
def _write_samples(path: Path, model: Generator, batches: TrainingBatches, seed: int) -> None:
    """Draw eight training samples again: a column each, of image, layout, a style image and what is drawn."""
    batch = {key: value[:8] for key, value in batches[0].items()}
    style = model.style_vectors(batch["styles"], batch["has_style"])
    layouts = batch["layouts"]
    denoise = model.guided(style, layouts, Guidance(style=1.5))
    random = torch.Generator().manual_seed(seeds.derive(seed, "generator", "samples"))
    latent = model.first_stage.encode(batch["images"])
    noise = torch.randn(latent.shape, generator=random)
    drawn = model.first_stage.decode(dpm_solver_pp_2m(denoise, noise, model.way.sigmas(12)))
    side = drawn.shape[-1]
    shown = torch.nn.functional.interpolate(batch["styles"][:, 0], size=side)
    rows = [batch["images"], (2 * layouts - 1).expand(-1, 3, -1, -1), shown, drawn]
    grid = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
    pixels = ((grid.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
