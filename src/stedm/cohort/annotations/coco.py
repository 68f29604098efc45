"""COCO-like JSON, one file for all slides, as CATCH publishes its polygons."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stedm.cohort.annotations.check import as_ring, read_json
from stedm.cohort.base import Polygon
from stedm.errors import UserError


def read_coco(path: Path, image: str) -> list[Polygon]:
    """Read the polygons of one image.

    A `segmentation` is a flat list x, y, x, y, …, as CATCH has it, or COCO's list of such lists.

    Parameters
    ----------
    path
        The file; coordinates are pixels of level 0. It is parsed once a process and version.
    image
        `file_name` of the image.

    Returns
    -------
    polygons
        In the file's order.

    Raises
    ------
    UserError
        If the file is missing or not of this form, does not know the image, or an annotation names an image
        or category that the file does not list, or is no ring of points.
    """
    path = Path(path)
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; fetch the annotations or correct the path.") from None
    known = _load(path, changed)
    if image not in known:
        raise UserError(f"{path}: lists no image {image!r}; use annotations of this version of the slides.")
    return known[image]


@functools.lru_cache(maxsize=1)
def _load(path: Path, changed: int) -> Mapping[str, list[Polygon]]:
    content = read_json(path)
    try:
        images = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
        categories = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        annotations = content["annotations"]
        found: dict[str, list[Polygon]] = {name: [] for name in images.values()}
        if len(found) < len(images):
            raise UserError(f"{path}: two images have the same file_name; remove one.")
        for number, entry in enumerate(annotations, start=1):
            where = f"{path}: annotation {entry.get('id', number)}"
            if entry["image_id"] not in images:
                raise UserError(
                    f"{where} is of image {entry['image_id']!r}, which the file does not list; mend the file."
                )
            if entry["category_id"] not in categories:
                raise UserError(f"{where} is of category {entry['category_id']!r}, which the file does not list.")
            name = categories[entry["category_id"]]
            for ring in _rings(entry["segmentation"]):
                pairs = [ring[n : n + 2] for n in range(0, len(ring), 2)]
                found[images[entry["image_id"]]].append(Polygon(name, as_ring(pairs, f"{where} ({name})")))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: JSON, but not of COCO's form ({error!r}); fetch the annotations again.") from None
    return found


def _rings(segmentation: list[Any]) -> list[list[Any]]:
    return segmentation if segmentation and isinstance(segmentation[0], list) else [segmentation]
