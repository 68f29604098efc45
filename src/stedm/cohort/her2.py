"""HER2: slides of immunohistochemistry, annotated in regions on an EXACT server (Erlangen; private).

The files are those that `stedm fetch` writes: `slides/` and `annotations/<file name>.json`. A patient is a slide,
its class the HER2 score; slides that nobody annotated come from a table and are of the split `unlabelled`.
"""

from __future__ import annotations

import csv
import logging
import re
from pathlib import Path
from typing import Literal

from stedm.cohort.annotations import read_exact
from stedm.cohort.base import REGION, Consensus, Polygon, Slide, Source, read_manifest
from stedm.cohort.exact import Exact, ExactOptions, export
from stedm.cohort.files import check_options
from stedm.cohort.local import LocalCohort
from stedm.config import CohortConfig, Section
from stedm.errors import UserError

log = logging.getLogger("stedm")

SCORES = ("0", "1+", "2+", "3+")
STAIN = "_HER2_IHC"
"""What follows the tumour block's number in the file names of unlabelled slides."""
NUMBER, SCORE, USE = "Tumorblock_ID", "HERIHCScore", "USE"
"""Columns of the table of unlabelled slides."""


class Options(Section):
    """Options of the cohort `her2`."""

    path: Path = Path("data/her2")
    """Folder that holds `slides/` and `annotations/`; relative to the project's root, or absolute."""
    exact: ExactOptions = ExactOptions()
    """The EXACT server that `stedm fetch` asks, and which of its annotations count."""
    votes: tuple[Literal["train", "validation", "test"], ...] = ("test",)
    """Splits in which several people annotated the same regions, so that each pixel is put to the vote;
    elsewhere the annotations of all are drawn together."""
    unlabelled: Path | None = None
    """Below `path`: table (CSV with semicolons) of the slides that nobody annotated, for `stedm manifest`."""


def open_cohort(config: CohortConfig, root: Path) -> Her2:
    """Open the cohort.

    Raises
    ------
    UserError
        If the options do not fit.
    """
    return Her2(config, Path(root))


class Her2(LocalCohort):
    """Slides `slides/…` by the number in their names, annotations `annotations/….json`."""

    holds = "slides/ and annotations/ of HER2, as `stedm fetch` writes them"
    inside = "slides"

    def __init__(self, config: CohortConfig, root: Path) -> None:
        self.options = check_options(Options, config)
        if config.folds and self.options.votes:
            raise UserError(
                "cohort.folds: slides are cut once for all folds, and cohort.options.votes makes labels depend on the "
                "split; set votes to [], or run each fold by itself with cohort.split."
            )
        super().__init__(config, root, self.options.path)

    @staticmethod
    def key(path: Path) -> str:
        """Return the tumour block's number: what precedes the stain, else the first number of the name."""
        if path.stem.endswith(STAIN):
            return path.stem.removesuffix(STAIN)
        number = re.search(r"\d+", path.stem)
        return number[0] if number else path.stem

    def annotation_file(self, slide: Slide) -> str | None:
        """Path of the slide's annotations; a slide of the split `unlabelled` has none."""
        return None if slide.split == "unlabelled" else f"annotations/{Path(self.image(slide)).stem}.json"

    def mpp(self, slide: Slide) -> float | None:
        """None: the slides state their resolution."""
        return None

    def annotation(self, slide: Slide) -> list[Polygon] | Consensus | None:
        """Polygons of the slide and its regions, of each person where they vote.

        Raises
        ------
        UserError
            If the annotations are missing or unreadable, or bound no region where regions are named.
        """
        if (file := self.annotation_file(slide)) is None:
            return None
        path, exact = self.data / file, self.options.exact
        drawn = read_exact(path, users=exact.users, product=exact.product, regions=exact.regions)
        everything = [polygon for own in drawn.values() for polygon in own]
        if exact.regions and not any(polygon.annotated == REGION for polygon in everything):
            raise UserError(
                f"{path}: has no region ({', '.join(exact.regions)}), so what was annotated is unknown; correct "
                "cohort.options.exact or take the slide out of the manifest."
            )
        return Consensus(tuple(map(tuple, drawn.values()))) if slide.split in self.options.votes else everything

    def list_slides(self) -> tuple[list[Slide], str]:
        """Take the annotated slides from the manifest as it is, the unlabelled ones from their table.

        A row of the table counts where it has a score, nothing stands in ``USE``, its file is there and the
        manifest does not have the slide as an annotated one.

        Raises
        ------
        UserError
            If the manifest or the table is missing or faulty.
        """
        rows = [slide for slide in read_manifest(self.manifest) if slide.split != "unlabelled"]
        head = [line[1:].strip() for line in self.manifest.read_text().splitlines() if line.startswith("#")]
        if self.options.unlabelled is not None:
            known, listed = {slide.slide for slide in rows}, self._unlabelled()
            added = [slide for slide in listed if slide.slide in self._found and slide.slide not in known]
            log.info("%s: %d of %d usable rows have a slide", self.options.unlabelled, len(added), len(listed))
            rows += added
        return rows, "\n".join(head)

    def _unlabelled(self) -> list[Slide]:
        path = self.data / str(self.options.unlabelled)
        try:
            table = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), delimiter=";"))
            chosen = [row for row in table if row[SCORE].strip() and not row[USE].strip()]
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; correct cohort.options.unlabelled.") from None
        except (KeyError, AttributeError):
            raise UserError(f"{path}: needs the columns {NUMBER};{SCORE};{USE}; correct its first line.") from None
        slides = []
        for row in chosen:
            number, score = row[NUMBER].strip(), row[SCORE].strip()
            score = score if score in SCORES else f"{score[0]}+" if score[0] in "123" else score[0]
            if score not in SCORES:
                raise UserError(f"{path}: {number} has the score {row[SCORE]!r}; scores are {', '.join(SCORES)}.")
            slides.append(Slide(number, number, score, "unlabelled"))
        return slides

    def source(self) -> Source:
        """Say where the data come from."""
        return Source(
            title="HER2, breast cancer with HER2 immunohistochemistry",
            version="image sets " + (", ".join(self.options.exact.image_sets) or "(none named)"),
            where=self.options.exact.server or "an EXACT server; set cohort.options.exact.server",
            licence="private: your account's terms of use",
            size="24 + 8 + 8 annotated slides",
            ask="the authors of STEDM (arXiv 2403.14429), Pattern Recognition Lab, FAU Erlangen-Nürnberg",
            by_hand="" if self.options.exact.server else "set cohort.options.exact.server, and ask for an account",
        )

    def fetch(self) -> None:
        """Download slides and annotations from the EXACT server; see :func:`stedm.cohort.exact.export`."""
        export(Exact.open(self.options.exact.server), self.options.exact, self.data)
