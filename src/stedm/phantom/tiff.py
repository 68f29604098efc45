"""A small writer of tiled JPEG pyramids in TIFF: tiles go out as they come, directories last."""

import struct
from collections.abc import Iterable
from fractions import Fraction
from typing import BinaryIO

_SHORT, _LONG, _RATIONAL, _LONG8 = 3, 4, 5, 16
_FORMAT = {_SHORT: "H", _LONG: "I", _RATIONAL: "II", _LONG8: "Q"}
_JPEG, _YCBCR, _CENTIMETRE = 7, 6, 3

Entry = tuple[int, int, list[int]]


class TiffWriter:
    """Writes levels, largest first, of JPEG tiles (YCbCr, no chroma subsampling) to a seekable binary file.

    Little-endian, BigTIFF if `big`; no dates and no names of software. Call `level` for every level, then
    `finish`. Raises OverflowError in `finish` when a classic TIFF has outgrown 4 GiB.
    """

    def __init__(self, file: BinaryIO, *, big: bool):
        self._file, self._big = file, big
        self._directories: list[list[Entry]] = []
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) if big else struct.pack("<2sHI", b"II", 42, 0))

    def level(self, tiles: Iterable[bytes], *, side: int, tile: int, resolution: Fraction) -> None:
        """Append a `side` x `side` level from JPEG streams of tile x tile pixels, row by row.

        `resolution` is in pixels per centimetre, its terms below 2**32. Raises ValueError when the number of
        tiles is not that of the level.
        """
        offsets, lengths = [], []
        for data in tiles:
            offsets.append(self._file.tell())
            lengths.append(len(data))
            self._file.write(data)
            # Offsets should be even by the TIFF specification.
            if len(data) % 2:
                self._file.write(b"\0")
        if len(offsets) != (-(-side // tile)) ** 2:
            raise ValueError(f"{len(offsets)} tiles of {tile} pixels do not cover a level of {side} pixels")
        terms = [resolution.numerator, resolution.denominator]
        self._directories.append(
            [
                (254, _LONG, [int(bool(self._directories))]),  # NewSubfileType: reduced resolution
                (256, _LONG, [side]),
                (257, _LONG, [side]),
                (258, _SHORT, [8, 8, 8]),
                (259, _SHORT, [_JPEG]),
                (262, _SHORT, [_YCBCR]),
                (277, _SHORT, [3]),  # SamplesPerPixel
                (282, _RATIONAL, terms),
                (283, _RATIONAL, terms),
                (284, _SHORT, [1]),  # PlanarConfiguration: interleaved
                (296, _SHORT, [_CENTIMETRE]),
                (322, _LONG, [tile]),
                (323, _LONG, [tile]),
                (324, _LONG8 if self._big else _LONG, offsets),
                (325, _LONG, lengths),
                (530, _SHORT, [1, 1]),  # YCbCrSubSampling: none
                (532, _RATIONAL, [0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1]),  # ReferenceBlackWhite
            ]
        )

    def finish(self) -> None:
        """Write the directories and the header's pointer to the first of them."""
        starts: list[int] = []
        links: list[int] = []
        for entries in self._directories:
            start, link = self._directory(entries)
            starts.append(start)
            links.append(link)
        for link, start in zip([8 if self._big else 4, *links], [*starts, 0], strict=True):
            self._file.seek(link)
            self._file.write(self._offset(start))

    def _offset(self, value: int) -> bytes:
        if not self._big and value >= 1 << 32:
            raise OverflowError("a classic TIFF cannot hold more than 4 GiB")
        return struct.pack("<Q" if self._big else "<I", value)

    def _directory(self, entries: list[Entry]) -> tuple[int, int]:
        """Write long values, then a directory; returns where it and its link to the next one are."""
        inline = 8 if self._big else 4
        lines = []
        for tag, kind, values in entries:
            form = _FORMAT[kind]
            count = len(values) // len(form)
            if not self._big and max(values) >= 1 << 32:
                raise OverflowError("a classic TIFF cannot hold more than 4 GiB")
            data = struct.pack(f"<{len(values)}{form[0]}", *values)
            if len(data) > inline:
                self._align()
                place = self._file.tell()
                self._file.write(data)
                data = self._offset(place)
            lines.append(struct.pack("<HHQ" if self._big else "<HHI", tag, kind, count) + data.ljust(inline, b"\0"))
        self._align()
        start = self._file.tell()
        self._file.write(struct.pack("<Q" if self._big else "<H", len(lines)) + b"".join(lines))
        link = self._file.tell()
        self._file.write(self._offset(0))
        return start, link

    def _align(self) -> None:
        self._file.write(b"\0" * (-self._file.tell() % 8))
