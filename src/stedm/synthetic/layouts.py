"""Layouts for synthetic images: windows of labelled slides, flipped and transformed."""

from __future__ import annotations

import cv2
import numpy as np

from stedm.augment import Transform, flip
from stedm.tiles.store import UNKNOWN
from stedm.tiles.windows import Window, WindowPool


def transformed_label(pool: WindowPool, window: Window, transform: Transform) -> np.ndarray:
    """Read the label around a window and transform it.

    The label is read with a margin, so that a turned or shrunk tile shows the slide and not its own border.

    Returns
    -------
    np.ndarray
        uint8 (tile, tile); 0 beyond the slide and where labels are unknown.
    """
    side = pool.store.tile
    margin = side // 2 + side // 4
    wide = side + 2 * margin
    _, label = pool.store.window(window.slide, window.x - margin, window.y - margin, wide, wide)
    label = np.ascontiguousarray(flip(np.where(label >= UNKNOWN, 0, label), transform.turn))
    affine = transform.matrix(wide, side)
    moved = cv2.warpAffine(label, affine, (wide, wide), flags=cv2.INTER_NEAREST, borderValue=0)
    return moved[margin : margin + side, margin : margin + side]
