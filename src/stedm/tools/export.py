"""Layouts, predictions and tile grids as GeoJSON for QuPath, in pixels of the slide's level 0."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from stedm.cohort.base import REGION
from stedm.errors import UserError
from stedm.phantom.geojson import feature, write_features
from stedm.provenance import write_text
from stedm.study import Study
from stedm.tiles.preview import COLOURS
from stedm.tiles.store import UNKNOWN, StoredSlide, TileStore
from stedm.tools.outlines import LOSSLESS, outline

log = logging.getLogger("stedm")

Masks = Mapping[tuple[str, Sequence[int]], np.ndarray]
"""Masks by name and colour of their class."""
REGIONS = (0, 0, 180)
"""QuPath's own colour of regions."""
DECIMALS = 3
"""Of coordinates, where a working pixel is no even number of pixels of level 0."""


@dataclass(frozen=True)
class Exporter:
    """What all exports of a store share.

    Attributes
    ----------
    store
        The tile store.
    out
        Folder of the files; one that is there already is replaced.
    tolerance
        By how much an outline may be moved to simplify it, in working pixels.
    """

    store: TileStore
    out: Path
    tolerance: float = LOSSLESS

    def layout(self, slide: str) -> dict[str, Any]:
        """Write what the store holds of a slide's annotations to ``layouts/<slide>.geojson``; return its facts.

        Where some labels are unknown, the others lie in polygons of the class :data:`REGION`, which do not count in
        the areas.
        """
        plane = np.full(self._padded(slide), UNKNOWN, np.uint8)
        partly = False
        for row, place in self._tiles(slide):
            plane[place] = self.store.tile_at(row)[1]
            partly |= bool((plane[place] == UNKNOWN).any())
        regions = {(REGION, REGIONS): plane != UNKNOWN} if partly else {}
        masks = {(name, COLOURS[n % len(COLOURS)]): plane == n + 1 for n, name in enumerate(self.store.classes)}
        return self._write(f"layouts/{slide}.geojson", slide, masks, regions)

    def tiles(self, slide: str) -> dict[str, Any]:
        """Write the stored tiles of a slide to ``tiles/<slide>.geojson``; return its facts."""
        size, side = self.store.slides[slide], self.store.tile
        measured = {name: self.store.index[name].to_pylist() for name in ("tissue", "foreground")}
        features = []
        for row, (down, across) in self._tiles(slide):
            x0, y0 = across.start, down.start
            x1, y1 = min(x0 + side, size.width), min(y0 + side, size.height)
            ring = _coordinates(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), size)
            values = {name: column[row] for name, column in measured.items() if column[row] is not None}
            features.append(feature(row, None, [ring], kind="tile", measurements=values))
        path = f"tiles/{slide}.geojson"
        self._save(path, features)
        return {"file": path, "slide": slide, "features": len(features)}

    def predictions(self, run: str, table: Any, slide: str, checkpoint: str) -> dict[str, Any]:
        """Write predicted foreground to ``predictions/<run>/<slide>.geojson``; return its facts.

        Parameters
        ----------
        run
            The segmenter's id.
        table
            Its ``predictions.parquet`` (:mod:`stedm.segmenter.predict`) as a data frame.
        slide
            One of the slides in it.
        checkpoint
            Column of the table.
        """
        side, plane = self.store.tile, np.zeros(self._padded(slide), bool)
        for row in table[table["slide"] == slide].itertuples():
            bits = np.unpackbits(np.frombuffer(getattr(row, checkpoint), np.uint8))
            plane[row.y : row.y + side, row.x : row.x + side] = bits.reshape(side, side)
        # QuPath shows a class derived from another one like this.
        name = f"{' or '.join(self.store.foreground)}: predicted"
        return self._write(f"predictions/{run}/{slide}.geojson", slide, {(name, COLOURS[-1]): plane})

    def _padded(self, slide: str) -> tuple[int, int]:
        size, side = self.store.slides[slide], self.store.tile
        return (size.height + -size.height % side, size.width + -size.width % side)

    def _tiles(self, slide: str) -> Iterator[tuple[int, tuple[slice, slice]]]:
        """Yield the row of each stored tile and its place on the slide."""
        side, x, y = self.store.tile, self.store.column("x"), self.store.column("y")
        for row in np.flatnonzero(self.store.column("slide") == slide):
            yield int(row), (slice(int(y[row]), int(y[row]) + side), slice(int(x[row]), int(x[row]) + side))

    def _write(self, path: str, slide: str, masks: Masks, bounds: Masks = MappingProxyType({})) -> dict[str, Any]:
        size = self.store.slides[slide]
        features: list[dict] = []
        pixels, area, deviation = 0, 0.0, 0.0
        for (name, colour), mask in [*bounds.items(), *masks.items()]:
            # Labels and predictions beyond the slide's edge are none.
            mask = mask[: size.height, : size.width]
            found = outline(mask, self.tolerance)
            for polygon in found.polygons:
                rings = [_coordinates(ring, size) for ring in polygon]
                features.append(feature(len(features), name, rings, colour=colour))
            if (name, colour) not in bounds:
                pixels, area = pixels + int(mask.sum()), area + found.area
            deviation = max(deviation, found.deviation)
        self._save(path, features)
        return {
            "file": path,
            "slide": slide,
            "features": len(features),
            "mask_area": pixels * size.downsample**2,
            "polygon_area": area * size.downsample**2,
            "deviation": deviation * size.downsample,
        }

    def _save(self, path: str, features: list[dict]) -> None:
        (self.out / path).parent.mkdir(parents=True, exist_ok=True)
        write_features(self.out / path, features)


