"""Labelled images in the colours of unlabelled patients: classical style transfer, without a generator.

A window of a labelled slide keeps its pixels' places and its labels; its optical densities are mapped so that the
slide's mean and covariance become those of a slide of an unlabelled patient. Image *i* depends on the seed and
*i* alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stedm import seeds
from stedm.augment import Transform
from stedm.config import SyntheticConfig
from stedm.progress import tracked
from stedm.provenance import Product
from stedm.stain import Moments, apply_map, moments_of, slide_pixels, transfer_map
from stedm.tiles.store import UNKNOWN, StoredSlide, StoreWriter, TileStore
from stedm.tiles.windows import Window, WindowPool

ORIGIN = "transferred"


@dataclass(frozen=True)
class Sample:
    """What image *i* is: a window of a labelled slide, and whose colours it takes."""

    number: int
    window: Window
    style_patient: str
    style: Window


class Transfer:
    """Makes any image of a setting.

    Parameters
    ----------
    store
        Real tiles.
    labelled, unlabelled
        Patients that give images with labels, and patients that give colours.
    foreground_share
        Share of the windows drawn from tiles with foreground.
    seed
        Seed of the run.
    """

    def __init__(
        self,
        store: TileStore,
        labelled: Collection[str],
        unlabelled: Collection[str],
        foreground_share: float,
        seed: int,
    ) -> None:
        self.store, self.foreground_share, self.seed = store, foreground_share, seed
        self.layouts = WindowPool(store, labelled, known=True)
        self.styles = WindowPool(store, unlabelled)
        self.moments = cache(self._moments)

    def _moments(self, slide: str) -> Moments:
        return moments_of(slide_pixels(self.store, slide))

    def sample(self, number: int) -> Sample:
        """Decide what image `number` is, from the seed and the number alone."""
        random = seeds.generator(self.seed, ORIGIN, number)
        window = self.layouts.draw(random, foreground_share=self.foreground_share)
        patient = self.styles.patients[random.integers(len(self.styles.patients))]
        return Sample(number, window, patient, self.styles.draw_from(random, patient))

    def make(self, window: Window, style_slide: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a window's RGB, uint8 (tile, tile, 3), in another slide's colours, and its label as it is."""
        image, label = self.layouts.read(window)
        return apply_map(image, transfer_map(self.moments(window.slide), self.moments(style_slide))), label


def draw_transferred(
    making: Product,
    *,
    store: TileStore,
    labelled: Collection[str],
    unlabelled: Collection[str],
    config: SyntheticConfig,
    seed: int,
    part: int = 0,
    parts: int = 1,
) -> None:
    """Make a setting, or one of several parts of it, and write it as a tile store.

    Parameters
    ----------
    making
        The product in the making; images that an earlier process finished are taken up.
    store, labelled, unlabelled, seed
        See :class:`Transfer`.
    config
        Settings; ``count`` and ``foreground_share`` are used.
    part, parts
        Which part of how many.
    """
    transfer = Transfer(store, labelled, unlabelled, config.foreground_share, seed)
    writer = StoreWriter(making.folder, tile=store.tile, classes=store.classes, foreground=store.foreground)
    done = writer.done
    numbers = [number for number in range(part, config.count, parts) if _name(number) not in done]
    for number in tracked(iter(numbers), f"transferred, seed {seed}", len(numbers), "images"):
        sample = transfer.sample(number)
        writer.add(*_entry(transfer, sample))
    writer.finish()
    if part == 0:
        _write_grid(making.folder / "preview" / "grid.npz", transfer)
    making.facts |= {"images": len(numbers)}


def _name(number: int) -> str:
    return f"{ORIGIN}-{number:06d}"


def _entry(transfer: Transfer, sample: Sample) -> tuple[StoredSlide, np.ndarray, np.ndarray, list[dict[str, Any]]]:
    store, window = transfer.store, sample.window
    image, label = transfer.make(window, sample.style.slide)
    source, known = store.slides[window.slide], label < UNKNOWN
    name, side = _name(sample.number), store.tile
    slide = StoredSlide(name, sample.style_patient, source.group, "train", side, side, source.mpp, source.downsample)
    row = {
        "x": 0,
        "y": 0,
        "tissue": 1.0,
        "foreground": float(store.layout(label)[known].mean()) if 2 * known.sum() >= known.size else None,
        "origin": ORIGIN,
        "layout_slide": window.slide,
        "layout_x": window.x,
        "layout_y": window.y,
        "layout_transform": Transform(0).describe(),
        "style_patient": sample.style_patient,
        "style_slide": sample.style.slide,
        "style_sampling": ORIGIN,
        "seed": transfer.seed,
    }
    return slide, image[None], label[None], [row]


def _write_grid(path: Path, transfer: Transfer, layouts: int = 4, styles: int = 5) -> None:
    """Write a picture of images × colours: every image in the colours of every patient, as arrays (see the report)."""
    shown: dict[str, Window] = {}
    for number in range(200):
        window = transfer.sample(number).window
        share = transfer.store.layout(transfer.layouts.read(window)[1]).mean()
        if 0.2 < share < 0.7 and len(shown) < layouts:
            shown.setdefault(window.slide, window)
    windows = list(shown.values()) or [transfer.sample(0).window]
    own = [transfer.layouts.read(window) for window in windows]
    names = transfer.styles.patients[:styles]
    colours = [transfer.styles.draw_from(seeds.generator(transfer.seed, "grid", name), name) for name in names]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        layouts=np.stack([transfer.store.layout(label) for _, label in own]).astype(np.uint8),
        layout_images=np.stack([image for image, _ in own]),
        layout_names=np.array([window.slide for window in windows]),
        style_names=np.array(names, dtype=str),
        styles=np.stack([transfer.styles.read(window)[0][None] for window in colours]),
        images=np.stack([[transfer.make(window, colour.slide)[0] for colour in colours] for window in windows]),
    )
