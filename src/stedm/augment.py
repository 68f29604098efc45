"""Augmentations of images in tensors, with parameters drawn from a NumPy generator."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


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
    return np.rot90(array[::-1] if code >= 4 else array, code % 4, axes=(0, 1))


def to_tensor(images: list[np.ndarray]) -> Tensor:
    """Stack RGB images, uint8 (height, width, 3), to float32 (batch, 3, height, width) in [0, 1]."""
    stacked = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
    return torch.from_numpy(stacked).float().div_(255)


def reduce_area(images: Tensor, size: int) -> Tensor:
    """Reduce images, float (batch, channels, side, side), to `size` by area means; `size` divides the side."""
    return torch.nn.functional.avg_pool2d(images, images.shape[-1] // size)
