"""Aperio ImageScope's XML, one file a slide, as MoNuSAC publishes its nuclei."""

from __future__ import annotations

import logging
from pathlib import Path
from xml.etree import ElementTree

from stedm.cohort.annotations.check import as_ring
from stedm.cohort.base import Polygon
from stedm.errors import UserError

log = logging.getLogger("stedm")

DRAWN, RECTANGLE = "0", "1"
"""ImageScope's types of region whose vertices are the corners of an area; others are ellipses, arrows and rulers."""
UNNAMED = "Description"
"""The attribute that ImageScope gives every layer by itself; MoNuSAC has the class in its place."""


def read_imagescope(path: Path) -> list[Polygon]:
    """Read the polygons of a file.

    A layer (``Annotation``) is a class, named by its first attribute as in MoNuSAC, else by its own name. Regions
    that are no outline of three corners are left out and counted in the log.

    Parameters
    ----------
    path
        The file; coordinates are pixels of level 0.

    Returns
    -------
    polygons
        In the file's order.

    Raises
    ------
    UserError
        If the file is missing or not of this form, a layer with regions has no name, a region is a negative one
        (an area to be cut out), or a coordinate is no finite number.
    """
    path = Path(path)
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; export the annotations or correct the path.") from None
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: not valid XML ({error}); export the annotations again.") from None
    if root.tag != "Annotations":
        raise UserError(f"{path}: XML, but not ImageScope's ({root.tag}); export the annotations from ImageScope.")
    polygons: list[Polygon] = []
    flat = 0
    for layer in root.iter("Annotation"):
        name = _class_name(layer)
        for region in layer.iter("Region"):
            where = f"{path}: region {region.get('Id')} of layer {layer.get('Id')} ({name or 'no name'})"
            points = [(vertex.get("X"), vertex.get("Y")) for vertex in region.iter("Vertex")]
            if region.get("Type", DRAWN) not in (DRAWN, RECTANGLE) or len(points) < 3:
                flat += 1
                continue
            if not name:
                raise UserError(f"{where} is of no class; name the layer in ImageScope.")
            if region.get("NegativeROA") == "1":
                raise UserError(f"{where} is a negative region, which is not read; draw what remains instead.")
            polygons.append(Polygon(name, as_ring(points, where)))
    if flat:
        log.warning("%s: left out %d regions without an outline, such as ellipses and rulers", path, flat)
    return polygons


def _class_name(layer: ElementTree.Element) -> str:
    attribute = layer.find("Attributes/Attribute")
    name = "" if attribute is None else attribute.get("Name", "").strip()
    return name if name not in ("", UNNAMED) else layer.get("Name", "").strip()
