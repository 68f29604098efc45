"""Tiled JPEG pyramids in TIFF, written strip by strip: memory does not grow with a slide's height."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg

from stedm.errors import UserError
from stedm.phantom.paint import Painter
from stedm.phantom.style import Style
from stedm.phantom.tiff import TiffWriter

TILE = 256
"""Side of a tile, pixels."""

_SMALLEST_LEVEL = 512
_BLOCK = 512
_MOST_BYTES = 4
"""More bytes a level-0 pixel than a JPEG pyramid takes: decides for BigTIFF before anything is written."""


def level_sizes(size: int) -> list[int]:
    """Sides of the pyramid's levels, halved (rounded down) until 512 pixels or fewer."""
    sizes = [size]
    while sizes[-1] > _SMALLEST_LEVEL:
        sizes.append(sizes[-1] // 2)
    return sizes


def halve(strip: np.ndarray) -> np.ndarray:
    """Mean of 2 x 2 pixels, halves rounded up: uint8 (h, w, 3) -> uint8 (h // 2, w // 2, 3)."""
    h, w = strip.shape[0] // 2 * 2, strip.shape[1] // 2 * 2
    rows = strip[0:h:2].astype(np.uint16)
    rows += strip[1:h:2]
    total = rows[:, 0:w:2] + rows[:, 1:w:2]
    total += 2
    total >>= 2
    return total.astype(np.uint8)


def encode_row(strip: np.ndarray, quality: int) -> Iterator[bytes]:
    """Encode a strip (1..256, w, 3) uint8 as JPEG tiles from left to right; the rest of a tile repeats."""
    for left in range(0, strip.shape[1], TILE):
        tile = strip[:, left : left + TILE]
        missing = (TILE - tile.shape[0], TILE - tile.shape[1])
        if any(missing):
            tile = np.pad(tile, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        # The "fast" DCT rounds differently in SIMD and C; the accurate one is the same to the bit.
        tile = np.ascontiguousarray(tile)
        yield simplejpeg.encode_jpeg(tile, quality, colorspace="RGB", colorsubsampling="444", fastdct=False)


class _Level:
    """One lower level: takes strips of the level above, spools its tiles, and passes on to the next."""

    def __init__(self, size: int, quality: int, spool: BinaryIO, below: "_Level | None"):
        self.size, self._quality, self._spool, self._below = size, quality, spool, below
        self._rows = np.empty((0, size, 3), np.uint8)
        self.places: list[tuple[int, int]] = []

    def add(self, above: np.ndarray) -> None:
        self._rows = np.concatenate([self._rows, halve(above)])
        while len(self._rows) >= TILE:
            self._emit(self._rows[:TILE])
            self._rows = self._rows[TILE:]

    def finish(self) -> None:
        if len(self._rows):
            self._emit(self._rows)
        if self._below:
            self._below.finish()

    def _emit(self, strip: np.ndarray) -> None:
        for tile in encode_row(strip, self._quality):
            self.places.append((self._spool.tell(), len(tile)))
            self._spool.write(tile)
        if self._below:
            self._below.add(strip)

    def tiles(self) -> Iterator[bytes]:
        for offset, length in self.places:
            self._spool.seek(offset)
            yield self._spool.read(length)


def _resolution(mpp: float, side: int, size: int) -> Fraction:
    """Pixels per centimetre of a level, with terms that fit the 32 bits of a TIFF rational."""
    return (Fraction(10_000 * side) / (Fraction(mpp) * size)).limit_denominator(1000)


def write_pyramid(path: Path, strips: Iterable[np.ndarray], *, size: int, mpp: float, quality: int) -> None:
    """Write a `size` x `size` slide as a tiled JPEG pyramid that OpenSlide and libvips open.

    `strips` yields uint8 RGB (256, size, 3) from top to bottom, the last one possibly lower. The target
    appears only when it is whole; OSError and whatever `strips` raises leave nothing behind.
    """
    path = Path(path)
    sizes = level_sizes(size)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file, tempfile.TemporaryFile(dir=path.parent) as spool:
            levels: list[_Level] = []
            for side in reversed(sizes[1:]):
                levels.insert(0, _Level(side, quality, spool, levels[0] if levels else None))

            def full() -> Iterator[bytes]:
                for strip in strips:
                    yield from encode_row(strip, quality)
                    if levels:
                        levels[0].add(strip)
                if levels:
                    levels[0].finish()

            writer = TiffWriter(file, big=size * size * _MOST_BYTES >= 1 << 32)
            for side, tiles in zip(sizes, [full(), *(level.tiles() for level in levels)], strict=True):
                writer.level(tiles, side=side, tile=TILE, resolution=_resolution(mpp, side, size))
            writer.finish()
        # mkstemp makes files private; a slide gets what the umask allows, as any new file does.
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _strips(painter: Painter) -> Iterator[np.ndarray]:
    size = painter.size
    for top in range(0, size, _BLOCK):
        high = min(_BLOCK, size - top)
        band = np.empty((high, size, 3), np.uint8)
        for left in range(0, size, _BLOCK):
            wide = min(_BLOCK, size - left)
            band[:, left : left + wide] = painter.window(left, top, wide, high)
        for row in range(0, high, TILE):
            yield band[row : row + TILE]


def draw_slide(path: Path, *, size: int, mpp: float, style: Style, seed: int, quality: int = 80) -> None:
    """Draw a `size` x `size` slide as a pyramid TIFF; the same arguments give the same bytes on every CPU.

    `mpp` (um/px) is only recorded: features are drawn for 0.25. `seed` sets the layout and where each cell
    lies, `style` how it looks, `quality` (1..100) that of the JPEG. Only a whole file replaces the target.

    Raises UserError when size, mpp or quality is out of range, and OSError when the file cannot be written.
    """
    if not 256 <= size <= 65_536:
        raise UserError(f"Slide size is {size}; it must be between 256 and 65536 pixels.")
    if not 0.01 <= mpp <= 100:
        raise UserError(f"mpp is {mpp}; it must be between 0.01 and 100 micrometres a pixel.")
    if not 1 <= quality <= 100:
        raise UserError(f"JPEG quality is {quality}; it must be between 1 and 100.")
    painter = Painter(size=size, style=style, seed=seed)
    write_pyramid(Path(path), _strips(painter), size=size, mpp=mpp, quality=quality)
