"""Where tumour, stroma and bare glass lie: a smooth random field, its mask and its polygons.

The layout is defined on paint pixels of 2 x 2 slide pixels; all coordinates inside are paint pixels.
"""

from functools import lru_cache

import numpy as np

from stedm.phantom.fixed import NOISE_MAX, key, lattice_noise
from stedm.phantom.trace import Ring, trace

PAINT = 2
"""Slide pixels (level 0) along the side of a paint pixel."""

_OCTAVES = ((190, 18), (76, 8), (26, 1))
"""(spacing in paint pixels, weight) of the tumour field: 95, 38 and 13 um at 0.25 um/px."""

_TUMOUR_PERCENT = (30, 48)
_SAMPLES = 192
_FINE_LIMIT = 16384


def _field(seed: int, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    total = np.zeros((len(ys), len(xs)), np.int32)
    for octave, (spacing, weight) in enumerate(_OCTAVES):
        total += weight * lattice_noise(key(seed, "layout", octave), ys, xs, spacing)
    return total


def glass(size: int, seed: int, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """Bare glass at paint pixels ys (h,) x xs (w,): bool (h, w). Outside the slide all is glass."""
    side = -(-size // PAINT)
    edge_y, edge_x = np.minimum(ys, side - 1 - ys), np.minimum(xs, side - 1 - xs)
    edge = np.minimum(edge_y[:, None], edge_x[None, :])
    corner = key(seed, "corner")
    from_y = ys if corner & 1 else side - 1 - ys
    from_x = xs if corner & 2 else side - 1 - xs
    reach = side * (20 + (corner >> 2) % 14) // 100
    # The corner's slant counts for a quarter, so that the rim's waves also run along it.
    slant = (from_y[:, None] + from_x[None, :] - reach) >> 2
    waves = 3 * lattice_noise(key(seed, "rim"), ys, xs, max(side // 6, 8))
    waves += lattice_noise(key(seed, "rim", 1), ys, xs, max(side // 24, 4))
    return (np.minimum(edge, np.maximum(slant, 0)) * (4 * NOISE_MAX * 28)) < waves.astype(np.int64) * side


@lru_cache(maxsize=64)
def _threshold(size: int, seed: int) -> int:
    side = -(-size // PAINT)
    count = min(side, _SAMPLES)
    points = (2 * np.arange(count, dtype=np.int64) + 1) * side // (2 * count)
    field = _field(seed, points, points)
    field[glass(size, seed, points, points)] = -1
    low, high = _TUMOUR_PERCENT
    percent = low + key(seed, "tumour share") % (high - low + 1)
    ranked = np.sort(field, axis=None)
    return int(ranked[ranked.size - 1 - ranked.size * percent // 100])


def tumour_and_glass(size: int, seed: int, ys: np.ndarray, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tumour and bare glass at paint pixels ys (h,) x xs (w,), int64 ascending: two bool arrays (h, w)."""
    bare = glass(size, seed, ys, xs)
    tumour = _field(seed, ys, xs) > _threshold(size, seed)
    tumour &= ~bare
    return tumour, bare


def layout_mask(*, size: int, seed: int, x: int, y: int, w: int, h: int, step: int = 1) -> np.ndarray:
    """Return the painted layout of a window: bool (ceil(h / step), ceil(w / step)), True where tumour is.

    x, y, w, h are level-0 pixels of a `size` x `size` slide; every `step`-th is taken from the first on.
    """
    ys = np.arange(y, y + h, step, dtype=np.int64)
    xs = np.arange(x, x + w, step, dtype=np.int64)
    rows, row_of = np.unique(ys // PAINT, return_inverse=True)
    cols, col_of = np.unique(xs // PAINT, return_inverse=True)
    tumour, _ = tumour_and_glass(size, seed, rows, cols)
    return tumour[row_of][:, col_of]


def layout_polygons(*, size: int, seed: int) -> list[tuple[str, list[list[tuple[int, int]]]]]:
    """Return the annotated regions of a slide as (class name, rings); the class is always 'tumour'.

    rings[0] is the exterior, the others are holes; points are integer level-0 (x, y) where pixel (i, j)
    covers [i, i + 1) x [j, j + 1). Rings are simple, do not touch, and follow the painted layout within
    1 pixel (3 where the slide is wider than 16384).
    """
    stride = 1 if size <= _FINE_LIMIT else 2
    scale = PAINT * stride
    line = np.arange(0, -(-size // PAINT), stride, dtype=np.int64)
    mask = np.zeros((len(line) + 2, len(line) + 2), bool)
    for top in range(0, len(line), 256):
        rows = line[top : top + 256]
        mask[1 + top : 1 + top + len(rows), 1:-1] = tumour_and_glass(size, seed, rows, line)[0]
    exteriors, holes = trace(mask)
    half = scale // 2

    def level0(ring: Ring) -> Ring:
        return [(min((x - 2) * half, size), min((y - 2) * half, size)) for x, y in ring]

    found: list[tuple[str, list[Ring]]] = []
    for index, ring in enumerate(exteriors):
        found.append(("tumour", [level0(ring), *(level0(hole) for hole in holes[index])]))
    return found
