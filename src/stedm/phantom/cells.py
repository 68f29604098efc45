"""Cells on a jittered grid: for every pixel the nearest cell, and how close the second nearest is."""

from dataclasses import dataclass

import numpy as np

from stedm.phantom.fixed import hash2, root_table

REACH = 768
"""Largest distance that is told apart, quarter paint pixels; farther counts as this."""

_FAR = (REACH * REACH - 1) << 4
_NEIGHBOURS = tuple((dv, du) for dv in (-1, 0, 1) for du in (-1, 0, 1))


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest cell of every pixel of a block (h, w); lengths in quarter paint pixels."""

    dv: np.ndarray
    """Offset of the pixel from the middle of its cell, int32 (h, w)."""
    du: np.ndarray
    """The same across."""
    gap: np.ndarray
    """How much farther the second nearest cell is, int32 (h, w): 0 on the border of two cells."""
    cell: np.ndarray
    """Index of the cell into `lots`, intp (h, w)."""
    lots: np.ndarray
    """One random uint32 for every cell (cells,), for what varies from cell to cell."""


def nearest(
    stream: int, v: np.ndarray, u: np.ndarray, pitch_v: int, pitch_u: int, *, jitter: int, with_gap: bool
) -> Nearest:
    """Find the nearest cell of every pixel.

    v, u: positions, int32, that broadcast to (h, w): (h, 1) and (1, w) on a straight grid. Cells lie on a
    grid of pitch_v x pitch_u, spread over `jitter` / 256 of the pitch (at most 256: all of it). Without
    `with_gap` the gap is not computed and is all 0.
    """
    iv, iu = v // pitch_v, u // pitch_u
    v0, u0 = int(iv.min()) - 1, int(iu.min()) - 1
    rows, cols = np.arange(v0, int(iv.max()) + 2), np.arange(u0, int(iu.max()) + 2)
    lots = hash2(stream, rows, cols)
    spread_v, spread_u = pitch_v * jitter >> 8, pitch_u * jitter >> 8
    place_v = (((lots & np.uint32(0xFFF)).astype(np.int32) - 2048) * spread_v >> 12) + (pitch_v >> 1)
    place_u = (((lots >> np.uint32(12) & np.uint32(0xFFF)).astype(np.int32) - 2048) * spread_u >> 12) + (pitch_u >> 1)
    middle_v = (place_v + (rows * pitch_v).astype(np.int32)[:, None]).reshape(-1)
    middle_u = (place_u + (cols * pitch_u).astype(np.int32)[None, :]).reshape(-1)

    width = len(cols)
    home = (iv - v0) * width + (iu - u0)
    first = np.full(home.shape, _FAR + 15, np.int32)
    second = first.copy()
    for order, (dv, du) in enumerate(_NEIGHBOURS):
        cell = home + (dv * width + du)
        far = v - middle_v.take(cell)
        far *= far
        across = u - middle_u.take(cell)
        across *= across
        far += across
        np.minimum(far, REACH * REACH - 1, out=far)
        # The neighbour's number rides in the low bits, so one minimum gives distance and cell.
        far <<= 4
        far += order
        if with_gap:
            np.minimum(second, np.maximum(first, far), out=second)
        np.minimum(first, far, out=first)

    steps = np.array([dv * width + du for dv, du in _NEIGHBOURS] + [0] * 7, np.int32)
    cell = home + steps.take(first & 15)
    if with_gap:
        root = root_table(REACH)
        gap = (root.take(second >> 4) - root.take(first >> 4)).astype(np.int32)
    else:
        gap = np.zeros(first.shape, np.int32)
    # The low bits of a lot placed the cell; what else varies must not go with its place.
    spare = hash2(stream ^ 0x5BD1E995, rows, cols).reshape(-1)
    return Nearest(v - middle_v.take(cell), u - middle_u.take(cell), gap, cell, spare)
