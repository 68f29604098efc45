"""Layouts: annotations drawn as label images at working resolution.

Label 0 is no annotated class, 1 the first of the classes. A working pixel has the class of the annotation
that holds its centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stedm.cohort.base import MaskImage, Polygon
from stedm.errors import UserError
from stedm.tiles.backends import open_slide
from stedm.tiles.reader import FETCH_PIXELS, area_mean, reduce_integer

MAX_CLASSES = 253


class PolygonLayout:
    """Draws polygons; a window of any place and size, so that a slide is drawn piece by piece.

    Polygons are drawn from the largest to the smallest, whatever their order; of two that are equally large
    the later lies on top. Through a hole shows what lies below the polygon. A ring that crosses itself is
    filled by the even-odd rule (:func:`stedm.cohort.annotations.check_polygons` mends it before).

    Parameters
    ----------
    polygons
        In pixels of the slide's level 0.
    classes
        Names in the order of their labels; a polygon of another class is a ``ValueError``.
    """

    def __init__(self, polygons: Sequence[Polygon], classes: Sequence[str]) -> None:
        if len(classes) > MAX_CLASSES:
            raise UserError(f"tiles.classes: {len(classes)} classes; labels can tell {MAX_CLASSES} apart.")
        areas = np.array([_area(p.exterior) - sum(map(_area, p.holes)) for p in polygons])
        order = np.argsort(-areas, kind="stable")
        self._labels = [1 + list(classes).index(polygons[n].annotated) for n in order]
        self._edges = [_edges([polygons[n].exterior, *polygons[n].holes]) for n in order]
        boxes = [(polygons[n].exterior.min(axis=0), polygons[n].exterior.max(axis=0)) for n in order]
        self._boxes = np.array(boxes, np.float64).reshape(-1, 4)  # x0, y0, x1, y1

    def draw(self, x: int, y: int, width: int, height: int, downsample: float) -> np.ndarray:
        """Draw a window.

        Parameters
        ----------
        x, y, width, height
            Window in working pixels.
        downsample
            Pixels of level 0 to a working pixel.

        Returns
        -------
        label
            uint8 (height, width).
        """
        label = np.zeros((height, width), np.uint8)
        corner = np.array([x, y], np.float64)
        low, high = corner * downsample, (corner + np.array([width, height])) * downsample
        seen = np.flatnonzero(np.all((self._boxes[:, :2] < high) & (self._boxes[:, 2:] > low), axis=1))
        for n in seen:
            box = self._boxes[n] / downsample - np.tile(corner, 2)
            x0, y0 = np.maximum(np.floor(box[:2]).astype(int), 0)
            x1, y1 = np.minimum(np.ceil(box[2:]).astype(int), (width, height))
            edges = self._edges[n] / downsample - (x + x0, y + y0)
            inside = _fill(edges, x1 - x0, y1 - y0)
            label[y0:y1, x0:x1][inside] = self._labels[n]
        return label


def _area(ring: np.ndarray) -> float:
    x, y = (ring - ring[0]).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _edges(rings: Sequence[np.ndarray]) -> np.ndarray:
    parts = [np.stack([ring, np.roll(ring, -1, axis=0)], axis=1) for ring in rings]
    return np.concatenate(parts).astype(np.float64)


def _fill(edges: np.ndarray, width: int, height: int) -> np.ndarray:
    # cv2.fillPoly also colours the pixels that the outline touches, half a pixel too many all around; so
    # each pixel row is filled here between the places where edges cross the line through its centres.
    (ax, ay), (bx, by) = edges[:, 0].T, edges[:, 1].T
    top, bottom = np.minimum(ay, by), np.maximum(ay, by)
    first = np.clip(np.ceil(top - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(bottom - 0.5), 0, height).astype(np.int64)
    count = last - first
    edge = np.repeat(np.arange(len(edges)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (bx[edge] - ax[edge]) / (by[edge] - ay[edge])
    crossing = ax[edge] + (row + 0.5 - ay[edge]) * slope
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    flips = np.zeros((height, width + 1), np.uint8)
    np.add.at(flips, (row, column), 1)
    # Sums of uint8 wrap at 256, which keeps them odd or even.
    return np.cumsum(flips[:, :width], axis=1, dtype=np.uint8) % 2 == 1


class MaskLayout:
    """Draws an annotation that is an image; a context manager, as it holds the file open.

    Parameters
    ----------
    mask
        The image, of the slide's size at level 0.
    classes
        Names in the order of their labels.
    size
        Width and height of the slide at level 0.

    Raises
    ------
    UserError
        If the image is missing, damaged or of another size, or its class is not among `classes`.
    """

    def __init__(self, mask: MaskImage, classes: Sequence[str], size: tuple[int, int]) -> None:
        if mask.annotated not in classes:
            raise UserError(
                f"{mask.path}: marks the class {mask.annotated!r}, which is not among {', '.join(classes)}; "
                "add it to tiles.classes."
            )
        self._label = 1 + list(classes).index(mask.annotated)
        self._threshold = mask.threshold
        if not Path(mask.path).is_file():
            raise UserError(f"{mask.path}: this annotation mask is missing; fetch the cohort's data again.")
        self._reader = open_slide(mask.path)
        if self._reader.size != tuple(size):
            found, wanted = ("{} × {}".format(*pair) for pair in (self._reader.size, size))
            self._reader.close()
            raise UserError(f"{mask.path}: the mask is {found} pixels, its slide {wanted}; export it unscaled.")

    def __enter__(self) -> MaskLayout:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def draw(self, x: int, y: int, width: int, height: int, downsample: float) -> np.ndarray:
        """Draw a window: the class where at least half of a working pixel is above the threshold."""
        if width * height * downsample**2 > FETCH_PIXELS and max(width, height) > 1:
            if width >= height:
                half = width // 2
                return np.hstack(
                    [
                        self.draw(x, y, half, height, downsample),
                        self.draw(x + half, y, width - half, height, downsample),
                    ]
                )
            half = height // 2
            return np.vstack(
                [
                    self.draw(x, y, width, half, downsample),
                    self.draw(x, y + half, width, height - half, downsample),
                ]
            )
        whole = float(downsample).is_integer()
        edges = [(start + np.arange(n + 1)) * downsample for start, n in ((x, width), (y, height))]
        first = [int(e[0]) for e in edges]
        last = [min(int(np.ceil(e[-1] - 1e-9)), n) for e, n in zip(edges, self._reader.size, strict=True)]
        # At level 0 whatever the file stores: a threshold is meant for the pixels that were annotated.
        image = self._reader.read(*first, last[0] - first[0], last[1] - first[1], 1.0)
        marked = np.where(image.max(axis=2) > self._threshold, np.uint8(255), np.uint8(0))
        if whole and marked.shape == (height * int(downsample), width * int(downsample)):
            share = reduce_integer(marked, int(downsample))
        else:
            limits = [np.clip(e - f, 0, b - f) for e, f, b in zip(edges, first, last, strict=True)]
            share = area_mean(area_mean(marked, limits[1], axis=0), limits[0], axis=1)
        return np.where(share >= 127.5 - 1e-6, np.uint8(self._label), np.uint8(0))


def rasterise(
    polygons: Sequence[Polygon],
    *,
    classes: Sequence[str],
    width: int,
    height: int,
    downsample: float,
    origin: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Draw polygons once; see :class:`PolygonLayout`.

    Parameters
    ----------
    polygons
        In pixels of the slide's level 0.
    classes
        Names in the order of their labels.
    width, height, origin
        Window in working pixels.
    downsample
        Pixels of level 0 to a working pixel.

    Returns
    -------
    label
        uint8 (height, width).
    """
    return PolygonLayout(polygons, classes).draw(*origin, width, height, downsample)


def label_from_mask(
    mask: MaskImage,
    *,
    classes: Sequence[str],
    size: tuple[int, int],
    width: int,
    height: int,
    downsample: float,
    origin: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Draw a mask image once; see :class:`MaskLayout` and, for the parameters, :func:`rasterise`."""
    with MaskLayout(mask, classes, size) as layout:
        return layout.draw(*origin, width, height, downsample)
