"""Databases of SlideRunner (SQLite), opened read-only."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import numpy as np

from stedm.cohort.annotations.check import as_ring
from stedm.cohort.base import Polygon
from stedm.errors import UserError

log = logging.getLogger("stedm")

RECTANGLE, POLYGON, CIRCLE = 2, 3, 5
"""SlideRunner's types of annotation that hold an area; the others are spots."""
CORNERS = 64
"""Corners of the polygon that a circle becomes."""

ANNOTATIONS = """
SELECT a.uid, a.type, c.name FROM Annotations a LEFT JOIN Classes c ON c.uid = a.agreedClass
WHERE a.slide = ? {kept} ORDER BY a.uid
"""
COORDINATES = "SELECT coordinateX, coordinateY FROM Annotations_coordinates WHERE annoId = ? ORDER BY orderIdx"


def read_sliderunner(path: Path, slide: str) -> list[Polygon]:
    """Read the polygons of one slide; circles and rectangles become polygons too.

    Spots, and annotations on whose class there is no agreement, are left out and counted in the log; what
    was deleted in SlideRunner is left out.

    Parameters
    ----------
    path
        The database; coordinates are pixels of level 0.
    slide
        File name of the slide, as the database has it.

    Returns
    -------
    polygons
        In the order in which they were made.

    Raises
    ------
    UserError
        If the file is missing or no such database, does not know the slide or knows it twice, or a polygon
        has fewer than three points.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such SlideRunner database; fetch the annotations or correct the path.")
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            return _read(database, path, slide)
        finally:
            database.close()
    except sqlite3.Error as error:
        raise UserError(f"{path}: no readable SlideRunner database ({error}); fetch it again.") from None


def _read(database: sqlite3.Connection, path: Path, slide: str) -> list[Polygon]:
    known = database.execute("SELECT uid FROM Slides WHERE filename = ?", (slide,)).fetchall()
    if len(known) != 1:
        problem = "does not know the slide" if not known else "has two entries of the slide"
        raise UserError(f"{path}: {problem} {slide!r}; use the database of these slides.")
    columns = {row[1] for row in database.execute("PRAGMA table_info(Annotations)")}
    query = ANNOTATIONS.format(kept="AND a.deleted = 0" if "deleted" in columns else "")
    polygons: list[Polygon] = []
    spots = nameless = 0
    for uid, kind, name in database.execute(query, known[0]).fetchall():
        if kind not in (RECTANGLE, POLYGON, CIRCLE):
            spots += 1
            continue
        if name is None:
            nameless += 1
            continue
        points = _outline(database.execute(COORDINATES, (uid,)).fetchall(), kind)
        polygons.append(Polygon(name, as_ring(points, f"{path}: annotation {uid} of {slide} ({name})")))
    for count, what in ((spots, "spots"), (nameless, "annotations without an agreed class")):
        if count:
            log.warning("%s: %s: left out %d %s", path, slide, count, what)
    return polygons


def _outline(points: list[tuple[float, float]], kind: int) -> list[tuple[float, float]] | np.ndarray:
    """Return the outline of an annotation; circles and rectangles are stored as two corners of their box."""
    if kind == POLYGON or len(points) != 2:
        return points
    (x0, y0), (x1, y1) = points
    if kind == RECTANGLE:
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    centre, radii = np.array([x0 + x1, y0 + y1]) / 2, np.array([abs(x1 - x0), abs(y1 - y0)]) / 2
    return centre + radii * np.stack([np.cos(angle), np.sin(angle)], 1)
