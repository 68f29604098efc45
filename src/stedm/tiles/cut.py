"""Cutting slides into a tile store, slide by slide, in one process or several."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from stedm.cohort.annotations import read_geojson
from stedm.cohort.base import Cohort, Polygon, Slide
from stedm.config import TilesConfig
from stedm.errors import UserError
from stedm.progress import progress
from stedm.provenance import checksum, product, replacing
from stedm.tiles.backends import open_slide
from stedm.tiles.preview import MAX_SIDE, overview
from stedm.tiles.reader import SlideReader, reduce_integer, working_downsample
from stedm.tiles.slide import Annotation, Plan, cut_slide, open_layout, plan_slide, stored_slide
from stedm.tiles.store import UNKNOWN, StoredSlide, StoreWriter, TileStore
from stedm.workers import LOOK_AHEAD, ordered

log = logging.getLogger("stedm")

PREVIEWS = 4
"""Slides of a cohort that get a preview."""
DISK_RESERVE = 64 * 2**20


@dataclass(frozen=True)
class _Task:
    cohort: Cohort
    slide: Slide
    config: TilesConfig
    md5: str | None
    folder: Path
    preview: bool

    def open(self) -> SlideReader:
        return open_slide(self.cohort.slide_path(self.slide), mpp=self.cohort.mpp(self.slide))


def _cut(task: _Task) -> tuple[StoredSlide, Path, list[dict[str, Any]]]:
    """Cut a slide into a file of its own, which the store adopts: pixels do not travel between processes."""
    path = task.cohort.slide_path(task.slide)
    if task.md5 is not None and path.is_file() and (found := checksum(path, "md5")) != task.md5:
        raise UserError(
            f"{path}: its MD5 is {found}, not {task.md5} as recorded; "
            "run `stedm cohort CONFIG --repair` to bring the slide back."
        )
    out = task.folder / f".{task.slide.slide}.records"
    with task.open() as reader:
        plan = plan_slide(reader, task.config)
        annotation = task.cohort.annotation(task.slide)
        stored = stored_slide(reader, task.slide, plan)
        rows: list[dict[str, Any]] = []
        with out.open("wb") as file:
            for records, added in cut_slide(reader, annotation, task.config, plan):
                file.write(records)
                rows += added
        if task.preview:
            _write_preview(reader, annotation, task, plan, stored, rows)
    return stored, out, rows


def _write_preview(
    reader: SlideReader,
    annotation: Annotation,
    task: _Task,
    plan: Plan,
    stored: StoredSlide,
    rows: list[dict[str, Any]],
) -> None:
    side = task.config.tile
    image, factor = plan.thumbnail, plan.factor
    if plan.pixels is not None:
        # Twice the size of the preview is enough to draw it from.
        factor = max(1, max(plan.pixels.shape) // (2 * MAX_SIDE))
        image = reduce_integer(plan.pixels, factor)
    with open_layout(annotation, reader, task.config) as layout:
        label = layout.draw(0, 0, image.shape[1], image.shape[0], plan.downsample * factor)
    label[label == UNKNOWN] = 0
    picture = overview(
        image,
        label,
        plan.tissue,
        [(row["x"] // side, row["y"] // side) for row in rows],
        classes=task.config.classes,
        tile=side / factor,
        title=task.slide.slide,
        mpp=None if stored.mpp is None else stored.mpp * factor,
    )
    path = task.folder / "preview" / f"{task.slide.slide}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_bytes(picture)


def cut_cohort(
    cohort: Cohort,
    slides: Sequence[Slide],
    config: TilesConfig,
    folder: Path,
    workers: int = 0,
    *,
    checksums: Mapping[str, str] | None = None,
    previews: int = PREVIEWS,
) -> dict[str, Any]:
    """Cut the slides of a cohort into a tile store; slides that an earlier process finished are kept.

    Parameters
    ----------
    cohort
        Gives paths, resolutions and annotations; must be picklable where there are workers.
    slides
        In the order in which they are to be stored, whatever the number of workers.
    config
        How to cut.
    folder
        Where the store is written; previews go to ``preview/`` in it.
    workers
        Processes; 0 works in this one.
    checksums
        MD5 by slide, compared with the file just before it is read.
    previews
        Slides that get a preview: the first of each class, then the next in order.

    Returns
    -------
    facts
        Numbers of ``slides``, ``tiles``, ``labelled_tiles`` (with foreground), ``bytes``, and the slides
        ``without_tissue``.

    Raises
    ------
    UserError
        If a slide is missing or damaged, differs from its checksum, does not fit its annotation, or the
        disk has too little room.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    writer = StoreWriter(folder, tile=config.tile, classes=config.classes, foreground=config.foreground)
    done, shown = writer.done, _shown(slides, previews)
    tasks = [
        _Task(
            cohort,
            slide,
            config,
            (checksums or {}).get(slide.slide),
            folder,
            slide.slide in shown,
        )
        for slide in slides
        if slide.slide not in done
    ]
    _check_disk(tasks, folder, workers)
    with progress("tiles", len(slides), "slides", done=len(slides) - len(tasks)) as counter:
        # Two workers of two threads each would stand in each other's way.
        alone = cv2.setNumThreads if workers else None
        for stored, records, rows in ordered(_cut, tasks, workers, start=alone, arguments=(1,)):
            writer.adopt(stored, records, rows)
            if not rows:
                log.warning("%s: no tile has enough tissue, so none is stored", stored.slide)
            counter.advance(note=f"{len(rows)} tiles of {stored.slide}")
    writer.finish()
    return _facts(TileStore(folder))


