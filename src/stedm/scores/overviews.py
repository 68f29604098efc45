"""Whole slides for the report: picture, tissue, stored tiles, layout and prediction of a few, reduced. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq

from stedm.tiles.store import EMPTY, UNKNOWN, StoredSlide, TileStore
from stedm.tiles.tissue import tissue_mask

OVERVIEWS = "slides.npz"
CHECKPOINT = "last"
MOST = 4
"""Slides that are kept: the first of each class, then the next in order."""
SIDE = 448
"""Longest side of a reduced slide in pixels; a slide of more tiles than this has one pixel for each."""
QUALITY = 85
"""Of the pictures' JPEG."""


def write_overviews(predictions: Path, store: TileStore, out: Path) -> None:
    """Write reduced slides with what was predicted for them.

    ``slides.npz`` holds ``names`` (n,), and for slide *i* ``picture-i``, the bytes of a JPEG as uint8;
    ``layout-i``, ``predicted-i`` and ``tissue-i``, bool (h, w); ``tiles-i``, the stored tiles as (left, top, right,
    bottom) in pixels of the picture, float32 (m, 4); and ``facts-i``, float64 (2,): µm per pixel of the picture, NaN
    where unknown, and the intersection over union of layout and prediction in working pixels, NaN where both are
    empty. Tissue is found in the picture, on the tiles that are stored.

    Parameters
    ----------
    predictions
        A segmenter's ``predictions.parquet``.
    store
        The tile store with pixels and labels.
    out
        File to write.
    """
    table = pq.read_table(predictions, columns=["slide", "x", "y", CHECKPOINT])
    slide, x, y, packed = (table[name].to_pylist() for name in table.column_names)
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(slide):
        rows_of.setdefault(name, []).append(row)
    where = {
        key: row
        for row, key in enumerate(zip(store.column("slide"), store.column("x"), store.column("y"), strict=True))
    }
    arrays: dict[str, np.ndarray] = {"names": np.array(shown(store, list(rows_of)), dtype=str)}
    for number, name in enumerate(arrays["names"].tolist()):
        tiles = [(x[row], y[row], where[name, x[row], y[row]], packed[row]) for row in rows_of[name]]
        for key, array in _reduced(store, store.slides[name], tiles).items():
            arrays[f"{key}-{number}"] = array
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, **arrays)


def shown(store: TileStore, slides: Sequence[str]) -> list[str]:
    """Choose the slides that are kept: the first of each class, then the next in order."""
    ordered = sorted(slides)
    firsts = {store.slides[name].group: name for name in reversed(ordered)}
    return sorted(sorted(ordered, key=lambda name: firsts[store.slides[name].group] != name)[:MOST])


def _reduced(
    store: TileStore, slide: StoredSlide, tiles: Sequence[tuple[int, int, int, bytes]]
) -> dict[str, np.ndarray]:
    # Tile by tile, so that memory does not grow with the slide: a tile becomes a square of whole pixels.
    side = store.tile
    small = min(side, max(1, side * SIDE // max(slide.width, slide.height)))
    shape = (-(-slide.height // side) * small, -(-slide.width // side) * small)
    picture = np.full((*shape, 3), EMPTY, np.uint8)
    layout, predicted = np.zeros(shape, bool), np.zeros(shape, bool)
    both = either = 0
    for x, y, row, packed in tiles:
        image, label = store.tile_at(row)
        truth = store.layout(label)
        found = np.unpackbits(np.frombuffer(packed, np.uint8))[: side**2].reshape(side, side) > 0
        counted = label < UNKNOWN
        both += int((truth & found & counted).sum())
        either += int(((truth | found) & counted).sum())
        at = (slice(y // side * small, (y // side + 1) * small), slice(x // side * small, (x // side + 1) * small))
        picture[at] = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        for plane, mask in ((layout, truth), (predicted, found)):
            plane[at] = cv2.resize(mask.astype(np.float32), (small, small), interpolation=cv2.INTER_AREA) >= 0.5
    height, width = (
        min(n, -(-size * small // side)) for n, size in zip(shape, (slide.height, slide.width), strict=True)
    )
    picture = np.ascontiguousarray(picture[:height, :width])
    corners = np.array([(x, y, min(x + side, slide.width), min(y + side, slide.height)) for x, y, *_ in tiles])
    encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    mpp = np.nan if slide.mpp is None else slide.mpp * side / small
    return {
        "picture": encoded.ravel(),
        "layout": layout[:height, :width],
        "predicted": predicted[:height, :width],
        "tissue": tissue_mask(picture),
        "tiles": (corners * small / side).astype(np.float32),
        "facts": np.array([mpp, both / either if either else np.nan]),
    }
