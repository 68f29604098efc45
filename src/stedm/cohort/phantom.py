"""The phantom: slides that are drawn, not downloaded, so that everything can be tried without data.

The manifest in git holds the checksum of each file as drawn when it was frozen. A machine that draws other
bytes is told so and goes on; a file that is no longer what this machine drew or pulled is an error.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, field_validator

from stedm.cohort import dvc, files
from stedm.cohort.base import Polygon, Slide, read_manifest
from stedm.config import CohortConfig, Section
from stedm.errors import UserError
from stedm.progress import progress
from stedm.provenance import checksum, digest, exclusive, fingerprint
from stedm.workers import ordered

log = logging.getLogger("stedm")

IMAGE, ANNOTATION = "slides/{}.tiff", "annotations/{}.geojson"
REPAIR = "`stedm cohort CONFIG --repair`"
FREEZE = "`stedm cohort CONFIG --freeze`"

BYTES = ((60, 0.2), (80, 0.28), (90, 0.4), (95, 0.55), (100, 1.25))
"""Bytes that a level-0 pixel takes up to a JPEG quality: the largest of some slides, pyramid included."""

Count = Annotated[int, Field(ge=1, le=1000)]
Percent = Annotated[int, Field(ge=0, le=200)]


class Options(Section):
    """Options of the cohort `phantom`."""

    seed: int = 0
    """Seed of all styles and layouts."""
    size: Annotated[int, Field(ge=512, le=40000)] = 8192
    """Side of a slide in pixels of level 0; below 2048 only for tests."""
    mpp: Annotated[float, Field(ge=0.05, le=10)] = 0.25
    """Resolution that the slides state, in µm per pixel; their features are drawn for 0.25."""
    quality: Annotated[int, Field(ge=1, le=100)] = 80
    """JPEG quality of the slides."""
    colour: Percent = 100
    """How far patients differ in stain and white balance, in percent."""
    texture: Percent = 100
    """How far patients differ in everything else, in percent."""
    classes: Annotated[tuple[Literal["0", "1+", "2+", "3+"], ...], Field(min_length=1)] = (*("0", "1+", "2+", "3+"),)
    """HER2 scores: the classes of patients."""
    train: Count = 4
    """Training patients of each class."""
    validation: Count = 1
    """Validation patients of each class."""
    test: Count = 2
    """Test patients of each class."""
    slides_per_patient: Annotated[int, Field(ge=1, le=20)] = 1
    """Slides of each patient, in one style."""
    folder: str | None = None
    """Folder of the data, below `data/`; by default `data/` and the manifest's name without `.csv`."""

    @field_validator("folder")
    @classmethod
    def _below_data(cls, folder: str | None) -> str | None:
        parts = PurePosixPath(folder or "data/x").parts
        if len(parts) < 2 or parts[0] != "data" or ".." in parts:
            raise ValueError("the folder must lie below data/, such as data/phantom")
        return folder

    @field_validator("classes")
    @classmethod
    def _no_duplicates(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) != len(classes):
            raise ValueError("a class stands twice")
        return classes

    def identity(self) -> str:
        """Digest of all that decides what is drawn."""
        return digest(self.model_dump(exclude={"folder"}))


def open_cohort(config: CohortConfig, root: Path) -> Phantom:
    """Open the cohort; draws and reads nothing.

    Raises
    ------
    UserError
        If the options do not fit.
    """
    return Phantom(config, Path(root))


def manifest_rows(options: Options) -> list[Slide]:
    """Return the slides that the options describe, without drawing them or knowing their checksums."""
    splits = ("train", "validation", "test")
    patients = [(split, group) for split in splits for group in options.classes for _ in range(getattr(options, split))]
    width = max(2, len(str(len(patients))))
    rows = []
    for number, (split, group) in enumerate(patients, start=1):
        name = f"{number:0{width}d}"
        for index in range(1, options.slides_per_patient + 1):
            slide = f"phantom-{name}" if options.slides_per_patient == 1 else f"phantom-{name}-{index}"
            rows.append(Slide(slide=slide, patient=f"p{name}", group=group, split=split))
    return rows


def freeze(config: CohortConfig, root: Path, *, workers: int = 0) -> Path:
    """Draw the phantom anew and write what was drawn into its manifest and ``data.dvc``.

    Returns
    -------
    Path
        The manifest.

    Raises
    ------
    UserError
        If the options do not fit or the disk is full.
    """
    return open_cohort(config, root).freeze(workers=workers)


