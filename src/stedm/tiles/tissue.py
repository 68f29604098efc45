"""Where a slide holds tissue."""

from __future__ import annotations

import cv2
import numpy as np

from stedm.tiles.reader import area_mean

GLASS = 225
"""Glass is taken to be at least this bright; an image whose brightest parts are darker shows none."""
FAINTEST, PLAINEST = 0.025, 0.055
"""Optical densities between which the limit of tissue lies: below the first is the scanner's noise, above
the second even pale immunohistochemistry; Otsu's limit counts between them."""
BLACK = 40
"""Pixels darker than this in all channels are unscanned area or the frame of the slide."""


def tissue_mask(thumbnail: np.ndarray) -> np.ndarray:
    """Find the tissue on a thumbnail, for H&E and immunohistochemistry alike.

    A pixel is tissue where it absorbs light in any colour channel, compared with the glass of the same
    image. The limit is Otsu's, held within narrow bounds, so that an image full of tissue is not divided
    into dark and pale tissue, nor noise on empty glass into glass and tissue. Lumina smaller than 1 % of
    the image count as tissue; specks of a few pixels do not. Pen marks are not told from tissue.

    Parameters
    ----------
    thumbnail
        uint8 (h, w, 3), RGB, at any resolution from about 1 to 100 µm per pixel.

    Returns
    -------
    mask
        bool (h, w).
    """
    height, width = thumbnail.shape[:2]
    smooth = cv2.GaussianBlur(thumbnail, (0, 0), 0.8, borderType=cv2.BORDER_REPLICATE)
    glass = np.clip(np.percentile(smooth.reshape(-1, 3), 99.5, axis=0), GLASS, 255).astype(np.float32)
    density = np.log10((glass + 1) / (smooth.astype(np.float32) + 1)).max(axis=2)
    # Otsu on 0…0.5: what is denser is tissue under any limit and would only pull the limit up.
    levels = np.clip(density * 510, 0, 255).astype(np.uint8)
    otsu = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0] / 510
    mask = density > np.clip(otsu, FAINTEST, PLAINEST)
    mask &= smooth.max(axis=2) >= BLACK
    closed = cv2.morphologyEx(
        mask.astype(np.uint8),
        cv2.MORPH_CLOSE,
        cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)),
        borderType=cv2.BORDER_REPLICATE,
    )
    speck = max(4, height * width // 50_000)
    kept = _without_small(closed, speck)
    return ~_without_small((~kept).astype(np.uint8), max(16, height * width // 100))


def _without_small(mask: np.ndarray, area: int) -> np.ndarray:
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= area
    large[0] = False
    return large[parts] if count > 1 else np.zeros(mask.shape, bool)


def tissue_fractions(mask: np.ndarray, tile: int, width: int, height: int) -> np.ndarray:
    """Return what part of each tile of a slide is tissue.

    Parameters
    ----------
    mask
        bool (h, w), the tissue on a thumbnail of the whole slide.
    tile
        Side of a tile in working pixels.
    width, height
        Size of the slide in working pixels; only what lies inside of it counts.

    Returns
    -------
    fractions
        float64 (rows, columns), 0…1.
    """

    def edges(size: int, length: int) -> np.ndarray:
        return np.minimum(np.arange(-(-size // tile) + 1) * tile, size) * (length / size)

    rows = area_mean(mask, edges(height, mask.shape[0]), axis=0)
    return area_mean(rows, edges(width, mask.shape[1]), axis=1)
