"""CATCH: 350 H&E slides of canine skin tumours with polygons of 13 classes (Wilm et al. 2022, CC BY 4.0).

Data set: doi 10.7937/TCIA.2M93-FX66; paper: doi 10.1038/s41597-022-01692-w. A patient is an animal.
"""

from __future__ import annotations

import csv
from pathlib import Path

from stedm.cohort.annotations import read_coco, read_exact, read_sliderunner
from stedm.cohort.base import Polygon, Slide, Source
from stedm.cohort.exact import Exact, ExactOptions, export
from stedm.cohort.files import check_options
from stedm.cohort.local import LocalCohort
from stedm.config import CohortConfig, Section
from stedm.errors import UserError

CLASSES = {
    "Bone": None,
    "Cartilage": None,
    "Dermis": None,
    "Epidermis": None,
    "Subcutis": None,
    "Inflamm/Necrosis": None,
    "Melanoma": "Melanoma",
    "Plasmacytoma": "Plasmacytoma",
    "Mast Cell Tumor": "MCT",
    "PNST": "PNST",
    "SCC": "SCC",
    "Trichoblastoma": "Trichoblastoma",
    "Histiocytoma": "Histiocytoma",
}
"""The 13 annotated classes in the order of CATCH's categories 1…13, with the subtype in a slide's name for tumours."""
SPLITS = {"train": ("train", 245), "val": ("validation", 35), "test": ("test", 70)}
"""Names of the official splits, ours, and how many slides each has."""


class Options(Section):
    """Options of the cohort `catch`."""

    path: Path = Path("data/catch")
    """Folder that holds the slides, in subfolders or not; relative to the project's root, or absolute."""
    annotations: Path = Path("CATCH.json")
    """Below `path`: the data set's JSON, a SlideRunner database (.sqlite), or EXACT's folder `annotations`."""
    split: Path = Path("datasets.csv")
    """Below `path`: the official split, for `stedm manifest`."""
    exact: ExactOptions = ExactOptions()
    """The EXACT server that `stedm fetch` asks, and which of its annotations count."""


def open_cohort(config: CohortConfig, root: Path) -> Catch:
    """Open the cohort.

    Raises
    ------
    UserError
        If the options do not fit.
    """
    return Catch(config, Path(root))


class Catch(LocalCohort):
    """Slides anywhere below the folder, found by name."""

    holds = "CATCH's slides and annotations"

    def __init__(self, config: CohortConfig, root: Path) -> None:
        self.options = check_options(Options, config)
        super().__init__(config, root, self.options.path)

    def annotation_file(self, slide: Slide) -> str:
        """Path of the file that holds the slide's annotations: one for all, or with EXACT one each."""
        path = self.options.annotations
        return (path if path.suffix else path / f"{slide.slide}.json").as_posix()

    def mpp(self, slide: Slide) -> float | None:
        """None: the slides state their resolution."""
        return None

    def annotation(self, slide: Slide) -> list[Polygon]:
        """Polygons of the slide.

        Raises
        ------
        UserError
            If the annotations are missing, unreadable, or do not know the slide.
        """
        path, name = self.data / self.annotation_file(slide), self.slide_path(slide).name
        if not self.options.annotations.suffix:
            exact = self.options.exact
            drawn = read_exact(path, users=exact.users, product=exact.product, regions=exact.regions)
            return [polygon for own in drawn.values() for polygon in own]
        return read_coco(path, name) if path.suffix == ".json" else read_sliderunner(path, name)

    def list_slides(self) -> tuple[list[Slide], str]:
        """Read the official split; return the manifest's rows and what to say above them.

        Raises
        ------
        UserError
            If the file is missing, is not the official split, or an animal is in two sets.
        """
        path = self.data / self.options.split
        try:
            table = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), delimiter=";"))
            rows = [_slide(row["Slide"], row["Dataset"]) for row in table]
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; set cohort.options.split to CATCH's split.") from None
        except (KeyError, ValueError) as error:
            raise UserError(f"{path}: not CATCH's split, Slide;Dataset;Scanner ({error}); get it again.") from None
        for name, count in SPLITS.values():
            if (found := sum(slide.split == name for slide in rows)) != count:
                raise UserError(f"{path}: {found} slides for {name}, the official split has {count}; get it again.")
        split: dict[str, str] = {}
        for slide in rows:
            if split.setdefault(slide.patient, slide.split) != slide.split:
                raise UserError(f"{path}: animal {slide.patient} is in two sets, which the official split never does.")
        comment = "CATCH (doi 10.7937/TCIA.2M93-FX66), the official split; facts only, written by `stedm manifest`.\n"
        return (
            rows,
            comment + "patient: the animal, a slide's name without its last number. class: the tumour's subtype.",
        )

    def source(self) -> Source:
        """Say where the data come from."""
        server = self.options.exact.server
        return Source(
            title="CATCH, canine cutaneous cancer histology",
            version="1 (2022), doi 10.7937/TCIA.2M93-FX66",
            where=server or "https://www.cancerimagingarchive.net/collection/catch/",
            licence="CC BY 4.0",
            size="350 slides, 522 GB, and a JSON of 12,424 polygons",
            ask="the help desk of The Cancer Imaging Archive",
            by_hand=""
            if server
            else f"download slides and CATCH.json with IBM Aspera from that page into {self.data}, and lay "
            f"{self.options.split} (Slide;Dataset;Scanner, of the paper's code) beside them",
        )

    def fetch(self) -> None:
        """Download slides and annotations from the EXACT server; see :func:`stedm.cohort.exact.export`."""
        export(Exact.open(self.options.exact.server), self.options.exact, self.data)


def _slide(file: str, split: str) -> Slide:
    subtype, number, _ = Path(file).stem.split("_")
    if subtype not in CLASSES.values():
        raise ValueError(f"unknown subtype {subtype!r}")
    return Slide(Path(file).stem, f"{subtype}_{number}", subtype, SPLITS[split][0])
