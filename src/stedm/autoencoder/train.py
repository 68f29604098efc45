"""Training an autoencoder: from a tile store to a folder in diffusers' format."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from stedm import seeds
from stedm.augment import flip, to_tensor
from stedm.config import AutoencoderConfig
from stedm.device import use_device
from stedm.generator.autoencoder import Autoencoder, AutoencoderShape
from stedm.generator.autoencoder_files import save_autoencoder
from stedm.provenance import Product
from stedm.tiles.store import TileStore
from stedm.tiles.windows import WindowPool
from stedm.training import Training, fit

log = logging.getLogger("stedm")

RESTART = 100
"""Batches after which codes that no position has taken are drawn anew."""
SCORED, SCALED, SHOWN = 256, 64, 8
"""Most tiles that reconstruction is measured on, that the latents' scale is measured on, that are shown."""


def autoencoder_shape(kind: Literal["vq", "kl"], config: AutoencoderConfig) -> AutoencoderShape:
    """Return the architecture that a configuration asks for; it has no attention, so tiles may have any size."""
    return AutoencoderShape(
        widths=tuple(config.channels),
        blocks=config.blocks,
        latent=config.latent,
        codes=config.codes if kind == "vq" else None,
        attention=False,
        groups=min(32, math.gcd(*config.channels)),
    )


class TileBatches(Dataset):
    """Map from a batch's number to tiles, float (batch, 3, tile, tile) in [−1, 1], in any of eight symmetries."""

    def __init__(self, store: TileStore, patients: Collection[str], config: AutoencoderConfig) -> None:
        self.pool, self.config = WindowPool(store, patients), config

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, number: int) -> Tensor:
        random = seeds.generator(self.config.seed, "autoencoder", "batch", number)
        drawn = [(self.pool.draw(random), int(random.integers(8))) for _ in range(self.config.batch)]
        return to_tensor([flip(self.pool.read(window)[0], turn) for window, turn in drawn]) * 2 - 1


class AutoencoderTraining(Training):
    """Training of an autoencoder by the mean absolute error, and what keeps its latents in bounds.

    Of ``kl`` that is the divergence of the posterior from a standard normal (Rombach 2022, arXiv 2112.10752,
    appendix G); of ``vq`` the codebook and commitment losses (van den Oord 2017, arXiv 1711.00937, equation 3), where
    codes that go unused are put on latents of the batch (Dhariwal 2020, arXiv 2005.00341, section 3.1). There is
    neither a perceptual nor an adversarial loss.

    Parameters
    ----------
    stage
        The autoencoder, its latents in the encoder's own units.
    config
        Settings.
    """

    def __init__(self, stage: Autoencoder, config: AutoencoderConfig) -> None:
        super().__init__(
            steps=config.steps,
            lr=config.lr,
            weight_decay=0.0,
            checkpoint_every=config.checkpoint_every,
            seed=config.seed,
            precision=config.precision,
            samples=config.batch,
        )
        self.stage, self.config = stage, config
        self.register_buffer("used", torch.zeros(stage.shape.codes or 0, dtype=torch.bool))

    def loss(self, batch: Tensor, number: int) -> Tensor:
        """Return the loss of tiles, float (batch, 3, h, w) in [−1, 1]; noise comes from the batch's number."""
        moments = self.stage.moments(batch).float()
        if self.stage.shape.codes:
            latents, bound = self._quantised(moments, number)
        else:
            latents, bound = self._sampled(moments, number, batch[0].numel())
        return (self.stage.reconstruct(latents).float() - batch).abs().mean() + bound

    def _sampled(self, moments: Tensor, number: int, values: int) -> tuple[Tensor, Tensor]:
        mean, log_variance = moments.chunk(2, 1)
        log_variance = log_variance.clamp(-30, 20)
        random = torch.Generator().manual_seed(seeds.derive(self.seed, "autoencoder", "noise", number))
        noise = torch.randn(mean.shape, generator=random).to(mean.device)
        nats = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum((1, 2, 3)).mean()
        return mean + (0.5 * log_variance).exp() * noise, self.config.kl_weight * nats / values

    def _quantised(self, latents: Tensor, number: int) -> tuple[Tensor, Tensor]:
        if number % RESTART == 0:
            self._restart(latents.detach(), number)
        with torch.no_grad():
            numbers = self.stage.quantize.nearest(latents)
            self.used[numbers.flatten()] = True
        codes = self.stage.quantize.embedding.weight[numbers].movedim(-1, 1)
        to_codes, to_latents = (codes - latents.detach()).pow(2).mean(), (latents - codes.detach()).pow(2).mean()
        # Gradients pass the quantiser as if it were not there.
        return latents + (codes - latents).detach(), to_codes + self.config.commitment * to_latents

    @torch.no_grad()
    def _restart(self, latents: Tensor, number: int) -> None:
        rows = latents.movedim(1, -1).flatten(0, 2)
        random = torch.Generator().manual_seed(seeds.derive(self.seed, "autoencoder", "codes", number))
        chosen = torch.randint(len(rows), (len(self.used),), generator=random).to(rows.device)
        weight = self.stage.quantize.embedding.weight
        weight.copy_(torch.where(self.used[:, None], weight, rows[chosen]))
        self.used.zero_()


