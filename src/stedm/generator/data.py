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
from stedm.team import part_of
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


@dataclass(frozen=True)
class _Sample:
    """What a sample is made of."""

    pool: WindowPool
    window: Window
    turn: int
    """Which of the eight symmetries; see :func:`stedm.augment.flip`."""
    shown: bool
    """Whether the layout is given, as far as it is known."""
    has_style: bool
    styles: list[StyleTile]
    turns: list[int]
    colour: np.ndarray


class TrainingBatches(Dataset):
    """Map from a batch's number to it, or to one part of it.

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
    part
        Which part of a batch, and of how many (see :class:`stedm.team.Team`).
    """

    def __init__(
        self,
        store: TileStore,
        labelled: Collection[str],
        unlabelled: Collection[str],
        config: GeneratorConfig,
        seed: int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.store, self.config, self.seed, self.part = store, config, seed, part
        self.labelled = WindowPool(store, labelled, known=True)
        use_unlabelled = config.unlabelled and len(unlabelled) > 0
        self.unlabelled = WindowPool(store, unlabelled) if use_unlabelled else None

    def __len__(self) -> int:
        return self.config.steps * self.config.accumulate

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return self.batch(number, self.part)

    def batch(self, number: int, part: tuple[int, int] = (0, 1)) -> dict[str, Tensor]:
        """Return a part of a batch; what a sample is depends on neither the part nor the other samples' pixels."""
        random = seeds.generator(self.seed, "generator", "batch", number)
        drawn = [self._draw(random) for _ in range(self.config.batch)][part_of(self.config.batch, part)]
        style = self.config.style
        images, layouts, has_layout, styles = [], [], [], []
        for sample in drawn:
            image, label = sample.pool.read(sample.window)
            layout = self.store.layout(label) if sample.pool is self.labelled else np.zeros(label.shape, bool)
            images.append(flip(image, sample.turn))
            layouts.append(flip(layout, sample.turn).astype(np.float32)[None])
            # Part of a layout would say that there is no foreground where nobody looked.
            has_layout.append(sample.shown and not (label == UNKNOWN).any())
            styles += [flip(tile.read(sample.pool), t) for tile, t in zip(sample.styles, sample.turns, strict=True)]
        shared = torch.from_numpy(np.stack([sample.colour for sample in drawn]))
        image = jitter_colour(to_tensor(images), shared)
        reduced = reduce_area(to_tensor(styles), style.size)
        set_ = jitter_colour(reduced, shared.repeat_interleave(style.count, 0))
        return {
            "images": image * 2 - 1,
            "layouts": torch.from_numpy(np.ascontiguousarray(np.stack(layouts))),
            "has_layout": torch.tensor(has_layout),
            "has_style": torch.tensor([sample.has_style for sample in drawn]),
            "styles": (set_ * 2 - 1).unflatten(0, (len(drawn), style.count)),
        }

    def _draw(self, random: np.random.Generator) -> _Sample:
        """Decide what a sample shows, without reading any of it."""
        config, style = self.config, self.config.style
        from_unlabelled = self.unlabelled is not None and random.random() < config.unlabelled_share
        pool = self.unlabelled if from_unlabelled else self.labelled
        window = pool.draw(random, foreground_share=0 if from_unlabelled else config.foreground_share)
        turn = int(random.integers(8))
        shown = not from_unlabelled and random.random() >= config.drop_layout
        has_style = style.sampling != "none" and random.random() >= config.drop_style
        chosen = draw_style(pool, window, style, random) or [StyleTile(window)] * style.count
        turns = [int(turn) for turn in random.integers(8, size=style.count)]
        return _Sample(pool, window, turn, shown, has_style, chosen, turns, draw_colour(random, config.colour_jitter))
