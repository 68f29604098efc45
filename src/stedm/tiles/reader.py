"""Slides: one way to read pixels, whatever the file, through pyvips or OpenSlide.

*Working pixels* are what all of this package counts in: squares of `downsample` × `downsample` pixels of
level 0 whose grid begins at the slide's upper left corner. A working pixel is the area mean of the stored
level that is nearest to it and not coarser, rounded: truncating would darken by a third of a grey level.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from stedm.config import TilesConfig
from stedm.errors import UserError

TOLERANCE = 0.01
"""Relative difference below which two resolutions count as the same."""
FETCH_PIXELS = 8 * 2**20
"""Most pixels of a stored level that are held at once; larger reads go piece by piece."""
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
TIFF_SUFFIXES = {".tif", ".tiff", ".svs", ".btf"}
Backend = Literal["pyvips", "openslide"]


class SlideReader:
    """A slide open for reading; made by :func:`open_slide`, used as a context manager.

    Attributes
    ----------
    path
        The file.
    backend
        ``"pyvips"`` or ``"openslide"``.
    size
        Width and height of level 0 in pixels.
    level_downsamples
        Pixels of level 0 to a pixel of each stored level, along an axis; ascending, the first is 1. Exact
        integers where the level's size is that of an integer reduction, whose remainder was dropped.
    mpp
        µm per pixel of level 0, None where neither the file nor the caller says.
    """

    backend: Backend

    def __init__(self, path: Path, sizes: Sequence[tuple[int, int]], mpp: float | None) -> None:
        self.path = Path(path)
        self.size: tuple[int, int] = sizes[0]
        self.level_sizes = list(sizes)
        self.level_downsamples: list[float] = [_true_downsample(sizes[0], size) for size in sizes]
        self.mpp = mpp

    def __enter__(self) -> SlideReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""

    def _fetch(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return uint8 (height, width, 3) of a stored level; the region lies inside of the level."""
        raise NotImplementedError

    def working_size(self, downsample: float) -> tuple[int, int]:
        """Width and height in working pixels; a remainder narrower than one is left out.

        Raises
        ------
        UserError
            If the slide is narrower than a working pixel.
        """
        width, height = (int(side / downsample + 1e-9) for side in self.size)
        if min(width, height) < 1:
            raise UserError(
                f"{self.path}: {self.size[0]} × {self.size[1]} pixels are less than one at downsample "
                f"{downsample:g}; ask for a finer resolution."
            )
        return width, height

    def read(self, x: int, y: int, width: int, height: int, downsample: float = 1.0) -> np.ndarray:
        """Read a region at working resolution.

        Reading in blocks gives what reading whole gives: a working pixel depends on its position alone.

        Parameters
        ----------
        x, y
            Left and upper edge in working pixels, that is `x` × `downsample` pixels of level 0.
        width, height
            Size in working pixels; the region must lie inside of :meth:`working_size`.
        downsample
            Pixels of level 0 to a working pixel along an axis, at least 1.

        Returns
        -------
        image
            uint8 (height, width, 3), RGB; transparent parts of a scan are white.

        Raises
        ------
        UserError
            If the region is damaged in the file: names the slide and the position.
        """
        whole = self.working_size(downsample)
        if x < 0 or y < 0 or width < 1 or height < 1 or x + width > whole[0] or y + height > whole[1]:
            raise ValueError(f"region {(x, y, width, height)} is not inside of {whole}")
        level = self.best_level(downsample)
        ratio = downsample / self.level_downsamples[level]
        if abs(ratio - round(ratio)) < 1e-6:
            ratio = round(ratio)
        image = np.empty((height, width, 3), np.uint8)
        rows = max(1, min(height, int(FETCH_PIXELS**0.5 / ratio)))
        columns = max(1, min(width, int(FETCH_PIXELS / (rows * ratio * ratio))))
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                part = (min(columns, width - left), min(rows, height - top))
                block = self._read_block(level, x + left, y + top, *part, ratio)
                image[top : top + part[1], left : left + part[0]] = block
        return image

    def best_level(self, downsample: float) -> int:
        """Return the coarsest stored level that is not coarser than `downsample` (by more than 1 %)."""
        fits = [n for n, d in enumerate(self.level_downsamples) if d <= downsample * (1 + TOLERANCE)]
        return fits[-1]

    def _read_block(self, level: int, x: int, y: int, width: int, height: int, ratio: float) -> np.ndarray:
        across, down = self.level_sizes[level]
        x0, x1 = _span(x, width, ratio, across)
        y0, y1 = _span(y, height, ratio, down)
        region = self._fetch(level, x0, y0, x1 - x0, y1 - y0)
        if isinstance(ratio, int):
            missing = (height * ratio - region.shape[0], width * ratio - region.shape[1])
            if any(missing):
                # A level may be one pixel short of what its downsample promises.
                region = cv2.copyMakeBorder(region, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE)
            return reduce_integer(region, ratio)
        edges_x = np.clip((x + np.arange(width + 1)) * ratio, 0, across) - x0
        edges_y = np.clip((y + np.arange(height + 1)) * ratio, 0, down) - y0
        mean = area_mean(area_mean(region, edges_y, axis=0), edges_x, axis=1)
        return np.floor(mean + 0.5).astype(np.uint8)

    def _damaged(self, level: int, x: int, y: int, reason: Exception) -> UserError:
        scale = self.level_downsamples[level]
        said = " ".join(str(reason).split()) or type(reason).__name__
        return UserError(
            f"{self.path}: unreadable in the region from x {int(x * scale)}, y {int(y * scale)} of level 0 "
            f"({said[:160]}); the file is damaged or cut short, so fetch it again."
        )


