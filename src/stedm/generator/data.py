"""Batches for the generator: an image, its layout where labelled, and style images of the same slide."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stedm import seeds
from stedm.augment import (
    Transform,
    draw_colour,
    draw_transform,
    flip,
    jitter_colour,
    reduce_area,
    to_tensor,
    transformed,
)
from stedm.config import GeneratorConfig, StyleConfig
from stedm.tiles.store import UNKNOWN, TileStore
from stedm.tiles.windows import Window, WindowPool


@dataclass(frozen=True)
class StyleTile:
    """One image of a style set: a window, and for the style sampling `augmented` how it is transformed."""

    window: Window
    transform: Transform | None = None

    def read(self, pool: WindowPool) -> np.ndarray:
        """Return its RGB, uint8 (tile, tile, 3)."""
        image, _ = pool.read(self.window)
        return image if self.transform is None else transformed(image, self.transform)


def draw_style(pool: WindowPool, window: Window, style: StyleConfig, random: np.random.Generator) -> list[StyleTile]:
    """Draw a style set from the slide of `window`, by the style sampling of the generator."""
    if style.sampling == "none":
        return []
    if style.sampling == "augmented":
        return [StyleTile(window, draw_transform(random, affine=True)) for _ in range(style.count)]
    draw = pool.draw_like if style.sampling == "multi-patch" else pool.draw_near
    return [StyleTile(draw(random, window)) for _ in range(style.count)]


class TrainingBatches(Dataset):
    """Map from a batch's number to it.

    A batch is a dict of ``images`` float (batch, 3, tile, tile) in [−1, 1], ``layouts`` float
    (batch, 1, tile, tile) of 0 and 1, ``has_layout`` and ``has_style`` bool (batch,), and ``styles`` float
    (batch, count, 3, size, size) in [−1, 1].

    Parameters
    ----------
    store
        Real tiles.
    labelled, unlabelled
        Patients with and without labels; the labels of the latter are never read.
    config
        Settings of the generator.
    seed
        Seed of the run.
    """

    def __init__(
        self,
        store: TileStore,
        labelled: Collection[str],
        unlabelled: Collection[str],
        config: GeneratorConfig,
        seed: int,
    ) -> None:
        self.store, self.config, self.seed = store, config, seed
        self.labelled = WindowPool(store, labelled, known=True)
        use_unlabelled = config.unlabelled and len(unlabelled) > 0
        self.unlabelled = WindowPool(store, unlabelled) if use_unlabelled else None

    def __len__(self) -> int:
        return self.config.steps * self.config.accumulate

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        config, style = self.config, self.config.style
        random = seeds.generator(self.seed, "generator", "batch", number)
        images, layouts, has_layout, has_style, styles, maps = [], [], [], [], [], []
        for _ in range(config.batch):
            from_unlabelled = self.unlabelled is not None and random.random() < config.unlabelled_share
            pool = self.unlabelled if from_unlabelled else self.labelled
            window = pool.draw(random, foreground_share=0 if from_unlabelled else config.foreground_share)
            turn = int(random.integers(8))
            image, label = pool.read(window)
            layout = np.zeros(label.shape, bool) if from_unlabelled else self.store.layout(label)
            images.append(flip(image, turn))
            layouts.append(flip(layout, turn).astype(np.float32)[None])
            shown = not from_unlabelled and random.random() >= config.drop_layout
            # Part of a layout would say that there is no foreground where nobody looked.
            has_layout.append(shown and not (label == UNKNOWN).any())
            has_style.append(style.sampling != "none" and random.random() >= config.drop_style)
            chosen = draw_style(pool, window, style, random) or [StyleTile(window)] * style.count
            turns = random.integers(8, size=style.count)
            styles += [flip(tile.read(pool), int(t)) for tile, t in zip(chosen, turns, strict=True)]
            maps.append(draw_colour(random, config.colour_jitter))
        shared = torch.from_numpy(np.stack(maps))
        image = jitter_colour(to_tensor(images), shared)
        reduced = reduce_area(to_tensor(styles), style.size)
        set_ = jitter_colour(reduced, shared.repeat_interleave(style.count, 0))
        return {
            "images": image * 2 - 1,
            "layouts": torch.from_numpy(np.ascontiguousarray(np.stack(layouts))),
            "has_layout": torch.tensor(has_layout),
            "has_style": torch.tensor(has_style),
            "styles": (set_ * 2 - 1).unflatten(0, (config.batch, style.count)),
        }
