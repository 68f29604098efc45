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
    maps
        A map of densities for each slide, from :func:`normalising_maps`.
    column
        Column of the index that names a tile's slide: of synthetic images ``style_slide``, whose stains they have.
    """

    def __init__(self, store: TileStore, maps: dict[str, np.ndarray], column: str = "slide") -> None:
        vars(self).update(vars(store))
        self._maps, self._names = maps, store.column(column)

    def tile_at(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the tile of an index row: normalised RGB uint8 (tile, tile, 3) and label uint8 (tile, tile)."""
        image, label = super().tile_at(row)
        return apply_map(image, self._maps[self._names[row]]), label


def normalising_maps(
    store: TileStore, labelled: Collection[str], others: Collection[str] = ()
) -> tuple[str, dict[str, np.ndarray]]:
    """Find the stains of slides, choose the reference, and map every slide's stains to it.

    Parameters
    ----------
    store
        Real tiles.
    labelled
        Patients among whose slides the reference is: the one whose stains are nearest to those of the others.
    others
        More patients whose slides are read.

    Returns
    -------
    str
        The reference slide.
    dict of str to np.ndarray
        For each slide a map of densities, (3, 4).

    Raises
    ------
    UserError
        If the stains of a slide cannot be found (see :func:`stedm.stain.find_stains`).
    """
    wanted, stored = {*labelled, *others}, set(store.column("slide"))
    chosen = [name for name, slide in store.slides.items() if slide.patient in wanted and name in stored]
    stains = {name: find_stains(slide_pixels(store, name), name) for name in chosen}
    reference = reference_of({name: found for name, found in stains.items() if store.slides[name].patient in labelled})
    return reference, {name: normalising_map(found, stains[reference]) for name, found in stains.items()}


def reference_of(stains: dict[str, Stains]) -> str:
    """Return the slide whose two stains, times their strengths, differ least from those of all others.

    Raises
    ------
    UserError
        If there is no slide.
    """
    if not stains:
        raise UserError("normalisation: no labelled slide has tiles, so there is no reference to normalise to.")
    names = sorted(stains)
    profiles = np.array([(stains[name].vectors[:, :2] * stains[name].strength).ravel() for name in names])
    distances = np.linalg.norm(profiles[:, None] - profiles[None], axis=2).sum(1)
    return names[int(distances.argmin())]
