"""The libraries that decode slides."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stedm.errors import UserError
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
    """Tiled TIFF, SVS, JPEG and PNG through pyvips."""

    backend: Backend = "pyvips"

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        import pyvips

        self._error = pyvips.Error
        try:
            self._images = _checked(lambda: _vips_levels(path))
        except pyvips.Error as error:
            raise _unreadable(path, error) from None
        first = self._images[0]
        if first.format != "uchar" or first.bands not in (1, 3, 4):
            raise UserError(
                f"{path}: {first.bands} bands of {first.format}, where 8-bit RGB is needed; export it as RGB."
            )
        self._regions = [pyvips.Region.new(image) for image in map(_rgb, self._images)]
        sizes = [(image.width, image.height) for image in self._images]
        super().__init__(path, sizes, mpp or _vips_mpp(first))

    def close(self) -> None:  # noqa: D102
        self._regions, self._images = [], []

    def _fetch(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        try:
            data = _checked(lambda: self._regions[level].fetch(x, y, width, height))
        except self._error as error:
            raise self._damaged(level, x, y, error) from None
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)


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


def _vips_levels(path: Path) -> list[Any]:
    import pyvips

    # Without `revalidate`, a file that changed since an earlier reading comes from the cache.
    always = {"fail_on": "warning", "revalidate": True}
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return [pyvips.Image.new_from_file(str(path), **always)]
    first = pyvips.Image.tiffload(str(path), page=0, **always)
    levels = [first]
    below = first.get("n-subifds") if first.get_typeof("n-subifds") else 0
    places = [{"subifd": n} for n in range(below)] or [{"page": n} for n in range(1, first.get("n-pages"))]
    for place in places:
        image = pyvips.Image.tiffload(str(path), **place, **always)
        # Thumbnails, labels and macro images are stored in strips or have another shape.
        tiled = bool(image.get_typeof("tile-width"))
        alike = abs(first.width / image.width / (first.height / image.height) - 1) < 0.05
        if tiled and alike and image.width < levels[-1].width and image.bands == first.bands:
            levels.append(image)
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
