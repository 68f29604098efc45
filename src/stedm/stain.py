"""Stains as affine maps of optical densities: transfer of colour statistics, and normalisation.

Light that a stain lets through falls exponentially with its amount (Beer–Lambert), so that in optical densities
(natural logarithms here) stains add. A change of stain is an affine map of densities, float32 (3, 4), which
:func:`stedm.augment.jitter_colour` applies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from stedm.augment import jitter_colour, to_tensor
from stedm.errors import UserError
from stedm.tiles.store import TileStore
from stedm.tiles.windows import STYLE_TISSUE

STAINED = 0.15 * np.log(10)
"""Least mean density of a pixel that counts as stained (Macenko's β, given there in decadic logarithms)."""
EXTREME = 1.0
"""Percentile of the angles taken for a pure stain, and from above of the concentrations (Macenko's α)."""
FEWEST_PIXELS = 100
NARROWEST = np.deg2rad(1.0)
"""Least angle between two stains that can be told apart."""
MOST_PIXELS = 2**20
SMOOTHING = 1e-6
"""Added to variances, so that a picture of one colour has a root, too."""


def densities(pixels: np.ndarray) -> np.ndarray:
    """Return optical densities, float64 of the same shape, of RGB, uint8; 0 for white."""
    return -np.log(np.maximum(pixels, 1) / 255)


def apply_map(image: np.ndarray, map_: np.ndarray) -> np.ndarray:
    """Apply an affine map of densities, (3, 4), to an image, uint8 (height, width, 3)."""
    mapped = jitter_colour(to_tensor([image]), torch.from_numpy(map_[None].astype(np.float32)))
    return (mapped[0] * 255).round().byte().permute(1, 2, 0).numpy()


def slide_pixels(store: TileStore, slide: str) -> np.ndarray:
    """Return RGB, uint8 (n, 3), of a slide's tiles with tissue, or of all its tiles where none has enough.

    Of large slides an even selection of about :data:`MOST_PIXELS`.
    """
    rows = np.flatnonzero(store.column("slide") == slide)
    tissue = rows[store.column("tissue")[rows] >= STYLE_TISSUE]
    rows = tissue if tissue.size else rows
    step = -(-len(rows) * store.tile**2 // MOST_PIXELS) or 1
    tiles = [store.tile_at(int(row))[0].reshape(-1, 3)[::step] for row in rows]
    return np.concatenate(tiles) if tiles else np.zeros((0, 3), np.uint8)


# ---- transfer of statistics


@dataclass(frozen=True)
class Moments:
    """Mean (3,) and covariance (3, 3) of optical densities."""

    mean: np.ndarray
    covariance: np.ndarray


def moments_of(pixels: np.ndarray) -> Moments:
    """Return the moments of RGB pixels, uint8 (n, 3) with n of at least 1."""
    density = densities(pixels)
    return Moments(density.mean(0), np.cov(density, rowvar=False, bias=True))


def transfer_map(source: Moments, target: Moments) -> np.ndarray:
    """Return the affine map of densities, float32 (3, 4), that gives pixels the moments of others.

    Of all such maps it moves densities least: the linear Monge–Kantorovich map (Pitié and Kokaram 2007, eq. 7), where
    Reinhard et al. (2001) match each channel of a decorrelated colour space by itself.
    """
    ridge = SMOOTHING * np.eye(3)
    root = _root(source.covariance + ridge)
    inverse = np.linalg.inv(root)
    matrix = inverse @ _root(root @ (target.covariance + ridge) @ root) @ inverse
    shift = target.mean - matrix @ source.mean
    return np.concatenate([matrix, shift[:, None]], 1).astype(np.float32)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


# ---- normalisation


@dataclass(frozen=True)
class Stains:
    """The two stains of a slide.

    ``vectors`` (3, 3) has in its columns the densities of either stain, of unit length, and the direction that
    neither has; ``strength`` (2,) is the concentration that 1 % of the stained pixels exceed.
    """

    vectors: np.ndarray
    strength: np.ndarray


def find_stains(pixels: np.ndarray, name: str) -> Stains:
    """Find the two stains of a slide (Macenko et al., "A method for normalizing histology slides", ISBI 2009).

    Parameters
    ----------
    pixels
        RGB, uint8 (n, 3).
    name
        The slide, for the error.

    Returns
    -------
    Stains
        The stain that absorbs more of the red first (haematoxylin before eosin or DAB).

    Raises
    ------
    UserError
        If there are too few stained pixels, or all of one hue.
    """
    density = densities(pixels)
    density = density[density.mean(1) >= STAINED]
    if len(density) < FEWEST_PIXELS:
        raise UserError(
            f"{name}: {len(density)} stained pixels are too few to find its stains; leave out the slide or the "
            "arms with normalisation."
        )
    _, directions = np.linalg.eigh(density.T @ density)
    plane = directions[:, :0:-1]
    plane = plane * np.where(plane[:, :1].sum(0) < 0, -1, 1)
    along, across = (density @ plane).T
    low, high = np.percentile(np.arctan2(across, along), [EXTREME, 100 - EXTREME])
    if high - low < NARROWEST:
        raise UserError(
            f"{name}: its pixels have one hue, so that two stains cannot be told apart; leave out the slide or "
            "the arms with normalisation."
        )
    pair = plane @ np.array([[np.cos(low), np.cos(high)], [np.sin(low), np.sin(high)]])
    pair = pair[:, np.argsort(-pair[0])]
    third = np.cross(pair[:, 0], pair[:, 1])
    vectors = np.column_stack([pair, third / np.linalg.norm(third)])
    concentrations = np.linalg.solve(vectors, density.T)[:2]
    return Stains(vectors, np.percentile(concentrations, 100 - EXTREME, axis=1))


def normalising_map(source: Stains, target: Stains) -> np.ndarray:
    """Return the map of densities, float32 (3, 4), from a slide's stains and strengths to those of another.

    What neither stain explains is kept along the direction that neither has, so that a slide's map to itself changes
    nothing.
    """
    scale = np.diag([*(target.strength / source.strength), 1.0])
    matrix = target.vectors @ scale @ np.linalg.inv(source.vectors)
    return np.concatenate([matrix, np.zeros((3, 1))], 1).astype(np.float32)
