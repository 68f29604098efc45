"""Annotations as an EXACT server gives them, one JSON file a slide.

A file holds what the server answered: ``{"image": {…}, "annotation_types": […], "annotations": […]}``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from pathlib import Path

from stedm.cohort.annotations.check import as_ring, read_json
from stedm.cohort.base import REGION, Polygon
from stedm.errors import UserError

log = logging.getLogger("stedm")

BOX, POLYGON, FIXED_BOX = 1, 5, 6
"""EXACT's types of vectors that hold an area."""


def read_exact(
    path: Path, *, users: Collection[int] = (), product: str | None = None, regions: Collection[str] = ()
) -> dict[int, list[Polygon]]:
    """Read the polygons of a slide by the id of the user who drew them.

    Deleted annotations are left out; what holds no area (points, lines) is left out and counted in the log.

    Parameters
    ----------
    path
        The file; coordinates are pixels of level 0.
    users
        Ids of the users whose annotations count; by default all.
    product
        Name of the product whose annotation types count; by default all.
    regions
        Annotation types, of any product, that become :data:`~stedm.cohort.base.REGION`.

    Raises
    ------
    UserError
        If the file is missing or not of this form, an annotation is of a type that is not listed or of another
        image, or has fewer than three points.
    """
    content = read_json(path)
    found: dict[int, list[Polygon]] = {user: [] for user in users}
    flat = 0
    try:
        image = content["image"]["id"]
        types = {entry["id"]: entry for entry in content["annotation_types"]}
        for entry in content["annotations"]:
            where = f"{path}: annotation {entry['id']}"
            if entry.get("deleted") or (users and entry["user"] not in users):
                continue
            if entry["image"] != image:
                raise UserError(f"{where} is of image {entry['image']}, the file of image {image}; fetch it again.")
            if entry["annotation_type"] not in types:
                raise UserError(f"{where} is of type {entry['annotation_type']}, which the file does not list.")
            kind = types[entry["annotation_type"]]
            is_region = kind["name"] in regions
            if product is not None and not is_region and kind["product_name"] != product:
                continue
            points = vector_points(entry["vector"] or {}, kind["vector_type"])
            if points is None:
                flat += 1
                continue
            ring = as_ring(points, f"{where} ({kind['name']})")
            found.setdefault(entry["user"], []).append(Polygon(REGION if is_region else kind["name"], ring))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not as `stedm fetch` writes EXACT's annotations ({error!r}); fetch again.") from None
    if flat:
        log.warning("%s: left out %d points or lines", path, flat)
    return found


def vector_points(vector: dict[str, float], kind: int) -> list[tuple[float, float]] | None:
    """Return the outline that a vector ``{"x1": …, "y1": …, "x2": …}`` describes; None where it is no area.

    Keys come in any order, such as x1, x10, x2, so they are sorted by their number.
    """
    if kind not in (BOX, POLYGON, FIXED_BOX):
        return None
    numbers = sorted(int(key[1:]) for key in vector if re.fullmatch(r"x\d+", key))
    points = [(vector[f"x{n}"], vector[f"y{n}"]) for n in numbers]
    if kind == POLYGON or len(points) != 2:
        return points
    (x0, y0), (x1, y1) = points
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
