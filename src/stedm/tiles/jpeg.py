"""JPEG tiles of a TIFF, decoded straight from its bytes.

libvips gives the same pixels and takes twice as long: it keeps what it decodes in caches of its own and
copies it piece by piece.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

JPEG, RGB, YCBCR, INTERLEAVED = 7, 2, 6, 1
"""Values of TIFF's tags Compression, PhotometricInterpretation and PlanarConfiguration."""
START, END = b"\xff\xd8", b"\xff\xd9"
PLAIN_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""Adobe's marker that components are red, green, blue: without it a decoder takes them for YCbCr."""
KEPT_BYTES = 64 * 2**20
"""Most bytes of decoded tiles that wait for a reading of the rest of them: a row of them across 80,000 pixels."""


class DamagedTile(Exception):
    """A tile that cannot be decoded, by its corner in pixels of its level."""

    def __init__(self, x: int, y: int, reason: str) -> None:
        super().__init__(reason)
        self.x, self.y = x, y


class JpegFile:
    """Levels of one file, which share its handle.

    Parameters
    ----------
    path
        A TIFF that libvips has found whole.
    places
        For each level its place as libvips names it: ``{"page": n}``, or ``{"subifd": n}`` of page 0.
    """

    def __init__(self, path: Path, places: Sequence[Mapping[str, int]]) -> None:
        import tifffile

        self._file = Path(path).open("rb")  # noqa: SIM115  (closed by `close`)
        self.levels: list[JpegLevel | None] = []
        """None for a level that is not of RGB or YCbCr JPEG tiles of 8 bits."""
        with tifffile.TiffFile(self._file) as tiff:
            for place in places:
                page = tiff.pages[0].pages[place["subifd"]] if "subifd" in place else tiff.pages[place["page"]]
                self.levels.append(_level(self._file.fileno(), page))

    def close(self) -> None:
        """Let go of the file and of the decoded tiles."""
        self._file.close()
        self.levels = []


def _level(handle: int, page: Any) -> JpegLevel | None:
    facts = (page.compression, page.planarconfig, page.samplesperpixel, page.bitspersample, page.is_tiled)
    if facts != (JPEG, INTERLEAVED, 3, 8, True) or page.photometric not in (RGB, YCBCR):
        return None
    tables = page.jpegtables[len(START) : -len(END)] if page.jpegtables else b""
    wanted = "RGB" if page.photometric == RGB else "YCbCr"
    for head in (tables, tables + PLAIN_RGB):
        level = JpegLevel(handle, page, head)
        if level.colours() == wanted:
            return level
    return None


class JpegLevel:
    """One level: a grid of JPEG tiles.

    Parameters
    ----------
    handle
        Descriptor of the open file.
    page
        The level's directory, as tifffile reads it.
    head
        What a decoder must know before each tile: TIFF stores the tables of all tiles once.
    """

    def __init__(self, handle: int, page: Any, head: bytes) -> None:
        self._handle, self._head = handle, head
        self._places, self._lengths = page.dataoffsets, page.databytecounts
        self._width, self._height = int(page.tilewidth), int(page.tilelength)
        self._columns = -(-int(page.imagewidth) // self._width)
        self._size = (int(page.imagewidth), int(page.imagelength))
        self._scratch = np.empty((self._height, self._width, 3), np.uint8)
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def colours(self) -> str:
        """Return what a decoder takes the first tile's components for, empty where it cannot say."""
        try:
            return simplejpeg.decode_jpeg_header(self._stream(0))[2]
        except ValueError:
            return ""

    def fetch(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Decode a region that lies inside of the level.

        Returns
        -------
        region
            uint8 (height, width, 3), RGB.

        Raises
        ------
        DamagedTile
            If a tile is incomplete or the decoder has anything to say against it.
        """
        region = np.empty((height, width, 3), np.uint8)
        for top in range(y // self._height * self._height, y + height, self._height):
            for left in range(x // self._width * self._width, x + width, self._width):
                x0, x1 = max(x, left), min(x + width, left + self._width)
                y0, y1 = max(y, top), min(y + height, top + self._height)
                right, bottom = min(left + self._width, self._size[0]), min(top + self._height, self._size[1])
                # Slides are read from the left to the right and downwards.
                tile = self._tile(left, top, again=x1 < right or y1 < bottom)
                region[y0 - y : y1 - y, x0 - x : x1 - x] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        return region

    def _tile(self, left: int, top: int, *, again: bool) -> np.ndarray:
        """Decode a tile; one that will be asked for `again`, for its rest, is kept."""
        number = top // self._height * self._columns + left // self._width
        tile = self._kept.pop(number, None)
        if tile is None:
            tile = np.empty_like(self._scratch) if again else self._scratch
            try:
                decoded = simplejpeg.decode_jpeg(self._stream(number), "RGB", buffer=tile)
            except ValueError as error:
                raise DamagedTile(left, top, str(error)) from None
            if decoded.shape != tile.shape:
                raise DamagedTile(left, top, f"a tile of {decoded.shape[1]} × {decoded.shape[0]} pixels")
        if again:
            self._kept[number] = tile
            while len(self._kept) * tile.nbytes > KEPT_BYTES:
                self._kept.popitem(last=False)
        return tile

    def _stream(self, number: int) -> bytes:
        data = os.pread(self._handle, self._lengths[number], self._places[number])
        if len(data) < self._lengths[number] or not data.startswith(START):
            raise ValueError("no whole JPEG stream")
        return START + self._head + data[len(START) :] if self._head else data
