"""Cutting one slide into tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from stedm.cohort.annotations import check_polygons
from stedm.cohort.base import BOUNDS, Consensus, MaskImage, Polygon, Slide
from stedm.config import TilesConfig
from stedm.tiles.agreement import ConsensusLayout, RegionLayout
from stedm.tiles.layout import MaskLayout, PolygonLayout
from stedm.tiles.reader import SlideReader, reduce_integer, working_downsample
from stedm.tiles.store import OUTSIDE, UNKNOWN, StoredSlide, split_records
from stedm.tiles.tissue import tissue_fractions, tissue_mask

THUMBNAIL_SIDE = 2048
"""Longest side of the thumbnail on which tissue is sought."""
WHOLE_PIXELS = 32 * 2**20
"""Slides of at most so many working pixels are decoded once, for thumbnail and tiles."""

Annotation = Sequence[Polygon] | Consensus | MaskImage | None
Layout = PolygonLayout | ConsensusLayout | RegionLayout | MaskLayout


@dataclass(frozen=True)
class Plan:
    """What is known of a slide before its tiles are read."""

    downsample: float
    width: int
    height: int
    factor: int
    """Working pixels to a pixel of the thumbnail."""
    thumbnail: np.ndarray
    tissue: np.ndarray
    fractions: np.ndarray
    """Tissue of each tile of the grid, float64 (rows, columns)."""
    pixels: np.ndarray | None
    """The whole slide at working resolution, where it is small."""


def plan_slide(reader: SlideReader, config: TilesConfig) -> Plan:
    """Find the tissue of a slide.

    Raises
    ------
    UserError
        If the working resolution cannot be had, or the file is damaged.
    """
    downsample = working_downsample(reader, config)
    width, height = reader.working_size(downsample)
    factor = max(1, config.tile // 16)
    while max(width, height) / factor > THUMBNAIL_SIDE:
        factor *= 2
    while factor > min(width, height):
        factor //= 2
    if width * height <= WHOLE_PIXELS:
        pixels = reader.read(0, 0, width, height, downsample)
        across, down = width // factor * factor, height // factor * factor
        thumbnail = reduce_integer(pixels[:down, :across], factor)
    else:
        pixels = None
        thumbnail = reader.read(0, 0, *reader.working_size(downsample * factor), downsample * factor)
    tissue = tissue_mask(thumbnail) if config.min_tissue else np.ones(thumbnail.shape[:2], bool)
    fractions = tissue_fractions(tissue, config.tile, width, height)
    return Plan(downsample, width, height, factor, thumbnail, tissue, fractions, pixels)


def open_layout(annotation: Annotation, reader: SlideReader, config: TilesConfig) -> AbstractContextManager[Layout]:
    """Check the annotation of a slide and make it ready to be drawn.

    Raises
    ------
    UserError
        If the annotation does not fit the slide or has an unknown class.
    """
    if isinstance(annotation, MaskImage):
        return MaskLayout(annotation, config.classes, reader.size)
    width, height = reader.size
    source = f"annotations of {reader.path}"
    drawn = (annotation.annotators or [()]) if isinstance(annotation, Consensus) else [annotation or ()]
    known = [*config.classes, *BOUNDS]
    checked = [check_polygons(own, width=width, height=height, classes=known, source=source) for own in drawn]
    bounds = [polygon for own in checked for polygon in own if polygon.annotated in BOUNDS]
    layouts = [PolygonLayout([p for p in own if p.annotated not in BOUNDS], config.classes) for own in checked]
    foreground = [1 + config.classes.index(name) for name in config.foreground]
    layout = layouts[0] if len(layouts) == 1 else ConsensusLayout(layouts, foreground)
    return nullcontext(RegionLayout(layout, bounds) if bounds else layout)


def stored_slide(reader: SlideReader, slide: Slide, plan: Plan) -> StoredSlide:
    """Return a slide's facts in working pixels."""
    mpp = None if reader.mpp is None else reader.mpp * plan.downsample
    return StoredSlide(
        slide.slide, slide.patient, slide.group, slide.split, plan.width, plan.height, mpp, plan.downsample
    )


def cut_slide(
    reader: SlideReader, annotation: Annotation, config: TilesConfig, plan: Plan
) -> Iterator[tuple[np.ndarray, list[dict[str, Any]]]]:
    """Cut a slide into tiles, some of a row of the grid at a time, so that memory does not grow with the slide.

    The grid begins at the slide's upper left corner. Beyond the slide's right and lower edge a tile is
    continued by reflection, and its label there is :data:`~stedm.tiles.store.OUTSIDE`.

    Parameters
    ----------
    reader
        The open slide.
    annotation
        Polygons in pixels of level 0, those of several people, a mask image, or None for a slide that nobody
        annotated: its labels are 0 and its `foreground` is null.
    config
        Tile side, classes, least tissue.
    plan
        From :func:`plan_slide`.

    Yields
    ------
    records
        uint8 (n, 4 × tile²), tiles as the store keeps them, by row and column.
    rows
        For each tile ``x``, ``y``, ``tissue`` and ``foreground``, fractions of what lies inside the slide;
        `foreground` is of what lies in annotated regions, and null where that is less than half of the tile.

    Raises
    ------
    UserError
        If the slide is damaged, or the annotation does not fit it.
    """
    side = config.tile
    foreground = [1 + config.classes.index(name) for name in config.foreground]
    with open_layout(annotation, reader, config) as layout:
        for row, columns in _runs(np.argwhere(plan.fractions >= config.min_tissue)):
            x, y = int(columns[0]) * side, row * side
            width, height = min((int(columns[-1]) + 1) * side, plan.width) - x, min(side, plan.height - y)
            if plan.pixels is None:
                image = reader.read(x, y, width, height, plan.downsample)
            else:
                image = plan.pixels[y : y + height, x : x + width]
            label = layout.draw(x, y, width, height, plan.downsample)
            records = np.empty((len(columns), 4 * side * side), np.uint8)
            images, labels = split_records(records, side)
            rows: list[dict[str, Any]] = []
            for n, left in enumerate(columns * side - x):
                across = min(side, width - left)
                part = (slice(None), slice(left, left + across))
                images[n] = cv2.copyMakeBorder(image[part], 0, side - height, 0, side - across, cv2.BORDER_REFLECT)
                labels[n] = OUTSIDE
                labels[n, :height, :across] = label[part]
                marked = None if annotation is None else np.isin(label[part], foreground)[label[part] != UNKNOWN]
                share = None if marked is None or 2 * marked.size < label[part].size else float(marked.mean())
                fractions = _rounded(plan.fractions[row, columns[n]], share)
                rows.append({"x": x + int(left), "y": y, **fractions})
            yield records, rows


def _rounded(tissue: float, foreground: float | None) -> dict[str, float | None]:
    kept = None if foreground is None else round(foreground, 6)
    return {"tissue": round(float(tissue), 6), "foreground": kept}


def _runs(places: np.ndarray, gap: int = 4) -> Iterator[tuple[int, np.ndarray]]:
    """Group tiles of a row that are read at once: the row and its columns, ascending."""
    for row in np.unique(places[:, 0]):
        columns = places[places[:, 0] == row, 1]
        for run in np.split(columns, np.flatnonzero(np.diff(columns) > gap) + 1):
            yield int(row), run