class Phantom:
    """Slides `slides/<slide>.tiff` and annotations `annotations/<slide>.geojson`, drawn where missing."""

    def __init__(self, config: CohortConfig, root: Path) -> None:
        self.options = files.check_options(Options, config)
        self.root, self.manifest = root, root / config.manifest
        self.folder = PurePosixPath(self.options.folder or f"data/{config.manifest.stem}").as_posix()
        self.data = root / self.folder
        key = self.folder.removeprefix("data/").replace("/", "--")
        self._state, self._lock = root / ".stedm" / f"{key}.json", root / ".stedm" / f"{key}.lock"

    def slide_path(self, slide: Slide) -> Path:
        """Path of the slide's TIFF."""
        return self.data / IMAGE.format(slide.slide)

    def mpp(self, slide: Slide) -> float | None:
        """None: the TIFF states its resolution."""
        return None

    def annotation(self, slide: Slide) -> list[Polygon]:
        """Polygons of the slide's tumour.

        Raises
        ------
        UserError
            If the GeoJSON is missing or unreadable.
        """
        from stedm.cohort.annotations import read_geojson

        return read_geojson(self.data / ANNOTATION.format(slide.slide))

    def state(self, slides: list[Slide]) -> str:
        """Say whether the files are what was acquired: ``whole``, or ``damaged:`` with names."""
        return files.condition(self.data, _expected(slides), files.State.load(self._state))

    def acquire(self, slides: list[Slide], *, workers: int = 0) -> dict[str, object]:
        """Pull or draw the slides where there are none, go on where that was interrupted, then verify all.

        Parameters
        ----------
        slides
            The manifest.
        workers
            Processes that draw; 0 draws in this one.

        Returns
        -------
        dict
            ``data`` (``verified``, ``unverified`` or ``drawn differently``), ``origin`` (``drawn``,
            ``pulled`` or ``found``), ``comparable``, ``differing`` slides, ``directory``, DVC's checksum, and
            ``md5`` of each slide.

        Raises
        ------
        UserError
            If a file is missing or changed, the manifest does not fit the options or ``data.dvc``, the pull
            fails, or the disk is full.
        """
        self._check_manifest(slides)
        with exclusive(self._lock, self.folder):
            state, origin = self._load(), "found"
            if state.acquiring or not any((self.data / path).exists() for path in _expected(slides)):
                origin = self._mend(slides, state, workers)
            return self._verify(slides, state, origin)

    def repair(self, slides: list[Slide], *, workers: int = 0) -> dict[str, object]:
        """Draw (or, with a DVC remote, pull) the files that are missing or changed, and only them; verify.

        Parameters, result and errors are those of :meth:`acquire`.
        """
        self._check_manifest(slides)
        with exclusive(self._lock, self.folder):
            state = self._load()
            return self._verify(slides, state, self._mend(slides, state, workers))

    def freeze(self, *, workers: int = 0) -> Path:
        """Draw anew what the options describe; write the manifest and ``data.dvc``; return the manifest."""
        rows = manifest_rows(self.options)
        with exclusive(self._lock, self.folder):
            for path in [*self.data.glob("slides/*.tiff"), *self.data.glob("annotations/*.geojson")]:
                path.unlink()
            state = files.State(self._state)
            self._draw(rows, list(_expected(rows)), state, workers)
            rows = [
                replace(
                    r,
                    md5=state.own[IMAGE.format(r.slide)],
                    annotation_md5=state.own[ANNOTATION.format(r.slide)],
                )
                for r in rows
            ]
            comment = f"Written by {FREEZE}: checksums as drawn.\noptions {self.options.identity()}"
            files.write_manifest(self.manifest, rows, comment)
            dvc.write_out(self.root, self.folder, state.own)
            self._verify(rows, state, "drawn")
        return self.manifest

    def _load(self) -> files.State:
        state = files.State.load(self._state)
        if state.maker != self._maker():
            state.own = {}
        return state

    def _maker(self) -> str:
        return digest([self.options.identity(), fingerprint("stedm.phantom")])

    def _check_manifest(self, slides: list[Slide]) -> None:
        rows = {row.slide: (row.patient, row.group) for row in manifest_rows(self.options)}
        other = [s.slide for s in slides if rows.get(s.slide) != (s.patient, s.group)]
        lines = self.manifest.read_text().splitlines() if self.manifest.is_file() else []
        stated = next((line.split()[-1] for line in lines if line.startswith("# options ")), None)
        if other or stated not in (None, self.options.identity()):
            what = f"its slide {other[0]!r} does not fit" if other else "it was frozen from other options than"
            raise UserError(f"{self.manifest}: {what} cohort.options; restore the options or run {FREEZE}.")
        out = dvc.tracked(self.root, self.folder)
        frozen = _expected(read_manifest(self.manifest) if lines else slides)
        if out and all(frozen.values()) and out.md5 != dvc.directory_hash(frozen):
            raise UserError(
                f"{self.root / dvc.FILE}: its checksum of {self.folder} is not that of {self.manifest.name}; "
                f"restore both with git or run {FREEZE}."
            )

    def _mend(self, slides: list[Slide], state: files.State, workers: int) -> str:
        wanted = _expected(slides)
        found = files.checksums(self.data, wanted, {}, force=True)
        bad = files.faults(wanted, found, state, strict=self._strict(state))
        if not bad:
            return "found"
        # DVC trusts size and time, and would leave a damaged file that kept both.
        for path in bad:
            (self.data / path).unlink(missing_ok=True)
        if state.acquiring != "drawing" and dvc.tracked(self.root, self.folder) and dvc.has_remote(self.root):
            state.acquiring = "pulling"
            state.save()
            dvc.pull(self.root, self.folder)
            state.acquiring, state.maker = "", self._maker()
            return "pulled"
        self._draw(slides, bad, state, workers)
        return "drawn"

    def _draw(self, slides: list[Slide], paths: list[str], state: files.State, workers: int) -> None:
        state.acquiring, state.maker = "drawing", self._maker()
        state.save()
        jobs = []
        for slide in slides:
            wanted = {IMAGE.format(slide.slide), ANNOTATION.format(slide.slide)} & set(paths)
            if wanted:
                jobs.append((self.options, slide, self.data, wanted))
        try:
            for folder in ("slides", "annotations"):
                (self.data / folder).mkdir(parents=True, exist_ok=True)
                for part in (self.data / folder).glob(".*.part"):
                    part.unlink()
            self._check_room(sum(path.endswith(".tiff") for path in paths))
            with progress(f"drawing {self.folder}", len(jobs), "slides") as counter:
                for drawn in ordered(_draw_files, jobs, min(workers, len(jobs))):
                    state.own.update(drawn)
                    state.save()
                    counter.advance()
        except OSError as error:
            raise UserError(
                f"{self.data}: cannot be written ({error.strerror}); make room or correct its permissions "
                "and run again, which goes on from the finished slides."
            ) from error

    def _check_room(self, slides: int) -> None:
        pixel = next(size for quality, size in BYTES if self.options.quality <= quality)
        need, free = slides * pixel * self.options.size**2, shutil.disk_usage(self.data).free
        if need > free:
            raise UserError(
                f"{self.data}: {slides} slides of {self.options.size} pixels need about {need / 1e6:.0f} MB "
                f"and {free / 1e6:.0f} MB are free; make room or lower cohort.options.size."
            )

    def _strict(self, state: files.State) -> bool:
        # Where neither manifest nor state knows a file, it may be a half-made or an older one.
        return bool(state.acquiring) or state.maker not in ("", self._maker())

    def _verify(self, slides: list[Slide], state: files.State, origin: str) -> dict[str, object]:
        wanted, remedy = _expected(slides), f"mend it with {REPAIR}"
        found = files.verify(self.data, wanted, state, remedy=remedy, strict=self._strict(state))
        state.acquiring, state.maker = "", self._maker()
        state.save()
        differing = list(dict.fromkeys(Path(p).stem for p in wanted if wanted[p] not in (None, found[p])))
        if differing:
            log.warning(
                "%s: %d of %d slides were drawn differently on this machine than where %s was frozen (%s); "
                "nothing is damaged and the run goes on, but its numbers do not compare with recorded ones",
                *(self.folder, len(differing), len(slides), self.manifest.name, files.several(differing)),
            )
        if strangers := files.strangers(self.data, wanted):
            log.warning(
                "%s: not in %s and not used: %s; DVC will call the folder changed",
                *(self.folder, self.manifest.name, files.several(strangers)),
            )
        known = all(wanted.values())
        return {
            "data": "drawn differently" if differing else "verified" if known else "unverified",
            "origin": origin,
            "comparable": not differing,
            "differing": len(differing),
            "directory": dvc.directory_hash(found),
            "md5": {slide.slide: found[IMAGE.format(slide.slide)] for slide in slides},
        }


def _expected(slides: list[Slide]) -> dict[str, str | None]:
    return files.expected(slides, IMAGE, ANNOTATION)


Job = tuple[Options, Slide, Path, set[str]]


def _draw_files(job: Job) -> dict[str, str]:
    """Draw the wanted files of one slide; return their MD5 by relative path."""
    from stedm.phantom import draw_slide, layout_polygons, patient_style, write_geojson

    options, slide, data, wanted = job
    seed = int(digest([options.seed, slide.slide]), 16)
    if ANNOTATION.format(slide.slide) in wanted:
        polygons = layout_polygons(size=options.size, seed=seed)
        write_geojson(data / ANNOTATION.format(slide.slide), polygons)
    if IMAGE.format(slide.slide) in wanted:
        patient, score = int(slide.patient.removeprefix("p")), int(slide.group.removesuffix("+"))
        style = patient_style(options.seed, patient, score, colour=options.colour, texture=options.texture)
        draw_slide(
            data / IMAGE.format(slide.slide),
            size=options.size,
            mpp=options.mpp,
            style=style,
            seed=seed,
            quality=options.quality,
        )
    return {path: checksum(data / path, "md5") for path in sorted(wanted)}
