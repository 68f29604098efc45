"""The one interface of all cohorts, and the facts that a manifest holds."""

from __future__ import annotations

import csv
import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from stedm.config import CohortConfig
from stedm.errors import UserError

SPLITS = ("train", "unlabelled", "validation", "test")
"""`unlabelled` patients give styles and never labels; whether anyone annotated them does not matter."""
COLUMNS = ("slide", "patient", "class", "split")


@dataclass(frozen=True)
class Slide:
    """One row of a manifest."""

    slide: str
    """Identifier, unique in the cohort and safe in paths."""
    patient: str
    """The unit of every split and every statistic."""
    group: str
    """Class or subtype of the patient (the column `class`): label budgets are stratified by it."""
    split: Literal["train", "unlabelled", "validation", "test"]
    md5: str | None = None
    """Checksum of the slide file, where known."""
    annotation_md5: str | None = None
    """Checksum of the annotation file, where known."""


@dataclass(frozen=True)
class Polygon:
    """An annotated region in pixels of the slide's level 0."""

    annotated: str
    """Annotated class."""
    exterior: np.ndarray
    """Outer ring, float64 (n, 2) as x, y; open or closed."""
    holes: tuple[np.ndarray, ...] = ()
    """Inner rings, each as the outer one."""


REGION = "Region*"
"""Annotated class of what bounds the annotations (QuPath's own name for it): where a slide has such polygons,
labels outside of them are unknown."""
IGNORED = "Ignore*"
"""Annotated class of what nobody can tell (QuPath's own name for it): labels inside of such polygons are unknown."""
BOUNDS = (REGION, IGNORED)
"""Annotated classes that say where labels are known."""


@dataclass(frozen=True)
class Consensus:
    """Annotations of one slide by several people: each pixel has the label on which most of them agree."""

    annotators: tuple[tuple[Polygon, ...], ...]
    """Polygons of each person; those of :data:`BOUNDS` count for all, whoever drew them."""


@dataclass(frozen=True)
class MaskImage:
    """Annotations as an image of the slide's size: pixels above the threshold are of one class."""

    path: Path
    annotated: str
    threshold: int = 127


@dataclass(frozen=True)
class Source:
    """Where a cohort comes from, as `stedm fetch` says it."""

    title: str
    version: str
    where: str
    licence: str
    size: str
    ask: str
    """Who answers questions."""
    by_hand: str = ""
    """How to get it where no command can; empty where the cohort has a method ``fetch``."""


class Cohort(Protocol):
    """What a cohort module's ``open_cohort(config, root)`` returns.

    A module ``stedm.cohort.<name>`` is a cohort when it has that function; nothing else registers it.

    A cohort may offer more: ``list_slides()``, the manifest's rows and what to say above them (`stedm manifest`);
    ``source()`` and ``fetch()`` (`stedm fetch`); ``freeze()`` and ``repair()`` (`stedm cohort`).
    """

    data: Path
    """Folder of the cohort's files."""

    def acquire(self, slides: list[Slide], *, workers: int = 0) -> dict[str, object]:
        """Bring the data into place or check what is there; return facts for the provenance.

        The facts may hold ``comparable``, False where the data are not those on which recorded results
        rest, and ``md5`` by slide, which is compared again just before a slide is cut.

        Raises
        ------
        UserError
            If a file is missing or damaged: names it and says how to mend it.
        """

    def slide_path(self, slide: Slide) -> Path:
        """Path of the slide's file."""

    def mpp(self, slide: Slide) -> float | None:
        """Resolution of level 0 in µm per pixel where the file does not state it, else None."""

    def annotation(self, slide: Slide) -> list[Polygon] | Consensus | MaskImage | None:
        """Annotations of a slide; None where it has none.

        Raises
        ------
        UserError
            If the annotation file is missing or unreadable.
        """

    def state(self, slides: list[Slide]) -> str:
        """Say in a word, fast and without raising, whether the data still are what was acquired.

        ``"whole"`` where they are (or are yet to be acquired), else a text that names what changed.
        """