def _true_downsample(base: tuple[int, int], size: tuple[int, int]) -> float:
    # Writers reduce by an integer and drop the remainder, so the quotient of the sizes (2.0003) would let
    # positions drift across a large slide.
    quotient = (base[0] / size[0] + base[1] / size[1]) / 2
    whole = max(1, round(quotient))
    if all(abs(b / whole - s) <= 1 for b, s in zip(base, size, strict=True)):
        return float(whole)
    return quotient


def _span(start: int, count: int, ratio: float, limit: int) -> tuple[int, int]:
    first = min(int(start * ratio), limit - 1)
    return first, max(first + 1, min(limit, int(np.ceil((start + count) * ratio - 1e-9))))


def reduce_integer(image: np.ndarray, factor: int) -> np.ndarray:
    """Return the rounded means of blocks of `factor` × `factor` pixels of a uint8 image."""
    if factor == 1:
        return image
    size = (image.shape[1] // factor, image.shape[0] // factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def area_mean(values: np.ndarray, edges: np.ndarray, axis: int) -> np.ndarray:
    """Average along an axis between fractional edges.

    Parameters
    ----------
    values
        Any numbers; value `i` along `axis` fills the interval from `i` to `i` + 1.
    edges
        float64 (n + 1,), ascending, inside of the axis.
    axis
        0 or 1.

    Returns
    -------
    means
        float32, n along `axis`.
    """
    first = np.floor(edges[:-1]).astype(np.int64)
    shape = [-1 if n == axis else 1 for n in range(values.ndim)]
    total: np.ndarray | float = 0.0
    for tap in range(int(np.ceil(np.diff(edges).max())) + 1):
        place = first + tap
        weight = np.minimum(edges[1:], place + 1) - np.maximum(edges[:-1], place)
        weight = np.maximum(weight / np.maximum(np.diff(edges), 1e-9), 0).astype(np.float32)
        kept = values.take(np.minimum(place, values.shape[axis] - 1), axis)
        total = total + kept * weight.reshape(shape)
    return total


def working_downsample(reader: SlideReader, config: TilesConfig) -> float:
    """Return how many pixels of the slide's level 0 make a working pixel along an axis.

    A downsample that follows from `config.mpp` is taken to the nearest integer where that is within 1 %:
    then working pixels are means of whole pixels. The resolution that results is what the store records.

    Raises
    ------
    UserError
        If `config.mpp` is given and the slide's resolution is unknown, or is coarser than asked.
    """
    if config.downsample is not None:
        return float(config.downsample)
    if reader.mpp is None:
        raise UserError(
            f"{reader.path}: the file does not state its resolution, but {config.mpp} µm per pixel is asked; "
            "give its µm per pixel with --slide-mpp or in the cohort's options, or ask for a downsample instead."
        )
    downsample = config.mpp / reader.mpp
    if downsample < 1 - TOLERANCE:
        raise UserError(
            f"{reader.path}: scanned at {reader.mpp:g} µm per pixel, coarser than the {config.mpp:g} asked; "
            f"set tiles.mpp to {reader.mpp:g} or more."
        )
    whole = max(1, round(downsample))
    return float(whole) if abs(downsample / whole - 1) <= TOLERANCE else downsample
