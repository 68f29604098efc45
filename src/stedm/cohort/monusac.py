"""MoNuSAC: small H&E images of four organs with nucleus masks, read where they lie.

The images are under CC BY-NC-SA 4.0: they are read and never copied, and only facts are in this repository.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from stedm.cohort import dvc, files
from stedm.cohort.base import MaskImage, Slide
from stedm.config import CohortConfig, Section
from stedm.errors import UserError


class Options(Section):
    """Options of the cohort `monusac`."""

    path: Path = Path("data/monusac")
    """Folder that holds `images/` and `masks/`; relative to the project's root, or absolute."""
    mpp: Annotated[float, Field(gt=0)] = 0.25
    """Resolution of the images in µm per pixel, which JPEG files do not state."""


def open_cohort(config: CohortConfig, root: Path) -> MoNuSAC:
    """Open the cohort.

    Raises
    ------
    UserError
        If the options do not fit.
    """
    return MoNuSAC(files.check_options(Options, config), Path(root))


class MoNuSAC:
    """Images `images/<slide>.jpg` with masks `masks/<slide>.jpg`."""

    def __init__(self, options: Options, root: Path) -> None:
        self.options = options
        self.data = root / options.path
        self._state = root / ".stedm" / "monusac.json"

    def acquire(self, slides: list[Slide], *, workers: int = 0) -> dict[str, object]:
        """Check that every image and mask is there and has the manifest's checksum.

        Raises
        ------
        UserError
            If the folder, an image or a mask is missing, or one differs.
        """
        if not self.data.is_dir():
            raise UserError(
                f"{self.data}: no such folder; set cohort.options.path to the folder that holds MoNuSAC's "
                "images/ and masks/ (docs/data.md says where to get them)."
            )
        state, wanted = files.State.load(self._state), _files(slides)
        remedy = "copy MoNuSAC's files anew or correct cohort.options.path"
        found = files.verify(self.data, wanted, state, remedy=remedy)
        state.save()
        return {
            "data": "verified" if all(wanted.values()) else "unverified",
            "origin": "found",
            "comparable": True,
            "directory": dvc.directory_hash(found),
            "md5": {slide.slide: found[f"images/{slide.slide}.jpg"] for slide in slides},
        }

    def slide_path(self, slide: Slide) -> Path:
        """Path of the slide's image."""
        return self.data / "images" / f"{slide.slide}.jpg"

    def mpp(self, slide: Slide) -> float | None:
        """Resolution in µm per pixel, from the options."""
        return self.options.mpp

    def annotation(self, slide: Slide) -> MaskImage:
        """Mask of the slide's nuclei.

        Raises
        ------
        UserError
            If the mask is missing.
        """
        path = self.data / "masks" / f"{slide.slide}.jpg"
        if not path.is_file():
            raise UserError(f"{path}: missing; correct cohort.options.path or copy MoNuSAC's masks there.")
        return MaskImage(path, "nucleus", threshold=127)

    def state(self, slides: list[Slide]) -> str:
        """Say whether the files are what was checked: ``whole``, or ``damaged:`` with names."""
        return files.condition(self.data, _files(slides), files.State.load(self._state))


def _files(slides: list[Slide]) -> dict[str, str | None]:
    return files.expected(slides, "images/{}.jpg", "masks/{}.jpg")