def _facts(store: TileStore) -> dict[str, Any]:
    foreground = store.index["foreground"].to_pylist()
    return {
        "slides": len(store.slides),
        "tiles": len(store),
        "labelled_tiles": sum(1 for share in foreground if share),
        "bytes": len(store) * 4 * store.tile**2,
        "without_tissue": sorted(set(store.slides) - set(store.index["slide"].to_pylist())),
    }


def _shown(slides: Sequence[Slide], count: int) -> set[str]:
    firsts = {slide.group: slide.slide for slide in reversed(slides)}
    order = sorted(slides, key=lambda slide: firsts[slide.group] != slide.slide)
    return {slide.slide for slide in order[:count]}


def _check_disk(tasks: Sequence[_Task], folder: Path, workers: int) -> None:
    free = shutil.disk_usage(folder).free
    # Every tile of the grid is more than will be stored: only where that would not fit is tissue sought.
    for tissue_only in (False, True):
        sizes = [_bytes(task, tissue_only) for task in tasks]
        # Slides that wait for their turn lie beside the store.
        waiting = sorted(sizes)[-(workers + LOOK_AHEAD if workers else 1) :]
        needed = DISK_RESERVE + sum(sizes) + sum(waiting)
        if not tasks or needed <= free:
            return
    raise UserError(
        f"{folder}: the tiles need about {needed / 2**20:.0f} MB and {free / 2**20:.0f} MB are free; "
        "make room, or cut at a coarser tiles.mpp or tiles.downsample."
    )


def _bytes(task: _Task, tissue_only: bool) -> int:
    with task.open() as reader:
        if not tissue_only:
            return grid_bytes(reader, task.config)
        count = int((plan_slide(reader, task.config).fractions >= task.config.min_tissue).sum())
        return 4 * task.config.tile**2 * count


def grid_bytes(reader: SlideReader, config: TilesConfig) -> int:
    """Return the bytes that a slide's tiles take in a store if all of them hold tissue."""
    width, height = reader.working_size(working_downsample(reader, config))
    side = config.tile
    return 4 * side**2 * -(-width // side) * -(-height // side)


@dataclass(frozen=True)
class _Files:
    """Slides that belong to no cohort."""

    paths: dict[str, Path]
    annotations: dict[str, Path]
    classes: tuple[str, ...]
    resolution: float | None

    def slide_path(self, slide: Slide) -> Path:
        return self.paths[slide.slide]

    def mpp(self, slide: Slide) -> float | None:
        return self.resolution

    def annotation(self, slide: Slide) -> list[Polygon] | None:
        path = self.annotations.get(slide.slide)
        return None if path is None else read_geojson(path, classes=self.classes)


def cut_files(
    paths: Sequence[Path],
    out: Path,
    config: TilesConfig,
    *,
    mpp: float | None = None,
    annotations: Path | None = None,
    workers: int = 0,
) -> dict[str, Any]:
    """Cut slides that belong to no cohort; each counts as a patient of its own, class ``unknown``, for test.

    Parameters
    ----------
    paths
        Slide files; the names without suffix must differ, as they become the names of the slides.
    out
        Folder of the store, which is written whole or not at all, with a preview of each slide.
    config
        How to cut.
    mpp
        µm per pixel of level 0, in place of what the files state.
    annotations
        A GeoJSON file (for one slide), or a folder with ``<slide>.geojson`` for each slide.
    workers
        Processes; 0 works in this one.

    Returns
    -------
    facts
        As :func:`cut_cohort`.

    Raises
    ------
    UserError
        If something is missing, damaged or does not fit.
    """
    named: dict[str, Path] = {}
    for path in map(Path, paths):
        if path.stem in named:
            raise UserError(f"{path}: {named[path.stem]} has the same name; rename one or cut them apart.")
        if not path.is_file():
            raise UserError(f"{path}: no such slide file; correct the path.")
        named[path.stem] = path
    drawn = _annotation_files(named, annotations)
    slides = [Slide(name, name, "unknown", "test") for name in named]
    settings = {"tiles": config, "mpp": mpp, "slides": list(named)}
    inputs = {f"slide {n}": p for n, p in named.items()} | {f"annotation {n}": p for n, p in drawn.items()}
    cohort = _Files(named, drawn, tuple(config.classes), mpp)
    with product(out, stage="tiles", settings=settings, inputs=inputs, keep=("journal.jsonl",)) as making:
        making.facts |= cut_cohort(cohort, slides, config, making.folder, workers, previews=len(slides))
        return dict(making.facts)


def _annotation_files(slides: Mapping[str, Path], annotations: Path | None) -> dict[str, Path]:
    if annotations is None:
        return {}
    if not annotations.is_dir():
        if len(slides) != 1:
            raise UserError(f"{annotations}: one annotation file for {len(slides)} slides; give a folder of them.")
        return dict.fromkeys(slides, annotations)
    found = {name: annotations / f"{name}.geojson" for name in slides}
    for path in found.values():
        if not path.is_file():
            raise UserError(f"{path}: missing; export the annotations of this slide, or cut it apart.")
    return found
