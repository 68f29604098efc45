"""Draws and captions the figures of a report: what each shows, and the sentence where there is nothing to show."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from stedm.report import figures, pictures, previews, slides, style_map
from stedm.report.formats import known, number
from stedm.report.html import Picture, labels
from stedm.report.style import save


def score_figures(folder: Path, patients: pd.DataFrame, headline: pd.DataFrame) -> list[Picture]:
    """Draw the figures of the scores into `folder`; `headline` is the raw headline table. None without scores."""
    rows = [row for row in headline.to_dict("records") if known(row["mean"])]
    if not rows:
        return []
    drawn = [
        Picture(
            "iou-per-patient",
            "Every patient",
            "Each point is a test patient, averaged over seeds; beneath, the mean with its 95 % interval over "
            "patients, and a tick for each seed's mean. Arms with all labels stand in every panel.",
            f"Patient IoU by arm. Means: {_said(rows, 'mean')}.",
            save(figures.iou_per_patient(patients, headline), folder, "iou-per-patient"),
        )
    ]
    caption = (
        "Vertical lines are 95 % intervals over patients, short ticks single seeds; arms with all labels are "
        "horizontal lines with their interval as a band."
    )
    for name, key, title, axis, more in (
        ("iou-vs-budget", "mean", "Mean IoU against the label budget", "Mean IoU over patients", ""),
        (
            "variability-vs-budget",
            "std",
            "Variability against the label budget",
            "SD of IoU between patients",
            " Lower is steadier.",
        ),
    ):
        content = save(figures.versus_budget(headline, key, axis), folder, name)
        drawn.append(Picture(name, title, caption + more, f"{title}. {_said(rows, key)}.", content))
    return drawn


def _said(rows: list[dict], name: str) -> str:
    there = [row for row in rows if known(row[name])]
    return "; ".join(f"{row['arm']}, {labels(row['budget'])}: {number(row[name], 2)}" for row in there)


def image_figures(folder: Path, runs: list[dict]) -> tuple[list[Picture], list[str]]:
    """Draw the figures of images into `folder`; also return a sentence for each that has no preview."""
    drawn, absent = [], []
    grids = [(run, grid) for run in _of(runs, "synthetic") if (grid := previews.grid(run)) is not None]
    made = [pair for pair in grids if pair[0].get("sampling") != "transferred"]
    moved = [pair for pair in grids if pair[0].get("sampling") == "transferred"]
    if made:
        drawn.append(_grid_picture(folder, made, "layouts-styles", "Layouts by styles", "Synthetic"))
    else:
        absent.append("No synthetic run left a grid of layouts and styles.")
    if moved:
        drawn.append(_grid_picture(folder, moved, "images-colours", "Images by colours", "Transferred"))
    mapped = _style_map(folder, runs)
    drawn += mapped
    if not mapped:
        absent.append("No generator left style vectors of its patients.")
    chosen: dict[str, dict] = {}
    for run in _of(runs, "segmenter"):
        # The smallest budget and seed of each arm: where labels are scarce the arms differ most.
        if run.get("arm") and run["arm"] not in chosen and (found := previews.examples(run)) is not None:
            chosen[run["arm"]] = found
    named = [{str(name) for name in found["names"]} for found in chosen.values()]
    shared = set.intersection(*named) if named else set()
    if shared:
        caption = (
            "The same tiles of test patients as each arm segments them, at its smallest label budget and first seed: "
            "annotated outline in yellow, predicted outline dashed."
        )
        alt = f"Segmentations of {min(len(shared), pictures.MOST_COLUMNS)} test tiles by {', '.join(chosen)}."
        content = save(pictures.segmentations(chosen), folder, "segmentations")
        drawn.append(Picture("segmentations", "Segmentations", caption, alt, content))
    else:
        absent.append("No segmenter left examples that all arms share.")
    return drawn, absent


def _style_map(folder: Path, runs: list[dict]) -> list[Picture]:
    read = ((run, previews.styles(run)) for run in _of(runs, "generator"))
    run, found = next(((run, found) for run, found in read if found is not None), (None, None))
    if found is None:
        return []
    own = style_map.nearest_own(found["vectors"], found["patient"])
    by_role = [(role, own[found["role"] == role]) for role in style_map.ROLES if role in set(found["role"])]
    said = ", ".join(f"{100 * values.mean():.0f} % of {role} patients' sets" for role, values in by_role)
    count = len(set(found["patient"]))
    caption = (
        f"Style vectors of generator {run['id']}: each mark is a patient, the lines from it end at the style sets that "
        "were drawn of the patient; the two directions in which all sets differ most, in colours of the patients' "
        f"groups. Among all sets, the nearest is of the same patient for {said}."
    )
    alt = f"Map of the style vectors of {count} patients by role. Nearest set of the same patient: {said}."
    content = save(style_map.style_map(found), folder, "style-map")
    return [Picture("style-map", "Style map of patients", caption, alt, content)]


def _grid_picture(folder: Path, grids: list[tuple[dict, dict]], name: str, title: str, kind: str) -> Picture:
    # One grid is enough to look at: with the null style if any has it, else of the most labels.
    run, grid = max(grids, key=lambda pair: ("null_images" in pair[1], pair[0].get("budget") or 0, pair[0]["id"]))
    caption = (
        f"{kind} images of run {run['id']}: each row one layout of a labelled patient (its real image at the "
        "left), each column the style of one unlabelled patient (style images above). The outline is the layout: "
        "what the segmenter is told is foreground."
    )
    alt = (
        f"Grid of {kind.lower()} images, {len(grid['layouts'])} layouts by {len(grid['styles'])} styles, the outline "
        "of its row's layout on every image."
    )
    return Picture(name, title, caption, alt, save(pictures.layouts_styles(grid), folder, name))


def slide_figures(folder: Path, runs: list[dict]) -> tuple[list[Picture], list[str]]:
    """Draw whole slides with tissue, tiles, layout and predictions; also return a sentence where there are none."""
    chosen: dict[str, list[previews.SlideOverview]] = {}
    for run in _of(runs, "scores"):
        # As the segmentations: the smallest budget and first seed of each arm.
        if run.get("arm") and run["arm"] not in chosen and (found := previews.slides(run)):
            chosen[run["arm"]] = found
    arms = [arm for arm in slides.ARMS if arm in chosen] or list(chosen)[: len(slides.ARMS)]
    if not arms:
        return [], ["No scores run left overviews of its slides."]
    shown = {arm: chosen[arm] for arm in arms}
    caption = (
        "Whole slides of test patients. First row: tissue, the stored tiles, and the annotated outline; what is not "
        f"stored is greyed. Below: what {', '.join(arms)} predict (last checkpoint, smallest label budget, first "
        "seed), with the slide's IoU."
    )
    ious = "; ".join(
        f"{arm} on {slide.name}: {number(slide.iou, 2)}" for arm in arms for slide in shown[arm] if known(slide.iou)
    )
    alt = f"Overviews of {len(shown[arms[0]])} test slides with annotated and predicted outlines. IoU of {ious}."
    content = save(slides.slides(shown), folder, "slides", photographs=True)
    return [Picture("slides", "Slides", caption, alt, content)], []


def curve_figures(folder: Path, runs: list[dict]) -> tuple[list[Picture], list[str]]:
    """Draw the training curves into `folder`; also return a sentence for each stage that left none."""
    generators = {run["id"]: found for run in _of(runs, "generator") if (found := previews.curves(run)) is not None}
    segmenters = [
        (run.get("arm") or run["id"], found)
        for run in _of(runs, "segmenter")
        if (found := previews.curves(run)) is not None
    ]
    stages = (("generator", generators), ("segmenter", segmenters))
    absent = [f"No {stage} left training curves." for stage, found in stages if not found]
    if not generators and not segmenters:
        return [], absent
    caption = (
        f"Loss of {len(generators)} generator and {len(segmenters)} segmenter runs; training losses are smoothed "
        "over a twentieth of the run, without spikes of single steps. The checkpoint last is the last step, "
        "best the one of the lowest validation loss."
    )
    alt = "Training curves of generator and segmenter; the values are in curves.csv in the previews of the runs."
    content = save(pictures.training_curves(generators, segmenters), folder, "training-curves")
    return [Picture("training-curves", "Training curves", caption, alt, content)], absent


def _of(runs: list[dict], stage: str) -> list[dict]:
    own = [run for run in runs if run["stage"] == stage]
    return sorted(own, key=lambda run: (run.get("budget") or 0, run.get("seed") or 0, run.get("fold") or 0, run["id"]))
