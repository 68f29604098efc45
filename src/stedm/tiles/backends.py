"""The libraries that decode slides."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stedm.errors import UserError
from stedm.tiles.jpeg import DamagedTile, JpegFile
from stedm.tiles.reader import IMAGE_SUFFIXES, TIFF_SUFFIXES, Backend, SlideReader

PLAUSIBLE_MPP = (0.02, 20.0)
"""Stated resolutions outside of this range (µm per pixel) are print resolutions, not those of a scan."""

Result = TypeVar("Result")


def choose_backend(path: Path) -> Backend:
    """Say which backend reads a file: pyvips for plain images and TIFFs without a vendor's peculiarities."""
    suffix = Path(path).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "pyvips"
    if suffix in TIFF_SUFFIXES:
        import openslide

        vendor = openslide.OpenSlide.detect_format(str(path))
        return "pyvips" if vendor in (None, "aperio", "generic-tiff") else "openslide"
    return "openslide"


def open_slide(path: Path, *, mpp: float | None = None, backend: Backend | None = None) -> SlideReader:
    """Open a slide or an image.

    Parameters
    ----------
    path
        TIFF, SVS, JPEG, PNG, or anything that OpenSlide reads.
    mpp
        µm per pixel of level 0, in place of what the file states.
    backend
        Forces a backend; by default the file decides (:func:`choose_backend`).

    Raises
    ------
    UserError
        If the file is missing, or no readable slide.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such slide file; fetch the cohort's data or correct the path.")
    if mpp is not None and not mpp > 0:
        raise UserError(f"{path}: a resolution of {mpp} µm per pixel was given; give a positive number.")
    chosen = backend or choose_backend(path)
    return VipsReader(path, mpp) if chosen == "pyvips" else OpenSlideReader(path, mpp)


class VipsReader(SlideReader):
    """Tiled TIFF, SVS, JPEG and PNG: libvips opens them and finds their levels.

    JPEG tiles are decoded straight from the file (:mod:`stedm.tiles.jpeg`), all else by libvips.
    """

    backend: Backend = "pyvips"

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        import pyvips

        # libvips would keep the files of past operations open, up to a hundred of them, and give what they held
        # when they were first opened.
        pyvips.cache_set_max(0)
        self._error = pyvips.Error
        try:
            levels = _checked(lambda: _vips_levels(path))
        except pyvips.Error as error:
            raise _unreadable(path, error) from None
        first = levels[0][1]
        if first.format != "uchar" or first.bands not in (1, 3, 4):
            raise UserError(
                f"{path}: {first.bands} bands of {first.format}, where 8-bit RGB is needed; export it as RGB."
            )
        self._jpeg = JpegFile(path, [place for place, _ in levels]) if _is_tiff(path) else None
        direct = self._jpeg.levels if self._jpeg else [None] * len(levels)
        self._regions = [
            None if jpeg else pyvips.Region.new(_rgb(image)) for (_, image), jpeg in zip(levels, direct, strict=True)
        ]
        # libvips complains of a damaged tile once, and shows it blank from then on.
        self._broken: dict[int, Exception] = {}
        super().__init__(path, [(image.width, image.height) for _, image in levels], mpp or _vips_mpp(first))

    def close(self) -> None:  # noqa: D102
        self._regions = []
        if self._jpeg:
            self._jpeg.close()

    def _fetch(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        region = self._regions[level]
        if region is None:
            try:
                return self._jpeg.levels[level].fetch(x, y, width, height)
            except DamagedTile as tile:
                raise self._damaged(level, tile.x, tile.y, tile) from None
        if level in self._broken:
            raise self._damaged(level, x, y, self._broken[level])
        try:
            data = _checked(lambda: region.fetch(x, y, width, height))
        except self._error as error:
            self._broken[level] = error
            raise self._damaged(level, x, y, error) from None
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() not in IMAGE_SUFFIXES


def _checked(work: Callable[[], Result]) -> Result:
    # libvips returns grey pixels for a JPEG tile that ends early, and fewer levels for a TIFF that is cut
    # short, whatever `fail_on` says; what it found wrong stands in its error buffer alone.
    from pyvips import Error, ffi, vips_lib

    vips_lib.vips_error_clear()
    result = work()
    said = ffi.string(vips_lib.vips_error_buffer()).decode(errors="replace")
    vips_lib.vips_error_clear()
    if said:
        raise Error(said)
    return result


def _vips_levels(path: Path) -> list[tuple[dict[str, int], Any]]:
    """Return each level's place in the file and image, the largest first."""
    import pyvips

    def load(**options: int) -> Any:
        return pyvips.Image.tiffload(str(path), fail_on="warning", **options)

    if not _is_tiff(path):
        return [({}, pyvips.Image.new_from_file(str(path), fail_on="warning"))]
    top = load(page=0)
    below = top.get("n-subifds") if top.get_typeof("n-subifds") else 0
    places = [{"subifd": n} for n in range(below)] or [{"page": n} for n in range(1, top.get("n-pages"))]
    images = [({"page": 0}, top), *((place, load(**place)) for place in places)]
    # Thumbnails, labels and macro images are stored in strips or have another shape; some files begin with one.
    tiled = [(place, image) for place, image in images if image.get_typeof("tile-width")]
    levels = [max([images[0], *tiled], key=lambda level: level[1].width * level[1].height)]
    first = levels[0][1]
    for place, image in sorted(tiled, key=lambda level: -level[1].width):
        alike = abs(first.width / image.width / (first.height / image.height) - 1) < 0.05
        if alike and image.width < levels[-1][1].width and image.bands == first.bands:
            levels.append((place, image))
    return levels


