"""MoNuSAC: small H&E images of four organs with nuclei (Verma et al. 2021), read where they lie.

Data set: https://monusac-2020.grand-challenge.org; paper: doi 10.1109/TMI.2021.3085712. The images are under
CC BY-NC-SA 4.0: they are read and never copied, and only facts are in this repository. A patient is the first 12
characters of an image's name (TCGA).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePath
from typing import Annotated, Literal

from pydantic import Field

from stedm.cohort.annotations import read_imagescope
from stedm.cohort.base import IGNORED, MaskImage, Polygon, Slide, Source
from stedm.cohort.budget import drawn_order
from stedm.cohort.files import check_options
from stedm.cohort.local import LocalCohort
from stedm.config import CohortConfig, Section
from stedm.errors import UserError

TRAINING, TESTING = "MoNuSAC_images_and_annotations", "MoNuSAC Testing Data and Annotations"
"""Folders of the official release, as its two archives unpack."""
AMBIGUOUS = "Ambiguous"
"""Class of the release for what its challenge does not score."""
VALIDATION = 0.15
"""Share of the release's training patients that validate; it names none."""


class Options(Section):
    """Options of the cohort `monusac`."""

    path: Path = Path("data/monusac")
    """Folder that holds the files; relative to the project's root, or absolute."""
    layout: Literal["masks", "official"] = "masks"
    """`images/` and `masks/`, or the official release: a folder a patient with images and ImageScope's XML."""
    mpp: Annotated[float, Field(gt=0)] = 0.25
    """Resolution of the images in µm per pixel, which they do not state."""


def open_cohort(config: CohortConfig, root: Path) -> MoNuSAC:
    """Open the cohort.

    Raises
    ------
    UserError
        If the options do not fit.
    """
    return MoNuSAC(config, Path(root))


class MoNuSAC(LocalCohort):
    """Images `images/<slide>.jpg` with masks `masks/<slide>.jpg`, or the release's `….tif` with `….xml`."""

    def __init__(self, config: CohortConfig, root: Path) -> None:
        self.options = check_options(Options, config)
        self.official = self.options.layout == "official"
        self.holds = f"'{TRAINING}/' and '{TESTING}/'" if self.official else "MoNuSAC's images/ and masks/"
        self.inside = "" if self.official else "images"
        if self.official:
            # The release has each image twice, as .svs too.
            self.suffixes = {".tif"}
        super().__init__(config, root, self.options.path)

    def annotation_file(self, slide: Slide) -> str:
        """Path of the slide's mask or XML."""
        if self.official:
            return PurePath(self.image(slide)).with_suffix(".xml").as_posix()
        return f"masks/{slide.slide}.jpg"

    def mpp(self, slide: Slide) -> float | None:
        """Resolution in µm per pixel, from the options."""
        return self.options.mpp

    def annotation(self, slide: Slide) -> MaskImage | list[Polygon]:
        """Nuclei of the slide: a mask of all, or polygons by class, where what is ambiguous is ignored.

        Raises
        ------
        UserError
            If the file is missing or unreadable.
        """
        path = self.data / self.annotation_file(slide)
        if self.official:
            nuclei = read_imagescope(path)
            return [replace(p, annotated=IGNORED) if p.annotated == AMBIGUOUS else p for p in nuclei]
        if not path.is_file():
            raise UserError(f"{path}: missing; correct cohort.options.path or copy MoNuSAC's masks there.")
        return MaskImage(path, "nucleus", threshold=127)

    def list_slides(self) -> tuple[list[Slide], str]:
        """List the official release: its testing patients test, the first of the others by hash validate.

        Raises
        ------
        UserError
            If the layout is not the official one, an image lies outside of its two folders, or one is empty.
        """
        if not self.official:
            raise UserError(
                f"{self.manifest}: only of the official release can a manifest be written; set cohort.options.layout "
                "to official, or use config/cohorts/monusac.csv."
            )
        patients: dict[str, set[str]] = {TRAINING: set(), TESTING: set()}
        for slide, path in self._found.items():
            top = PurePath(path).parts[0]
            if top not in patients:
                raise UserError(f"{self.data / path}: lies in neither of {self.holds}; lay it out as it was published.")
            patients[top].add(slide[:12])
        for top, names in patients.items():
            if not names:
                raise UserError(f"{self.data / top}: has no images; unpack the release there.")
        order = drawn_order(patients[TRAINING], seed=0)
        count = max(1, round(VALIDATION * len(order)))
        split = dict.fromkeys(order, "train") | dict.fromkeys(order[:count], "validation")
        split |= dict.fromkeys(patients[TESTING], "test")
        comment = (
            "MoNuSAC, the official release: facts only, written by `stedm manifest`. test: the release's own.\n"
            f"validation: the first {count} of its training patients in the order of SHA-256 of 0/<patient>."
        )
        return [Slide(slide, slide[:12], "carcinoma", split[slide[:12]]) for slide in sorted(self._found)], comment

    def source(self) -> Source:
        """Say where the data come from."""
        return Source(
            title="MoNuSAC, nuclei in H&E of four organs",
            version="2020, doi 10.1109/TMI.2021.3085712",
            where="https://monusac-2020.grand-challenge.org/Data",
            licence="CC BY-NC-SA 4.0: not for commercial use",
            size="294 images of 71 patients, about 600 MB",
            ask="the organisers of the challenge",
            by_hand=f"download training and testing data from that page, unpack both into {self.data}, and set "
            "cohort.options.layout to official (docs/data.md)",
        )