def _coordinates(ring: np.ndarray, size: StoredSlide) -> list[tuple[float, float]]:
    scaled = np.round(ring * size.downsample, DECIMALS)
    return [tuple(int(value) if value.is_integer() else value for value in point) for point in scaled.tolist()]


def export(
    study: Study,
    out: Path,
    *,
    segmenters: Collection[str] = (),
    checkpoint: str = "last",
    slides: Collection[str] = (),
    tolerance: float = LOSSLESS,
) -> Path:
    """Export layouts and tile grids of a configuration's slides, and predictions of some of its segmenters.

    Parameters
    ----------
    study
        Of the configuration, whose tiles have been cut.
    out
        Folder of the files.
    segmenters
        Ids of segmenter runs.
    checkpoint
        Whose predictions: ``last`` or ``best``.
    slides
        Slides to export; by default all, and of predictions all that the segmenter predicted.
    tolerance
        By how much an outline may be moved to simplify it, in working pixels.

    Returns
    -------
    path
        ``export.json`` in `out`: the tolerance and, of each file, the areas of masks and polygons in square
        pixels and the largest deviation of an outline in pixels, both of level 0.

    Raises
    ------
    UserError
        If the tiles or predictions have not been made, or a slide or run is unknown.
    """
    import pandas as pd

    out, store = Path(out), TileStore(study.tiles.folder)
    if unknown := sorted(set(slides) - set(store.slides)):
        raise UserError(f"--slides: the store has no slide {unknown[0]!r}; it has {', '.join(sorted(store.slides))}.")
    if tolerance < 0:
        raise UserError(f"--tolerance: {tolerance} working pixels; give 0 or more.")
    tables = {}
    for name in segmenters:
        path = study.find("segmenter", name)[1].folder / "predictions.parquet"
        if not path.is_file():
            raise UserError(f"{path}: missing; run `stedm segmenter CONFIG {name}` first.")
        tables[name] = pd.read_parquet(path, columns=["slide", "x", "y", checkpoint])
    exporter, files = Exporter(store, out, tolerance), []
    for slide in sorted(slides or store.slides):
        files += [exporter.layout(slide), exporter.tiles(slide)]
    for name, table in tables.items():
        predicted = sorted(set(table["slide"]))
        files += [
            exporter.predictions(name, table, slide, checkpoint) for slide in predicted if not slides or slide in slides
        ]
    return _summary(out, files, tolerance)


def _summary(out: Path, files: list[dict[str, Any]], tolerance: float) -> Path:
    drawn = [file for file in files if "deviation" in file]
    mask, polygons = (sum(file[key] for file in drawn) for key in ("mask_area", "polygon_area"))
    deviation = max((file["deviation"] for file in drawn), default=0.0)
    log.info(
        "%d files: outlines deviate by at most %.2f pixels of level 0, areas by %+.3f %%",
        *(len(files), deviation, 100 * (polygons / mask - 1) if mask else 0.0),
    )
    content = {"tolerance_working_pixels": tolerance, "files": files}
    write_text(out / "export.json", json.dumps(content, indent=1) + "\n")
    return out / "export.json"
