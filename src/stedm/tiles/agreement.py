"""Layouts of several people, and of those parts of a slide alone that somebody annotated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stedm.cohort.base import IGNORED, REGION, Polygon
from stedm.tiles.layout import PolygonLayout
from stedm.tiles.store import UNKNOWN


class ConsensusLayout:
    """Draws, for each pixel, what most of several people annotated.

    They vote twice: first on foreground or not, where half of the votes are enough for foreground; then those
    on the winning side on the class. Of classes with equally many votes the later one wins, so that a list of
    classes by rising score settles draws upwards, as the upper median does.

    Parameters
    ----------
    layouts
        One of each person.
    foreground
        Labels that are foreground.
    """

    def __init__(self, layouts: Sequence[PolygonLayout], foreground: Sequence[int]) -> None:
        self._layouts, self._foreground = list(layouts), list(foreground)

    def draw(self, x: int, y: int, width: int, height: int, downsample: float) -> np.ndarray:
        """Draw a window; parameters and result are those of :meth:`PolygonLayout.draw`."""
        labels = np.stack([layout.draw(x, y, width, height, downsample) for layout in self._layouts])
        marked = np.isin(labels, self._foreground)
        agreed = 2 * marked.sum(axis=0) >= len(labels)
        counted = marked == agreed
        best = np.zeros((height, width), np.uint8)
        most = np.zeros((height, width), np.uint8)
        for value in np.unique(labels):
            votes = ((labels == value) & counted).sum(axis=0, dtype=np.uint8)
            ahead = (votes >= most) & (votes > 0)
            best[ahead], most[ahead] = value, votes[ahead]
        return best


class RegionLayout:
    """Draws a layout where labels are known; elsewhere they are :data:`~stedm.tiles.store.UNKNOWN`.

    Parameters
    ----------
    layout
        What is drawn.
    bounds
        Polygons of the classes :data:`~stedm.cohort.base.BOUNDS`: labels are known inside of regions, or everywhere
        where there are none, but for what is ignored.
    """

    def __init__(self, layout: PolygonLayout | ConsensusLayout, bounds: Sequence[Polygon]) -> None:
        regions = [polygon for polygon in bounds if polygon.annotated == REGION]
        ignored = [polygon for polygon in bounds if polygon.annotated == IGNORED]
        self._layout = layout
        self._regions = PolygonLayout(regions, [REGION]) if regions else None
        self._ignored = PolygonLayout(ignored, [IGNORED])

    def draw(self, x: int, y: int, width: int, height: int, downsample: float) -> np.ndarray:
        """Draw a window; parameters and result are those of :meth:`PolygonLayout.draw`."""
        label = self._layout.draw(x, y, width, height, downsample)
        if self._regions is not None:
            label[self._regions.draw(x, y, width, height, downsample) == 0] = UNKNOWN
        label[self._ignored.draw(x, y, width, height, downsample) == 1] = UNKNOWN
        return label
