"""Stain normalisation: every slide in the stains of one labelled slide."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from stedm.errors import UserError
from stedm.stain import Stains, apply_map, find_stains, normalising_map, slide_pixels
from stedm.tiles.store import TileStore


class NormalisedTiles(TileStore):
    """A tile store of which each tile that is read is normalised; labels are as they are.

    Parameters
    ----------
    store
        The tiles.
    labelled
        Patients among whose slides the reference is: the one whose stains are nearest to those of the others.
    others
        More patients whose slides are read.

    Raises
    ------
    UserError
        If the stains of a slide cannot be found (see :func:`stedm.stain.find_stains`).
    """

    def __init__(self, store: TileStore, labelled: Collection[str], others: Collection[str] = ()) -> None:
        vars(self).update(vars(store))
        wanted = {*labelled, *others}
        self._names = store.column("slide")
        stored = set(self._names)
        chosen = [s for s, slide in store.slides.items() if slide.patient in wanted and s in stored]
        stains = {slide: find_stains(slide_pixels(store, slide), slide) for slide in chosen}
        self.reference = reference_of({s: found for s, found in stains.items() if store.slides[s].patient in labelled})
        self._maps = {slide: normalising_map(found, stains[self.reference]) for slide, found in stains.items()}

    def tile_at(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the tile of an index row: normalised RGB uint8 (tile, tile, 3) and label uint8 (tile, tile)."""
        image, label = super().tile_at(row)
        return apply_map(image, self._maps[self._names[row]]), label


def reference_of(stains: dict[str, Stains]) -> str:
    """Return the slide whose two stains, times their strengths, differ least from those of all others.

    Raises
    ------
    UserError
        If there is no slide.
    """
    if not stains:
        raise UserError("real-normalised: no labelled slide has tiles, so there is no reference to normalise to.")
    names = sorted(stains)
    profiles = np.array([(stains[name].vectors[:, :2] * stains[name].strength).ravel() for name in names])
    distances = np.linalg.norm(profiles[:, None] - profiles[None], axis=2).sum(1)
    return names[int(distances.argmin())]
