"""Drawing a set of synthetic images.

Image *i* depends on the seed and *i* alone: its layout, its style windows and its initial noise come from
generators seeded by them, and images are drawn in micro-batches of a fixed size at fixed places, the last
one padded, whichever process or job draws them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stedm import seeds
from stedm.augment import Transform, draw_transform, reduce_area, to_tensor
from stedm.config import SyntheticConfig
from stedm.device import use_device
from stedm.errors import UserError
from stedm.generator.data import StyleTile, draw_style
from stedm.generator.guidance import Guidance
from stedm.generator.model import Generator, load_generator
from stedm.generator.sampler import SAMPLERS
from stedm.progress import tracked
from stedm.provenance import Product
from stedm.synthetic.layouts import transformed_label
from stedm.tiles.store import StoredSlide, StoreWriter, TileStore
from stedm.tiles.windows import Window, WindowPool
from stedm.workers import ordered


@dataclass(frozen=True)
class Setting:
    """Everything that decides what is drawn; plain values, so that it travels to worker processes."""

    store: Path
    generator: Path
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    sampling: str
    """Style sampling; ``none`` draws with the null style."""
    seed: int
    config: SyntheticConfig


@dataclass(frozen=True)
class Sample:
    """What image *i* is to show."""

    number: int
    layout_window: Window
    transform: Transform
    label: np.ndarray
    style_patient: str | None
    style_tiles: tuple[StyleTile, ...]


class Drawer:
    """Draws any micro-batch of a setting.

    Parameters
    ----------
    setting
        What to draw.
    device
        Where.

    Raises
    ------
    UserError
        If there is no unlabelled patient to take a style from.
    """

    def __init__(self, setting: Setting, device: torch.device) -> None:
        self.setting, self.device = setting, device
        self.store = TileStore(setting.store)
        self.model: Generator = load_generator(setting.generator, device)
        self.layouts = WindowPool(self.store, setting.labelled, known=True)
        self.style = self.model.config.style.model_copy(update={"sampling": setting.sampling})
        if setting.sampling != "none" and not setting.unlabelled:
            raise UserError(
                "budgets: every training patient is labelled, so there is no unlabelled style to draw in; "
                "lower the budget."
            )
        self.styles = None if setting.sampling == "none" else WindowPool(self.store, setting.unlabelled)

    def sample(self, number: int) -> Sample:
        """Decide what image `number` shows, from the seed and the number alone."""
        random = seeds.generator(self.setting.seed, "synthetic", number)
        config = self.setting.config
        window = self.layouts.draw(random, foreground_share=config.foreground_share)
        transform = draw_transform(random, config.affine)
        label = transformed_label(self.layouts, window, transform)
        patient, tiles = None, []
        if self.styles is not None:
            patient = self.styles.patients[random.integers(len(self.styles.patients))]
            first = self.styles.draw_from(random, patient)
            tiles = draw_style(self.styles, first, self.style, random)
        return Sample(number, window, transform, label, patient, tuple(tiles))

    def noise(self, number: int) -> Tensor:
        """Return the initial noise of an image, float32 (channels, h, w), from the seed and the number alone."""
        random = torch.Generator().manual_seed(seeds.derive(self.setting.seed, "synthetic noise", number))
        side = self.store.tile // self.model.first_stage.factor
        return torch.randn((self.model.first_stage.channels, side, side), generator=random)

    @torch.no_grad()
    def draw(self, samples: list[Sample]) -> np.ndarray:
        """Draw images, uint8 (len(samples), tile, tile, 3), as one micro-batch padded to its fixed size."""
        size = self.setting.config.micro_batch
        padded = (samples * (size // len(samples) + 1))[:size]
        noise = torch.stack([self.noise(sample.number) for sample in padded]).to(self.device)
        layouts = np.stack([self.store.layout(sample.label) for sample in padded])
        drawn = self.render(noise, layouts, self.style_vectors(padded))
        return drawn[: len(samples)]

    def style_vectors(self, samples: list[Sample]) -> Tensor | None:
        """Return the style vectors of samples, (len(samples), dim); None where no style is used."""
        if self.styles is None:
            return None
        tiles = [tile for sample in samples for tile in sample.style_tiles]
        images = to_tensor([tile.read(self.styles) for tile in tiles])
        reduced = reduce_area(images, self.model.config.style.size) * 2 - 1
        return self.model.style(reduced.unflatten(0, (len(samples), -1)).to(self.device))

    @torch.no_grad()
    def render(self, noise: Tensor, layouts: np.ndarray, style: Tensor | None) -> np.ndarray:
        """Run the sampler.

        Parameters
        ----------
        noise
            Standard normal, (batch, channels, h, w).
        layouts
            bool (batch, tile, tile).
        style
            Style vectors (batch, dim), or None for the null style.

        Returns
        -------
        np.ndarray
            uint8 (batch, tile, tile, 3).
        """
        config = self.setting.config
        drawn = torch.from_numpy(layouts[:, None].astype(np.float32)).to(self.device)
        denoise = self.model.guided(style, drawn, guidance_of(config))
        sigmas = self.model.way.sigmas(config.steps).to(self.device)
        latents = SAMPLERS[config.sampler](denoise, noise, sigmas)
        images = self.model.first_stage.decode(latents).clamp(-1, 1)
        return ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def guidance_of(config: SyntheticConfig) -> Guidance:
    """Return the guidance that a configuration asks for."""
    return Guidance(config.guidance, config.layout_guidance, config.guidance_rescale, config.guidance_interval)


_drawer: Drawer | None = None


def _start_worker(setting: Setting, device: str, threads: int) -> None:
    global _drawer
    _drawer = Drawer(setting, use_device(device, threads))


def _draw_numbers(numbers: range) -> tuple[list[Sample], np.ndarray]:
    samples = [_drawer.sample(number) for number in numbers]
    return samples, _drawer.draw(samples)


def micro_batches(config: SyntheticConfig, part: int, parts: int) -> list[range]:
    """Return the micro-batches of one of several jobs: whole ones, dealt out in turn."""
    starts = range(0, config.count, config.micro_batch)
    batches = [range(start, min(start + config.micro_batch, config.count)) for start in starts]
    return batches[part::parts]


def draw_synthetic(
    making: Product,
    setting: Setting,
    *,
    generator_id: str,
    part: int = 0,
    parts: int = 1,
    device: str = "auto",
    threads: int = 1,
    workers: int = 0,
) -> None:
    """Draw a setting, or one of several parts of it, and write it as a tile store.

    Parameters
    ----------
    making
        The product in the making; images that an earlier process finished are taken up.
    setting
        What to draw.
    generator_id
        Written into the index.
    part, parts
        Which part of how many.
    device, threads, workers
        See :class:`stedm.config.ExecutionConfig`.
    """
    where = use_device(device, threads)
    store = TileStore(setting.store)
    writer = StoreWriter(making.folder, tile=store.tile, classes=store.classes, foreground=store.foreground)
    done = writer.done
    batches = [
        numbers for numbers in micro_batches(setting.config, part, parts) if not all(_name(n) in done for n in numbers)
    ]
    label = f"synthetic, seed {setting.seed}, style {setting.sampling}"
    arguments = (setting, str(where), threads)
    drawn = ordered(_draw_numbers, batches, workers, start=_start_worker, arguments=arguments)
    for samples, images in tracked(drawn, label, len(batches), "micro-batches"):
        for sample, image in zip(samples, images, strict=True):
            if _name(sample.number) not in done:
                writer.add(*_entry(sample, image, setting, store, generator_id))
    writer.finish()
    if part == 0:
        drawer = _drawer or Drawer(setting, where)
        write_grid(making.folder / "preview" / "grid.npz", drawer)
    making.facts |= {"device": str(where), "threads": threads, "images": sum(map(len, batches))}


def _name(number: int) -> str:
    return f"synthetic-{number:06d}"


def _entry(
    sample: Sample, image: np.ndarray, setting: Setting, store: TileStore, generator_id: str
) -> tuple[StoredSlide, np.ndarray, np.ndarray, list[dict[str, Any]]]:
    source = store.slides[sample.layout_window.slide]
    patient = sample.style_patient or source.patient
    slide = StoredSlide(
        _name(sample.number),
        patient,
        source.group,
        "train",
        store.tile,
        store.tile,
        source.mpp,
        source.downsample,
    )
    row = {
        "x": 0,
        "y": 0,
        "tissue": 1.0,
        "foreground": float(store.layout(sample.label).mean()),
        "origin": "synthetic",
        "layout_slide": sample.layout_window.slide,
        "layout_x": sample.layout_window.x,
        "layout_y": sample.layout_window.y,
        "layout_transform": sample.transform.describe(),
        "style_patient": sample.style_patient,
        "style_slide": sample.style_tiles[0].window.slide if sample.style_tiles else None,
        "style_windows": json.dumps([[tile.window.x, tile.window.y] for tile in sample.style_tiles]),
        "style_sampling": setting.sampling,
        "seed": setting.seed,
        "guidance": setting.config.guidance if sample.style_tiles else None,
        "generator": generator_id,
    }
    return slide, image[None], sample.label[None], [row]


def write_grid(path: Path, drawer: Drawer, layouts: int = 4, styles: int = 5) -> None:
    """Write a picture of layouts × styles: every layout drawn in every style, as arrays (see the report).

    Images without a style have none: they stand beside those of each style.
    """
    if not drawer.styles:
        return
    shown = _different(drawer, layouts)
    names = drawer.styles.patients[:styles]
    arrays: dict[str, Any] = {
        "layouts": np.stack([drawer.store.layout(s.label) for s in shown]).astype(np.uint8),
        "layout_images": np.stack([drawer.layouts.read(s.layout_window)[0] for s in shown]),
        "layout_names": np.array([s.layout_window.slide for s in shown]),
        "style_names": np.array(names, dtype=str),
    }
    masks = arrays["layouts"].astype(bool)
    noise = torch.stack([drawer.noise(-1 - n) for n in range(len(shown))]).to(drawer.device)
    arrays["null_images"] = drawer.render(noise, masks, None)
    columns, sets = [], []
    for name in names:
        random = seeds.generator(drawer.setting.seed, "grid", name)
        first = drawer.styles.draw_from(random, name)
        tiles = tuple(draw_style(drawer.styles, first, drawer.style, random))
        sample = Sample(0, first, Transform(0), shown[0].label, name, tiles)
        with torch.no_grad():
            vector = drawer.style_vectors([sample])
        sets.append(np.stack([tile.read(drawer.styles) for tile in tiles]))
        columns.append(drawer.render(noise, masks, vector.expand(len(shown), -1)))
    arrays |= {"styles": np.stack(sets), "images": np.stack(columns, 1)}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def _different(drawer: Drawer, wanted: int, tries: int = 200) -> list[Sample]:
    """Choose windows that have both classes and come from different slides, with their layouts as they are."""
    chosen: list[Sample] = []
    for number in range(tries):
        sample = drawer.sample(number)
        upright = Transform(0)
        label = transformed_label(drawer.layouts, sample.layout_window, upright)
        sample = replace(sample, transform=upright, label=label)
        share = drawer.store.layout(sample.label).mean()
        seen = {s.layout_window.slide for s in chosen}
        if 0.2 < share < 0.7 and (sample.layout_window.slide not in seen or number > tries // 2):
            chosen.append(sample)
        if len(chosen) == wanted:
            return chosen
    return chosen or [drawer.sample(0)]
