"""MoNuSAC: small H&E images of four organs with nucleus masks, read where they lie.

The images are under CC BY-NC-SA 4.0: they are read and never copied, and only facts are in this repository.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from stedm.cohort.base import MaskImage, Slide, Source
from stedm.cohort.files import check_options
from stedm.cohort.local import LocalCohort
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
    return MoNuSAC(config, Path(root))


class MoNuSAC(LocalCohort):
    """Images `images/<slide>.jpg` with masks `masks/<slide>.jpg`."""

    holds = "MoNuSAC's images/ and masks/"
    inside = "images"

    def __init__(self, config: CohortConfig, root: Path) -> None:
        self.options = check_options(Options, config)
        super().__init__(config, root, self.options.path)

    def annotation_file(self, slide: Slide) -> str:  # noqa: D102
        return f"masks/{slide.slide}.jpg"

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
        path = self.data / self.annotation_file(slide)
        if not path.is_file():
            raise UserError(f"{path}: missing; correct cohort.options.path or copy MoNuSAC's masks there.")
        return MaskImage(path, "nucleus", threshold=127)

    def source(self) -> Source:
        """Say where the data come from."""
        return Source(
            title="MoNuSAC, nuclei in H&E of four organs",
            version="2020",
            where="https://monusac-2020.grand-challenge.org",
            licence="CC BY-NC-SA 4.0: not for commercial use",
            size="45 of its images with masks, 15 MB",
            ask="the organisers of the challenge",
            by_hand=f"download the data from that page and lay images/ and masks/ into {self.data}",
        )
