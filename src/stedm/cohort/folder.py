"""Slides of your own: a folder with slides, QuPath annotations and a table of patients; no code is needed.

::

    <path>/slides/…                       any format, in subfolders or not
    <path>/annotations/<slide>.geojson    exported from QuPath
    <path>/patients.csv                   slide, patient, class and, if you like, split
"""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path, PurePath
from typing import Annotated

from pydantic import Field

from stedm.cohort.annotations import read_geojson
from stedm.cohort.base import Polygon, Slide
from stedm.cohort.budget import drawn_order
from stedm.cohort.files import check_options, several
from stedm.cohort.local import SUFFIXES, LocalCohort
from stedm.config import CohortConfig, Fraction, Section
from stedm.errors import UserError

log = logging.getLogger("stedm")

TABLE = "patients.csv"


class Options(Section):
    """Options of the cohort `folder`."""

    path: Path | None = None
    """The folder, relative to the project's root or absolute; by default `data/` and the manifest's name."""
    mpp: Annotated[float, Field(gt=0)] | None = None
    """Resolution of level 0 in µm per pixel, in place of what the slides state."""
    unclassified: str | None = None
    """Class of annotations that have none in QuPath; by default they are left out."""
    seed: int = 0
    """Of the split, where the table has none."""
    validation: Fraction = 0.15
    """Share of the patients of each class that validate, where the table has no split."""
    test: Fraction = 0.3
    """Share of the patients of each class that are tested on, where the table has no split."""


def open_cohort(config: CohortConfig, root: Path) -> Folder:
    """Open the cohort.

    Raises
    ------
    UserError
        If the options do not fit.
    """
    return Folder(config, Path(root))


class Folder(LocalCohort):
    """Slides `slides/…`, annotations `annotations/<slide>.geojson`, patients `patients.csv`."""

    holds = f"slides/, annotations/ and {TABLE}"
    inside = "slides"

    def __init__(self, config: CohortConfig, root: Path) -> None:
        self.options = check_options(Options, config)
        super().__init__(config, root, self.options.path or Path("data") / config.manifest.stem)

    def annotation_file(self, slide: Slide) -> str | None:
        """Path of the slide's GeoJSON; a patient of the split `unlabelled` needs none."""
        path = f"annotations/{slide.slide}.geojson"
        return None if slide.split == "unlabelled" and not (self.data / path).is_file() else path

    def mpp(self, slide: Slide) -> float | None:
        """Resolution from the options, None for what the slide states."""
        return self.options.mpp

    def annotation(self, slide: Slide) -> list[Polygon] | None:
        """Polygons that QuPath exported, None for a slide without any.

        Raises
        ------
        UserError
            If the GeoJSON is missing or unreadable.
        """
        path = self.annotation_file(slide)
        return None if path is None else read_geojson(self.data / path, unclassified=self.options.unclassified)

    def list_slides(self) -> tuple[list[Slide], str]:
        """Read the table of patients and find the slides; return the manifest's rows and what to say above them.

        Where the table has no column `split`, patients are drawn into one: within each class, in the order of
        :func:`~stedm.cohort.budget.drawn_order`, the first go to test, the next to validation and the rest to
        training, of each at least one.

        Raises
        ------
        UserError
            If the table is missing or faulty, a slide is missing or ambiguous, or a class is too small.
        """
        path = self.data / TABLE
        rows = [self._slide(path, number, row) for number, row in enumerate(_read_table(path), start=1)]
        for slide in rows:
            self.image(slide)
        if unlisted := sorted(set(self._found) - {slide.slide for slide in rows}):
            log.warning("%s: does not list, so not used: %s", path, several(unlisted))
        if any(slide.split for slide in rows):
            return rows, f"Written by `stedm manifest` from {TABLE}."
        drawn = self._draw(rows)
        how = f"seed {self.options.seed}, validation {self.options.validation}, test {self.options.test}"
        rows = [Slide(s.slide, s.patient, s.group, drawn[s.patient]) for s in rows]
        return rows, f"Written by `stedm manifest` from {TABLE}, which states no split: drawn by patient ({how})."

    def _slide(self, path: Path, number: int, row: dict[str, str]) -> Slide:
        for column in ("slide", "patient", "class"):
            if not row.get(column):
                raise UserError(f"{path}: row {number} has no {column}; a row has slide, patient and class.")
        name = PurePath(row["slide"])
        return Slide(
            name.stem if name.suffix.lower() in SUFFIXES else name.name,
            row["patient"],
            row["class"],
            row.get("split", ""),
        )

    def _draw(self, rows: list[Slide]) -> dict[str, str]:
        split: dict[str, str] = {}
        for group in sorted({slide.group for slide in rows}):
            patients = {slide.patient for slide in rows if slide.group == group}
            test, validation = (
                max(1, round(len(patients) * share)) for share in (self.options.test, self.options.validation)
            )
            if test + validation >= len(patients):
                raise UserError(
                    f"{self.data / TABLE}: class {group!r} has {len(patients)} patients, too few to draw {test} for "
                    f"test and {validation} for validation; add a column `split`."
                )
            for rank, patient in enumerate(drawn_order(patients, self.options.seed)):
                split[patient] = "test" if rank < test else "validation" if rank < test + validation else "train"
        return split


def _read_table(path: Path) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; add a table with the columns slide, patient, class.") from None
    # Spreadsheets of some countries separate columns by semicolons.
    delimiter = ";" if ";" in text.partition("\n")[0] else ","
    rows = [
        {key.strip(): (value or "").strip() for key, value in row.items() if key}
        for row in csv.DictReader(io.StringIO(text), delimiter=delimiter)
    ]
    if not rows:
        raise UserError(f"{path}: has no rows; add one a slide with slide, patient and class.")
    if missing := {"slide", "patient", "class"} - set(rows[0]):
        raise UserError(f"{path}: the column {min(missing)!r} is missing; a table has slide, patient, class.")
    return rows
