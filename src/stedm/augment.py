"""Augmentations of images in tensors, with parameters drawn from a NumPy generator."""

from __future__ import annotations

import json
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

SCALE = (0.8, 1.2)
SHIFT = 0.1
SHEAR = 20.0
"""Ranges of the random affine map: relative scale, shift in tile sides, shear in degrees (paper's recipe)."""


def draw_colour(random: np.random.Generator, strength: float) -> np.ndarray:
    """Draw one colour jitter: an affine map of optical densities.

    Parameters
    ----------
    random
        Source of randomness.
    strength
        Standard deviation of the relative change of each channel's density; channels mix by half of it
        and shift by a fifth of it.

    Returns
    -------
    np.ndarray
        float32 (3, 4): a matrix and a shift, applied by :func:`jitter_colour`.
    """
    noise = random.standard_normal((3, 4))
    scale = np.full((3, 4), strength / 2)
    scale[:, :3][np.eye(3, dtype=bool)] = strength
    scale[:, 3] = strength / 5
    return (np.eye(3, 4) + scale * noise).astype(np.float32)


def jitter_colour(images: Tensor, maps: Tensor) -> Tensor:
    """Apply colour jitters in optical-density space (Beer–Lambert), where stains are additive.

    Parameters
    ----------
    images
        float (batch, 3, height, width) in [0, 1].
    maps
        float (batch, 3, 4) from :func:`draw_colour`.

    Returns
    -------
    Tensor
        As `images`, in [0, 1].
    """
    density = -torch.log(images.clamp(min=1 / 255))
    mixed = torch.einsum("bij,bjhw->bihw", maps[:, :, :3], density) + maps[:, :, 3, None, None]
    return torch.exp(-mixed.clamp(min=0))


def flip(array: np.ndarray, code: int) -> np.ndarray:
    """Apply one of the eight symmetries of the square to the first two axes of an array.

    Parameters
    ----------
    array
        (side, side, …).
    code
        0…7: quarter turns, from 4 on after a reflection.
    """
    # As np.rot90, which takes longer to check its arguments than to turn a tile.
    array = array[::-1] if code >= 4 else array
    if code % 2:
        array = array.swapaxes(0, 1)
    return (array, array[::-1], array[::-1, ::-1], array[:, ::-1])[code % 4]


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

    def matrix(self, extent: int, side: int) -> np.ndarray:
        """Return the affine map after the turn, (2, 3), about the centre of `extent` pixels; shifts are of `side`."""
        angle, shear = np.deg2rad([self.angle, self.shear])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = self.scale * turn @ np.array([[1, np.tan(shear)], [0, 1]])
        centre = np.array([(extent - 1) / 2, (extent - 1) / 2])
        shift = side * np.array([self.shift_x, self.shift_y])
        return np.concatenate([matrix, (centre + shift - matrix @ centre)[:, None]], 1)


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


def transformed(image: np.ndarray, transform: Transform) -> np.ndarray:
    """Transform an image, uint8 (side, side, 3), to the same shape; beyond its border it is mirrored."""
    side = len(image)
    turned = np.ascontiguousarray(flip(image, transform.turn))
    affine = transform.matrix(side, side)
    return cv2.warpAffine(turned, affine, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def to_tensor(images: list[np.ndarray]) -> Tensor:
    """Stack RGB images, uint8 (height, width, 3), to float32 (batch, 3, height, width) in [0, 1]."""
    stacked = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
    return torch.from_numpy(stacked).float().div_(255)


def reduce_area(images: Tensor, size: int) -> Tensor:
    """Reduce images, float (batch, channels, side, side), to `size` by area means; `size` divides the side."""
    return torch.nn.functional.avg_pool2d(images, images.shape[-1] // size)