def _rgb(image: Any) -> Any:
    if image.bands == 4:
        image = image.flatten(background=255)
    return image.bandjoin([image, image]) if image.bands == 1 else image


def _vips_mpp(image: Any) -> float | None:
    fields = set(image.get_fields())
    text = image.get("image-description") if "image-description" in fields else ""
    if stated := re.search(r"MPP\s*=\s*([0-9.]+)", text):
        return _plausible(float(stated[1]))
    if "resolution-unit" in fields and image.xres > 0 and image.yres > 0:
        return _plausible((1000 / image.xres + 1000 / image.yres) / 2)
    return None


class OpenSlideReader(SlideReader):
    """Vendors' formats (MRXS, NDPI, SCN, DICOM …) through OpenSlide.

    Where OpenSlide's own downsample of a level is no integer, positions are exact to half a pixel of level 0
    and a region is interpolated between the level's pixels; elsewhere pixels come as they are stored.
    """

    backend: Backend = "openslide"

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        import openslide

        self._error = openslide.OpenSlideError
        try:
            self._slide = openslide.OpenSlide(str(path))
        except openslide.OpenSlideError as error:
            raise _unreadable(path, error) from None
        stated = [self._slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
        found = _plausible(sum(map(float, stated)) / 2) if all(stated) else None
        super().__init__(path, self._slide.level_dimensions, mpp or found)

    def close(self) -> None:  # noqa: D102
        self._slide.close()

    def _fetch(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        # OpenSlide divides positions by its own, unsnapped downsample.
        scale = self._slide.level_downsamples[level]
        try:
            place = (round(x * scale), round(y * scale))
            region = np.asarray(self._slide.read_region(place, level, (width, height)))
        except self._error as error:
            raise self._damaged(level, x, y, error) from None
        colour, alpha = region[..., :3], region[..., 3:]
        if alpha.min() == 255:
            return np.ascontiguousarray(colour)
        weight = alpha.astype(np.float32) / 255
        return np.floor(colour * weight + 255 * (1 - weight) + 0.5).astype(np.uint8)


def _plausible(mpp: float) -> float | None:
    return mpp if PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1] else None


def _unreadable(path: Path, error: Exception) -> UserError:
    said = " ".join(str(error).split())
    return UserError(f"{path}: not a readable slide or image ({said[:160]}); fetch or export it again.")
