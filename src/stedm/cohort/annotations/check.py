"""What every format of annotations shares: reading JSON, rings of points, and the check against the slide."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stedm.cohort.base import Polygon
from stedm.errors import UserError

log = logging.getLogger("stedm")

EDGE = 1.0
"""Pixels of level 0 by which an annotation may stand out over the slide's edge."""


def read_json(path: Path) -> Any:
    """Read a JSON file of annotations.

    Raises
    ------
    UserError
        If it is missing or no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; export the annotations or correct the path.") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); export the annotations again.") from None


def as_ring(points: Any, where: str) -> np.ndarray:
    """Return a list of points as an array, float64 (n, 2).

    Raises
    ------
    UserError
        If it is no list of at least three finite points; `where` names it.
    """
    try:
        ring = np.array([point[:2] for point in points], np.float64)
    except (TypeError, ValueError):
        ring = np.empty(0)
    if ring.ndim != 2 or ring.shape[1:] != (2,):
        raise UserError(f"{where} has a ring that is no list of [x, y]; export the annotations again.")
    if not np.isfinite(ring).all():
        raise UserError(f"{where} has a coordinate that is no finite number; export the annotations again.")
    distinct = len(ring) - (len(ring) > 1 and bool((ring[0] == ring[-1]).all()))
    if distinct < 3:
        raise UserError(f"{where} has a ring of {distinct} points; an area needs three, so delete or redraw it.")
    return ring


def check_polygons(
    polygons: Iterable[Polygon], *, width: int, height: int, classes: Sequence[str], source: str | Path
) -> list[Polygon]:
    """Check polygons against their slide, and mend outlines that cross themselves.

    An outline that crosses itself, as freehand drawing makes them, becomes the area that it encloses
    (``shapely.make_valid``, method *structure*: loops are filled, holes stay), which may be several polygons.
    The number is logged.

    Parameters
    ----------
    polygons
        In pixels of level 0.
    width, height
        Size of the slide's level 0.
    classes
        Class names that are known.
    source
        What to name in errors: the annotation file or the slide.

    Returns
    -------
    polygons
        Valid ones, in the order given.

    Raises
    ------
    UserError
        If a class is unknown, a polygon reaches over the slide's edge by more than :data:`EDGE` pixels, or
        encloses nothing.
    """
    checked: list[Polygon] = []
    mended = 0
    for number, polygon in enumerate(polygons, start=1):
        where = f"{source}: polygon {number} ({polygon.annotated})"
        if fault := polygon_fault(polygon, width=width, height=height, classes=classes):
            raise UserError(f"{where} {fault[1]}.")
        parts = mend_polygon(polygon)
        if not parts:
            raise UserError(f"{where} encloses no area; delete or redraw it.")
        mended += parts[0] is not polygon
        checked += parts
    if mended:
        log.info("%s: mended %d outlines that cross themselves", source, mended)
    return checked


def polygon_fault(
    polygon: Polygon, *, width: int, height: int, classes: Sequence[str]
) -> tuple[Literal["unknown class", "no area", "beyond the slide"], str] | None:
    """Return what kind of fault a polygon has and what to say of it, None where it has none."""
    if polygon.annotated not in classes:
        return "unknown class", f"is of an unknown class; rename it, or add it to those known ({', '.join(classes)})"
    for ring in (polygon.exterior, *polygon.holes):
        if len(ring) < 3 or not np.isfinite(ring).all():
            return "no area", "has a ring that is no area; delete or redraw it"
    (x0, y0), (x1, y1) = polygon.exterior.min(axis=0), polygon.exterior.max(axis=0)
    if x0 < -EDGE or y0 < -EDGE or x1 > width + EDGE or y1 > height + EDGE:
        return "beyond the slide", (
            f"spans x {x0:.0f} to {x1:.0f} and y {y0:.0f} to {y1:.0f}, beyond the slide of "
            f"{width} × {height} pixels; annotations count in pixels of level 0 of the same slide"
        )
    return None


def mend_polygon(polygon: Polygon) -> list[Polygon]:
    """Return the polygon itself where its outline is sound, else the areas that it encloses, which may be none."""
    import shapely

    shape = shapely.Polygon(polygon.exterior, polygon.holes)
    if shape.is_valid and shape.area > 0:
        return [polygon]
    whole = shapely.make_valid(shape, method="structure", keep_collapsed=False)
    parts = [p for p in shapely.get_parts(whole) if p.geom_type == "Polygon" and p.area > 0]
    return [_from_shapely(part, polygon.annotated) for part in parts]


def _from_shapely(shape: Any, annotated: str) -> Polygon:
    holes = tuple(np.asarray(ring.coords)[:, :2] for ring in shape.interiors)
    return Polygon(annotated, np.asarray(shape.exterior.coords)[:, :2], holes)