def cohort_names() -> list[str]:
    """Names of the cohorts that this installation knows."""
    import stedm.cohort

    private = {"annotations", "archives", "base", "budget", "dvc", "exact", "files", "local", "web"}
    return sorted(m.name for m in pkgutil.iter_modules(stedm.cohort.__path__) if m.name not in private)


def load_cohort(config: CohortConfig, root: Path = Path()) -> Cohort:
    """Open the cohort that a configuration names.

    Raises
    ------
    UserError
        If there is no such cohort, or its options do not fit.
    """
    module_name = f"stedm.cohort.{config.name.replace('-', '_')}"
    if config.name.replace("-", "_") not in cohort_names():
        raise UserError(f"cohort.name: unknown cohort {config.name!r}; there are {', '.join(cohort_names())}.")
    return importlib.import_module(module_name).open_cohort(config, Path(root))


def read_manifest(path: Path, split: str = "split") -> list[Slide]:
    """Read a cohort's manifest; see :func:`parse_manifest`.

    Raises
    ------
    UserError
        If the file is missing or faulty.
    """
    return parse_manifest(manifest_text(path), path, split)


def manifest_text(path: Path) -> str:
    """Read a manifest's text.

    Raises
    ------
    UserError
        If the file is missing.
    """
    try:
        return Path(path).read_text()
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; cohort.manifest must name a CSV of slides, which `stedm manifest` writes for "
            "cohorts that have a table of them."
        ) from None


def parse_manifest(text: str, path: Path, split: str = "split") -> list[Slide]:
    """Read the text of a manifest.

    Columns ``slide, patient, class, split`` and optionally ``md5, annotation_md5``; lines that start
    with ``#`` are comments.

    Parameters
    ----------
    text
        The manifest.
    path
        Names it in errors.
    split
        Column that is taken for the split.

    Raises
    ------
    UserError
        If there are no rows, a column is missing, a split is unknown, a slide stands twice, or a patient is in two
        splits or two classes.
    """
    slides, faults = inspect_manifest(text, path, split)
    if faults:
        raise UserError(faults[0])
    return slides


def inspect_manifest(text: str, path: Path, split: str = "split") -> tuple[list[Slide], list[str]]:
    """Return the sound rows of a manifest and every fault of the others, one sentence each.

    Parameters are those of :func:`parse_manifest`.
    """
    columns = (*COLUMNS[:3], split)
    rows = list(csv.DictReader(line for line in text.splitlines() if line and not line.startswith("#")))
    if not rows:
        return [], [f"{path}: the manifest has no slides; add rows of {', '.join(columns)}."]
    missing = [column for column in columns if column not in rows[0]]
    if missing:
        return [], [f"{path}: the column {missing[0]!r} is missing; a manifest has {', '.join(columns)}."]
    slides: dict[str, Slide] = {}
    patients: dict[str, Slide] = {}
    faults: list[str] = []
    for number, row in enumerate(rows, start=1):
        if any(not row[column] for column in columns):
            faults.append(f"{path}: row {number} has an empty field; fill in {', '.join(columns)}.")
            continue
        if row[split] not in SPLITS:
            faults.append(f"{path}: row {number} has the split {row[split]!r}; use {', '.join(SPLITS)}.")
            continue
        slide = Slide(
            slide=row["slide"],
            patient=row["patient"],
            group=row["class"],
            split=row[split],
            md5=row.get("md5") or None,
            annotation_md5=row.get("annotation_md5") or None,
        )
        if "/" in slide.slide or slide.slide.startswith("."):
            faults.append(f"{path}: the slide {slide.slide!r} is no safe file name; rename it.")
            continue
        if slide.slide in slides:
            faults.append(f"{path}: the slide {slide.slide!r} stands in two rows; remove one.")
            continue
        other = patients.setdefault(slide.patient, slide)
        if (other.split, other.group) != (slide.split, slide.group):
            faults.append(
                f"{path}: patient {slide.patient!r} is in {other.split}/{other.group} and in "
                f"{slide.split}/{slide.group}; a patient belongs to one split and one class."
            )
        slides[slide.slide] = slide
    return list(slides.values()), faults
