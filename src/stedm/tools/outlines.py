"""Masks as polygons, exactly or simplified by a stated error."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stedm.phantom.trace import trace

LOSSLESS = 0.35
"""Largest tolerance in pixels of the mask, rounded down from √2/4, that leaves each pixel's centre on its side."""


@dataclass
class Outlines:
    """The polygons of a mask in its own pixels: pixel (x, y) covers [x, x + 1) × [y, y + 1)."""

    polygons: list[list[np.ndarray]] = field(default_factory=list)
    """Of each its rings, float64 (n, 2), open; the first is the outer one, the others are holes."""
    area: float = 0.0
    """Of all polygons."""
    deviation: float = 0.0
    """Largest distance between an outline and what it was simplified to, either way."""


def outline(mask: np.ndarray, tolerance: float = LOSSLESS) -> Outlines:
    """Trace the 4-connected regions of a mask and simplify their outlines.

    Outlines run through the middles of the edges between pixels, so that no two of them touch. Their corners
    cut off pixels' corners and never a centre: an area is less than the number of its pixels by a half, and
    a hole's likewise. Ramer's and Douglas and Peucker's simplification, as GEOS does it without making
    outlines cross, moves no point of an outline by more than the tolerance.

    Parameters
    ----------
    mask
        bool (h, w).
    tolerance
        In pixels; 0 keeps every corner. Up to :data:`LOSSLESS` the polygons hold the centres of the mask's
        pixels and of no others.
    """
    import shapely

    found = Outlines()
    for exterior, holes in zip(*trace(np.pad(mask, 1)), strict=True):
        # The tracer counts in half pixels, from the corner of the rim.
        traced = [np.array(ring) / 2 - 1 for ring in (exterior, *holes)]
        shape = shapely.Polygon(traced[0], traced[1:])
        if tolerance:
            shape = shapely.simplify(shape, tolerance, preserve_topology=True)
        kept = [np.asarray(ring.coords)[:-1] for ring in (shape.exterior, *shape.interiors)]
        found.polygons.append(kept)
        found.area += shape.area
        found.deviation = max(found.deviation, *map(_deviation, traced, kept))
    return found


def _deviation(ring: np.ndarray, kept: np.ndarray) -> float:
    """Return the largest distance of a ring's points from the segment that replaced them.

    It is that of the whole lines, both ways: along a segment the distance is convex, and the ring between the
    segment's ends crosses the perpendicular through each of its points.
    """
    place = {point: n for n, point in enumerate(map(tuple, ring.tolist()))}
    index = np.array([place[point] for point in map(tuple, kept.tolist())])
    first = int(index.argmin())
    index, kept = np.roll(index, -first), np.roll(kept, -first, axis=0)
    segment = np.searchsorted(index, np.arange(len(ring)), side="right") - 1
    start, step = kept[segment], (np.roll(kept, -1, axis=0) - kept)[segment]
    along = np.clip(((ring - start) * step).sum(axis=1) / (step * step).sum(axis=1), 0, 1)
    return float(np.hypot(*(ring - start - along[:, None] * step).T).max())
