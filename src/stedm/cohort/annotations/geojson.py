"""QuPath's GeoJSON."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stedm.cohort.annotations.check import as_ring, read_json
from stedm.cohort.base import Polygon
from stedm.errors import UserError

log = logging.getLogger("stedm")


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
    content = read_json(path)
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
            rings = [as_ring(ring, f"{where} ({name})") for ring in part]
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