def train_autoencoder(
    making: Product,
    *,
    store: TileStore,
    patients: Collection[str],
    validation: Collection[str],
    kind: Literal["vq", "kl"],
    config: AutoencoderConfig,
    device: str = "auto",
    threads: int = 1,
    workers: int = 0,
) -> None:
    """Train an autoencoder and write it in diffusers' format, with its reconstruction error in the provenance.

    Parameters
    ----------
    making
        The product in the making; takes up the state that an earlier process left in its folder.
    store
        Real tiles.
    patients
        Patients to train on, labelled or not.
    validation
        Patients on whose tiles reconstruction is measured; where there are none, those to train on.
    kind
        Vector-quantised, or Gaussian.
    config
        Settings.
    device, threads, workers
        See :class:`stedm.config.ExecutionConfig`.
    """
    where = use_device(device, threads)
    batches = TileBatches(store, patients, config)
    torch.manual_seed(seeds.derive(config.seed, "autoencoder", "weights"))
    stage = Autoencoder(autoencoder_shape(kind, config))
    module = AutoencoderTraining(stage, config)
    facts = fit(module, batches, folder=making.folder, device=where, label=f"autoencoder {kind}", workers=workers)
    stage.to(where)
    if kind == "kl":
        stage.shape = replace(stage.shape, scale=_deviation(stage, _tiles(store, patients, SCALED), where))
    split = "validation" if validation else "train"
    tiles = _tiles(store, validation or patients, SCORED)
    found = reconstruction(stage, tiles, where) | {"split": split}
    log.info("autoencoder: PSNR %.1f dB, L1 %.4f on %d %s tiles", found["psnr_db"], found["l1"], len(tiles), split)
    save_autoencoder(making.folder, stage)
    _write_pairs(making.folder / "preview" / "samples.png", stage, tiles[:SHOWN], where)
    making.facts |= facts | {
        "device": str(where),
        "threads": threads,
        "parameters": sum(p.numel() for p in stage.parameters()),
        "reconstruction": found,
    }


def _tiles(store: TileStore, patients: Collection[str], most: int) -> np.ndarray:
    """Return at most so many tiles of patients, evenly over the store, uint8 (n, tile, tile, 3)."""
    rows = np.flatnonzero(np.isin(store.column("patient"), list(patients)))
    even = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
    return np.stack([store.tile_at(int(row))[0] for row in rows[even]])


@torch.no_grad()
def _deviation(stage: Autoencoder, tiles: np.ndarray, device: torch.device) -> float:
    """Return the standard deviation of the latents of tiles, by which they are divided from now on."""
    latents = torch.cat([stage.encode(to_tensor([tile]).to(device) * 2 - 1).cpu() for tile in tiles])
    # Published folders state one over it, with five digits.
    return 1 / round(1 / float(latents.std()), 5)


@torch.no_grad()
def reconstruction(stage: Autoencoder, tiles: np.ndarray, device: torch.device) -> dict[str, float]:
    """Measure what encoding and decoding lose, on pixels in [0, 1].

    Parameters
    ----------
    stage
        The autoencoder.
    tiles
        uint8 (n, h, w, 3).
    device
        Where the autoencoder is.

    Returns
    -------
    dict
        ``tiles``, ``l1`` (mean absolute error), ``psnr_db`` (of the mean squared error over all tiles).
    """
    absolute = square = 0.0
    for tile in tiles:
        image = to_tensor([tile]).to(device)
        error = (stage.decode(stage.encode(image * 2 - 1)).clamp(-1, 1) + 1) / 2 - image
        absolute += float(error.abs().mean()) / len(tiles)
        square += float(error.pow(2).mean()) / len(tiles)
    return {
        "tiles": len(tiles),
        "l1": round(absolute, 5),
        "psnr_db": round(-10 * math.log10(max(square, 1e-12)), 2),
    }


@torch.no_grad()
def _write_pairs(path: Path, stage: Autoencoder, tiles: np.ndarray, device: torch.device) -> None:
    """Write tiles above what encoding and decoding leave of them."""
    drawn = [stage.decode(stage.encode(to_tensor([tile]).to(device) * 2 - 1)).clamp(-1, 1)[0] for tile in tiles]
    below = [((image + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy() for image in drawn]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in (tiles, below)])).save(path)
