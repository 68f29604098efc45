"""Layouts for synthetic images: windows of labelled slides, flipped and transformed."""

from __future__ import annotations

import json
from dataclasses import dataclass

import cv2
import numpy as np

from stedm.augment import flip
from stedm.tiles.store import UNKNOWN
from stedm.tiles.windows import Window, WindowPool

SCALE = (0.8, 1.2)
SHIFT = 0.1
SHEAR = 20.0
"""Ranges of the random affine map: relative scale, shift in tile sides, shear in degrees (paper's recipe)."""


@dataclass(frozen=True)
class Transform:
    """A symmetry of the square, then an affine map about the tile's centre."""

    turn: int
    angle: float = 0.0
    scale: float = 1.0
    shear: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0

    def describe(self) -> str:
        """Return JSON for the store's index."""
        return json.dumps({key: round(value, 6) for key, value in vars(self).items()})


def draw_transform(random: np.random.Generator, affine: bool) -> Transform:
    """Draw a transform; without `affine` only flips and quarter turns."""
    turn = int(random.integers(8))
    values = random.uniform(size=5)
    if not affine:
        return Transform(turn)
    return Transform(
        turn,
        angle=float(360 * values[0]),
        scale=float(SCALE[0] + (SCALE[1] - SCALE[0]) * values[1]),
        shear=float(SHEAR * (2 * values[2] - 1)),
        shift_x=float(SHIFT * (2 * values[3] - 1)),
        shift_y=float(SHIFT * (2 * values[4] - 1)),
    )


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
    angle, shear = np.deg2rad([transform.angle, transform.shear])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = transform.scale * turn @ np.array([[1, np.tan(shear)], [0, 1]])
    centre = np.array([(wide - 1) / 2, (wide - 1) / 2])
    shift = side * np.array([transform.shift_x, transform.shift_y])
    affine = np.concatenate([matrix, (centre + shift - matrix @ centre)[:, None]], 1)
    moved = cv2.warpAffine(label, affine, (wide, wide), flags=cv2.INTER_NEAREST, borderValue=0)
    return moved[margin : margin + side, margin : margin + side]
