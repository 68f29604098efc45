"""Drawing windows from a tile store: which patient, which slide, where."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from stedm.errors import UserError
from stedm.tiles.store import UNKNOWN, TileStore

STYLE_TISSUE = 0.5
"""Least fraction of tissue of a tile around which a window is drawn."""
SOME_FOREGROUND = 0.05
"""Least fraction of foreground of a tile that counts as one with foreground."""


@dataclass(frozen=True)
class Window:
    """A square of one slide, of the store's tile side, by its upper left corner in working pixels."""

    slide: str
    x: int
    y: int


class WindowPool:
    """The windows of some patients; each patient is drawn equally often, whatever their number of tiles.

    Slides smaller than a tile in one direction are left out: a model sees whole windows only.

    Parameters
    ----------
    store
        Where the pixels lie.
    patients
        Patients that may be drawn.
    known
        Draw only where at least half of the labels are known. Style windows of the same slide are not bound
        by this.

    Raises
    ------
    UserError
        If none of the patients has a window.
    """

    def __init__(self, store: TileStore, patients: Collection[str], *, known: bool = False) -> None:
        self.store = store
        chosen = set(patients)
        tissue, foreground = store.column("tissue"), store.column("foreground")
        x, y = store.column("x"), store.column("y")
        self._slide, self._patient = store.column("slide"), store.column("patient")
        self._any: dict[str, np.ndarray] = {}
        self._foreground: dict[str, np.ndarray] = {}
        self._by_slide: dict[str, list[int]] = {}
        self._partly: set[str] = set()
        rows: dict[str, list[int]] = {}
        for row in np.flatnonzero(tissue >= STYLE_TISSUE):
            slide = store.slides[self._slide[row]]
            if self._patient[row] in chosen and min(slide.width, slide.height) >= store.tile:
                if known and np.isnan(foreground[row]):
                    self._partly.add(self._slide[row])
                else:
                    rows.setdefault(self._patient[row], []).append(int(row))
                self._by_slide.setdefault(self._slide[row], []).append(int(row))
        for patient in sorted(rows):
            own = np.array(rows[patient])
            self._any[patient] = own
            if (with_some := own[foreground[own] >= SOME_FOREGROUND]).size:
                self._foreground[patient] = with_some
        if not self._any:
            raise UserError(
                f"no window of {store.tile} pixels with tissue in the slides of {sorted(chosen)}; "
                "lower tiles.tile or tiles.min_tissue, or check the tissue in the preview."
            )
        self._x, self._y = x, y

    @property
    def patients(self) -> list[str]:
        """Patients that have windows, sorted."""
        return list(self._any)

    def draw(self, random: np.random.Generator, *, foreground_share: float = 0.0) -> Window:
        """Draw a window: a patient, one of its tiles, a shift of up to half a tile.

        Parameters
        ----------
        random
            Source of randomness; the number of draws from it does not depend on what is drawn.
        foreground_share
            How often the tile must have foreground.
        """
        with_foreground = random.random() < foreground_share and self._foreground
        rows = self._foreground if with_foreground else self._any
        patient = list(rows)[random.integers(len(rows))]
        row = rows[patient][random.integers(len(rows[patient]))]
        window = self._shifted(random, row)
        if window.slide in self._partly and 2 * (self.read(window)[1] == UNKNOWN).sum() > self.store.tile**2:
            return self._inside(window.slide, int(self._x[row]), int(self._y[row]))
        return window

    def draw_from(self, random: np.random.Generator, patient: str) -> Window:
        """Draw a window with tissue of one patient."""
        rows = self._any[patient]
        return self._shifted(random, rows[random.integers(len(rows))])

    def draw_like(self, random: np.random.Generator, window: Window) -> Window:
        """Draw a window with tissue from the same slide (style sampling `multi-patch`)."""
        rows = self._by_slide.get(window.slide)
        if not rows:
            return window
        return self._shifted(random, rows[random.integers(len(rows))])

    def draw_near(self, random: np.random.Generator, window: Window) -> Window:
        """Draw a window shifted by up to one tile each way (style sampling `nearby`)."""
        dx, dy = random.integers(-self.store.tile, self.store.tile + 1, 2)
        return self._inside(window.slide, window.x + int(dx), window.y + int(dy))

    def _shifted(self, random: np.random.Generator, row: int) -> Window:
        half = self.store.tile // 2
        dx, dy = random.integers(-half, half + 1, 2)
        return self._inside(self._slide[row], int(self._x[row] + dx), int(self._y[row] + dy))

    def _inside(self, slide: str, x: int, y: int) -> Window:
        size, side = self.store.slides[slide], self.store.tile
        return Window(slide, min(max(x, 0), size.width - side), min(max(y, 0), size.height - side))

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Return a window's RGB, uint8 (tile, tile, 3), and label, uint8 (tile, tile)."""
        side = self.store.tile
        return self.store.window(window.slide, window.x, window.y, side, side)
