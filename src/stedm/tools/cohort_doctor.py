"""The doctor's look at slides, annotations and splits: every fault, where acquiring stops at the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from stedm.cohort import load_cohort
from stedm.cohort.annotations import mend_polygon, polygon_fault
from stedm.cohort.base import BOUNDS, Cohort, Consensus, MaskImage, Polygon, Slide, inspect_manifest, manifest_text
from stedm.cohort.files import several
from stedm.cohort.local import SUFFIXES
from stedm.config import Config
from stedm.errors import UserError
from stedm.progress import progress
from stedm.provenance import checksum
from stedm.study import Study
from stedm.tiles.backends import open_slide
from stedm.tiles.cut import grid_bytes
from stedm.tiles.layout import MaskLayout
from stedm.tiles.reader import SlideReader, working_downsample
from stedm.tools.findings import Row

SAMPLE = 256
"""Side in pixels of a sampled read."""


def examine_cohort(config: Config, root: Path) -> tuple[int, list[Row]]:
    """Examine a configuration's manifest, slides and annotations.

    Returns
    -------
    needed
        Bytes that the tiles take at most, 0 where they have been cut.
    rows
        All findings.

    Raises
    ------
    UserError
        If the cohort's options do not fit.
    """
    cohort, path = load_cohort(config.cohort, root), root / config.cohort.manifest
    try:
        slides, faults = inspect_manifest(manifest_text(path), path, config.cohort.split)
    except UserError as error:
        slides, faults = [], [str(error)]
    rows = [Row.of("splits", UserError(fault)) for fault in faults]
    needed, cut = 0, False
    if not faults:
        rows.append(_splits(slides))
        try:
            study = Study(config, root)
            cut = (study.tiles.folder / "store.json").is_file()
            rows.append(Row("PASS", "plan", f"{sum(map(len, study.all.values()))} runs"))
        except UserError as error:
            rows.append(Row.of("plan", error))
    if not slides:
        return 0, rows
    paths, lost = _paths(cohort, slides)
    if not any(path.is_file() for path in paths.values()):
        return 0, [*rows, _absent(cohort, len(slides), lost)]
    rows += lost
    rows += _state(cohort, slides)
    rows += _twins(slides, paths)
    seen = _Annotations()
    with progress("slides", len(paths), "slides") as counter:
        for slide in slides:
            if slide.slide in paths:
                found, size = _slide(cohort, slide, paths[slide.slide], config, seen)
                rows += found
                needed += size
                counter.advance()
    rows += seen.rows()
    rows += _orphans(cohort, slides, paths.values())
    return 0 if cut else needed, rows


def examine_files(paths: Sequence[Path]) -> Iterator[Row]:
    """Examine slides that belong to no cohort."""
    for path in paths:
        what = f"slide {path.name}"
        try:
            with open_slide(path) as reader:
                yield from _reads(reader, what)
                if reader.mpp is None:
                    remedy = "give it with --slide-mpp, or ask for a downsample"
                    yield Row("WARN", what, "the file does not state its resolution", remedy)
        except UserError as error:
            yield Row.of(what, error)


def _splits(slides: Sequence[Slide]) -> Row:
    patients = {slide.patient: slide.split for slide in slides}
    counts = ", ".join(f"{split} {count}" for split, count in Counter(patients.values()).items())
    return Row("PASS", "splits", f"{len(slides)} slides of {len(patients)} patients, each in one set: {counts}")


def _paths(cohort: Cohort, slides: Sequence[Slide]) -> tuple[dict[str, Path], list[Row]]:
    """Return the path of each slide, and a row for each of which the cohort cannot say it."""
    paths, rows = {}, []
    for slide in slides:
        try:
            paths[slide.slide] = cohort.slide_path(slide)
        except UserError as error:
            rows.append(Row.of(f"slide {slide.slide}", error))
    return paths, rows


def _absent(cohort: Cohort, count: int, lost: Sequence[Row]) -> Row:
    """Say how slides are had of which not one is here."""
    what, found = "slides", f"{cohort.data}: none of the {count} is here"
    if hasattr(cohort, "repair"):
        return Row("WARN", what, found, "`stedm cohort CONFIG` draws or pulls them")
    if hasattr(cohort, "source"):
        by_hand = cohort.source().by_hand
        how = "`stedm fetch CONFIG --yes`, then `stedm cohort CONFIG`"
        return Row("FAIL" if by_hand else "WARN", what, found, by_hand or how)
    return Row("FAIL", what, found, lost[0].remedy if lost else "`stedm cohort CONFIG` says where they belong")


def _state(cohort: Cohort, slides: Sequence[Slide]) -> Iterator[Row]:
    state = cohort.state(list(slides))
    if state != "whole":
        how = getattr(cohort, "remedy", "copy them anew")
        how = "`stedm cohort CONFIG --repair`" if hasattr(cohort, "repair") else how
        yield Row("FAIL", "files", f"not as they were acquired, {state}", how)


def _twins(slides: Sequence[Slide], paths: dict[str, Path]) -> Iterator[Row]:
    """Find files that are the same; only those of the same size are read."""
    by_size: dict[int, list[Slide]] = {}
    for slide in slides:
        path = paths.get(slide.slide)
        if path is not None and path.is_file():
            by_size.setdefault(path.stat().st_size, []).append(slide)
    for alike in by_size.values():
        same: dict[str, Slide] = {}
        for slide in alike if len(alike) > 1 else []:
            other = same.setdefault(checksum(paths[slide.slide], "md5"), slide)
            if other is slide:
                continue
            status = "WARN" if other.patient == slide.patient else "FAIL"
            whose = f"{other.patient}, {other.split}; here {slide.patient}, {slide.split}"
            found = f"the same file as {other.slide} ({whose})"
            yield Row(status, f"slide {slide.slide}", found, "take one of them out of the manifest")


def _slide(cohort: Cohort, slide: Slide, path: Path, config: Config, seen: _Annotations) -> tuple[list[Row], int]:
    what = f"slide {slide.slide}"
    try:
        with open_slide(path, mpp=cohort.mpp(slide)) as reader:
            rows = list(_reads(reader, what))
            rows += seen.check(cohort, slide, reader, config)
            try:
                working_downsample(reader, config.tiles)
                return rows, grid_bytes(reader, config.tiles)
            except UserError as error:
                return [*rows, Row.of(what, error)], 0
    except UserError as error:
        return [Row.of(what, error)], 0


def _reads(reader: SlideReader, what: str) -> Iterator[Row]:
    """Read the first corner, the middle and the last corner of each level."""
    count, faults = 0, []
    for downsample in reader.level_downsamples:
        size = reader.working_size(downsample)
        side = [min(SAMPLE, length) for length in size]
        for share in (0, 0.5, 1):
            x, y = (int(share * (length - part)) for length, part in zip(size, side, strict=True))
            count += 1
            try:
                reader.read(x, y, *side, downsample)
            except UserError as error:
                faults.append(error)
    if faults:
        row = Row.of(what, faults[0])
        yield Row("FAIL", what, f"{len(faults)} of {count} sampled reads failed, first {row.found}", row.remedy)
        return
    levels = ", ".join(f"{downsample:g}" for downsample in reader.level_downsamples)
    mpp = "no mpp" if reader.mpp is None else f"{reader.mpp:g} µm per pixel"
    size = " × ".join(map(str, reader.size))
    yield Row("PASS", what, f"{reader.backend}, {size}, levels {levels}, {mpp}, {count} sampled reads")


class _Annotations:
    """What has been seen of the annotations, slide by slide."""

    def __init__(self) -> None:
        self.classes: Counter[str] = Counter()
        self.masks = 0
        self.missing: list[str] = []
        self.faults: set[str] = set()

    def check(self, cohort: Cohort, slide: Slide, reader: SlideReader, config: Config) -> Iterator[Row]:
        """Compare a slide's annotations with the slide."""
        what = f"annotations {slide.slide}"
        try:
            annotation = cohort.annotation(slide)
            if annotation is None:
                self.missing += [slide.slide] * (slide.split != "unlabelled")
            elif isinstance(annotation, MaskImage):
                with MaskLayout(annotation, config.tiles.classes, reader.size):
                    self.masks += 1
            else:
                drawn = annotation.annotators if isinstance(annotation, Consensus) else [annotation]
                polygons = [polygon for own in drawn for polygon in own]
                self.classes.update(polygon.annotated for polygon in polygons)
                yield from _polygons(polygons, reader.size, [*config.tiles.classes, *BOUNDS], what)
        except UserError as error:
            # A file that holds the annotations of all slides is at fault once.
            if str(error) not in self.faults:
                yield Row.of(what, error)
            self.faults.add(str(error))

    def rows(self) -> Iterator[Row]:
        """Sum up."""
        shown = [f"{count} {name}" for name, count in sorted(self.classes.items())]
        shown += [f"{self.masks} masks"] * bool(self.masks)
        yield Row("PASS", "annotations", ", ".join(shown) or "none")
        if self.missing:
            found = f"{len(self.missing)} slides have none: {several(self.missing)}"
            yield Row("WARN", "annotations", found, "annotate them, or let them give styles only")


