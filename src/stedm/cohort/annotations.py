"""Annotations from files: QuPath's GeoJSON to polygons, and checks on polygons from any source."""

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


def read_geojson(path: Path, *, classes: Sequence[str] | None = None, unclassified: str | None = None) -> list[Polygon]:
    """Read polygons that QuPath exported.

    A file is a FeatureCollection, a list of features, one feature, or a bare geometry (which has no class).
    A MultiPolygon becomes several polygons. Points and lines hold no area and are left out, and so are
    features without a class, such as QuPath's rectangles around a region of interest; both are counted in
    the log.

    Parameters
    ----------
    path
        The file; coordinates are pixels of the slide's level 0, as QuPath exports them.
    classes
        Class names as they shall be spelt: a name that differs in case or surrounding spaces alone becomes
        the one given here. Other names stay as they are, for :func:`check_polygons` to refuse.
    unclassified
        Class of the features that have none; by default they are left out.

    Returns
    -------
    polygons
        In the file's order.

    Raises
    ------
    UserError
        If the file is missing or no such GeoJSON, a ring has fewer than three points or a coordinate that
        is no finite number, or there are areas but not one of them has a class.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; export the annotations or correct the path.") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); export the annotations again.") from None
    spelling = {_folded(name): name for name in classes or ()}
    polygons: list[Polygon] = []
    nameless = flat = 0
    for number, feature in enumerate(_features(content, path), start=1):
        where = f"{path}: feature {number}"
        geometry = feature.get("geometry") if feature.get("type") == "Feature" else feature
        kind = geometry.get("type") if isinstance(geometry, dict) else None
        if kind in ("Point", "MultiPoint", "LineString", "MultiLineString"):
            flat += 1
            continue
        if kind not in ("Polygon", "MultiPolygon"):
            raise UserError(f"{where} has the geometry {kind!r}; export polygons from QuPath as GeoJSON.")
        name = _class_name(feature) or unclassified
        if name is None:
            nameless += 1
            continue
        name = spelling.get(_folded(name), name)
        parts = geometry.get("coordinates")
        parts = [parts] if kind == "Polygon" else parts
        if not isinstance(parts, list) or not all(isinstance(part, list) and part for part in parts):
            raise UserError(f"{where} ({name}) has no coordinates; delete it in QuPath and export again.")
        for part in parts:
            rings = [_ring(ring, f"{where} ({name})") for ring in part]
            polygons.append(Polygon(name, rings[0], tuple(rings[1:])))
    if nameless and not polygons:
        raise UserError(f"{path}: none of its {nameless} areas has a class; classify them in QuPath.")
    for count, what in ((nameless, "areas without a class"), (flat, "points or lines")):
        if count:
            log.warning("%s: left out %d %s", path, count, what)
    return polygons


def _features(content: Any, path: Path) -> list[dict[str, Any]]:
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content.get("features")
    elif isinstance(content, dict) and content.get("type") in ("Feature", "Polygon", "MultiPolygon"):
        content = [content]
    if not isinstance(content, list) or not all(isinstance(feature, dict) for feature in content):
        raise UserError(f"{path}: JSON, but no GeoJSON features; export the annotations from QuPath as GeoJSON.")
    return content


def _class_name(feature: dict[str, Any]) -> str | None:
    """Return the class of a feature in the ways that QuPath has written it.

    ``{"classification": {"name": …}}``, since 0.5 ``{"names": [base, derived …]}`` for derived classes
    (joined by ``": "`` as QuPath shows them), and a plain string.
    """
    properties = feature.get("properties")
    found = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(found, dict):
        names = found.get("names")
        found = ": ".join(map(str, names)) if isinstance(names, list) else found.get("name")
    return found.strip() or None if isinstance(found, str) else None


def _folded(name: str) -> str:
    return name.strip().casefold()


def _ring(points: Any, where: str) -> np.ndarray:
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
