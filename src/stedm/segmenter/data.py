"""Batches for the segmenter: real windows of labelled patients, synthetic images, and unlabelled tiles beside them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stedm import seeds
from stedm.augment import draw_colour, flip, jitter_colour, to_tensor
from stedm.config import SegmenterConfig
from stedm.errors import UserError
from stedm.segmenter.loss import targets_of
from stedm.segmenter.unlabelled import UnlabelledBatches
from stedm.tiles.store import UNKNOWN, TileStore
from stedm.tiles.windows import WindowPool


class TrainingBatches(Dataset):
    """Map from a step's number to its batch.

    A batch is a dict of ``images`` float (batch, 3, tile, tile) in [0, 1] and ``targets`` int64
    (batch, tile, tile), and of what :class:`~stedm.segmenter.unlabelled.UnlabelledBatches` adds.

    Parameters
    ----------
    store
        Real tiles.
    labelled
        Patients whose labels are used.
    synthetic
        Synthetic tiles, or None for arms without.
    config
        Settings of the segmenter.
    colour
        Colour augmentation.
    seed
        Seed of the run.
    unlabelled
        Batches of unlabelled tiles, or None for arms without.
    """

    def __init__(
        self,
        store: TileStore,
        labelled: Collection[str],
        synthetic: TileStore | None,
        config: SegmenterConfig,
        colour: bool,
        seed: int,
        unlabelled: UnlabelledBatches | None = None,
    ) -> None:
        self.store, self.synthetic, self.config, self.seed = store, synthetic, config, seed
        self.strength = config.colour_jitter if colour else 0.0
        self.pool = WindowPool(store, labelled, known=True)
        self.unlabelled = unlabelled

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        random = seeds.generator(self.seed, "segmenter", "batch", step)
        images, labels, maps = [], [], []
        for _ in range(self.config.batch):
            from_synthetic = random.random() < self.config.synthetic_share
            window = self.pool.draw(random, foreground_share=self.config.foreground_share)
            turn = int(random.integers(8))
            number = random.integers(2**62)
            if from_synthetic and self.synthetic is not None:
                image, label = self.synthetic.tile_at(int(number % len(self.synthetic)))
            else:
                image, label = self.pool.read(window)
            images.append(flip(image, turn))
            labels.append(flip(label, turn))
            maps.append(draw_colour(random, self.strength))
        tensor = to_tensor(images)
        if self.strength:
            tensor = jitter_colour(tensor, torch.from_numpy(np.stack(maps)))
        more = self.unlabelled[step] if self.unlabelled is not None else {}
        return {"images": tensor, "targets": _targets(self.store, np.stack(labels)), **more}


def _targets(store: TileStore, labels: np.ndarray) -> Tensor:
    return targets_of(torch.from_numpy(store.layout(labels)), torch.from_numpy(labels < UNKNOWN))


def validation_batches(store: TileStore, patients: Collection[str]) -> list[tuple[str, np.ndarray]]:
    """Return index rows of the validation patients' tiles with known labels, by slide.

    Raises
    ------
    UserError
        If there are such patients and none of their tiles has labels.
    """
    chosen, slide, unknown = set(patients), store.column("slide"), np.isnan(store.column("foreground"))
    rows: dict[str, list[int]] = {}
    for row, patient in enumerate(store.column("patient")):
        if patient in chosen and not unknown[row]:
            rows.setdefault(slide[row], []).append(row)
    if chosen and not rows:
        raise UserError(
            f"validation: no tile of {sorted(chosen)[0]} or another validation patient has labels; annotate some."
        )
    return [(name, np.array(rows[name])) for name in sorted(rows)]


def read_tiles(store: TileStore, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return tiles as images, float (n, 3, tile, tile) in [0, 1], and int64 targets (n, tile, tile)."""
    pixels, labels = zip(*(store.tile_at(int(row)) for row in rows), strict=True)
    return to_tensor(list(pixels)), _targets(store, np.stack(labels))