def _polygons(polygons: Iterable[Polygon], size: tuple[int, int], classes: Sequence[str], what: str) -> Iterator[Row]:
    faults: dict[str, list[str]] = {}
    crossing = []
    for number, polygon in enumerate(polygons, start=1):
        name = f"polygon {number} ({polygon.annotated})"
        if fault := polygon_fault(polygon, width=size[0], height=size[1], classes=classes):
            faults.setdefault(fault[0], []).append(f"{name} {fault[1]}")
            continue
        parts = mend_polygon(polygon)
        if not parts:
            faults.setdefault("no area", []).append(f"{name} encloses no area; delete or redraw it")
        elif parts[0] is not polygon:
            crossing.append(name)
    for kind, found in faults.items():
        row = Row.of(what, UserError(found[0]))
        more = f" ({len(found) - 1} more of the kind: {kind})" if len(found) > 1 else ""
        yield Row("FAIL", what, row.found + more, row.remedy)
    if crossing:
        found = f"{len(crossing)} outlines cross themselves: {several(crossing)}"
        yield Row("WARN", what, found, "they are mended when tiles are cut; redraw them if the areas look wrong")


def _orphans(cohort: Cohort, slides: Sequence[Slide], paths: Iterable[Path]) -> Iterator[Row]:
    """Find slides and annotations by slide in the cohort's folder that the manifest does not know."""
    known = {path.resolve() for path in paths}
    # Annotations from EXACT are named as the file of their slide, which may say more than the slide's name.
    names = {slide.slide for slide in slides} | {path.stem for path in known}
    for kind, suffixes in (("slides", SUFFIXES), ("annotations", {".geojson", ".xml", ".json"})):
        files = sorted(path for path in cohort.data.rglob("[!.]*") if path.suffix.lower() in suffixes)
        # Elsewhere a .json is anything, such as the annotations of all slides.
        files = [path for path in files if path.suffix.lower() != ".json" or path.parent.name == "annotations"]
        orphans = [p.name for p in files if p.stem not in names and p.resolve() not in known]
        if orphans:
            found = f"{len(orphans)} belong to no slide of the manifest: {several(orphans)}"
            yield Row("WARN", kind, found, "add their slides to the manifest, or move the files away")
