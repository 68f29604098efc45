"""Builds a report: tables, figures, claims and the page, each finished before it takes its place."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from stedm.report import experiments as varied
from stedm.report import formats, html, plates, previews
from stedm.report.claims import runs as planned_runs
from stedm.report.style import data_uri
from stedm.report.tables import build_tables, folds_of
from stedm.report.variants import Experiment, alone
from stedm.scores.statistics import RESAMPLES

# A phone must still open the page: each overview is a few tens of kilobytes.
MOST_OVERVIEWS = 24
ON_TOP = ("on-top", "distance")
"""Tables that have a section of their own."""


def build_report(
    *,
    out: Path,
    title: str,
    scores: pd.DataFrame,
    runs: list[dict],
    ledger: list[dict],
    expected: list[dict],
    experiments: Sequence[Experiment] = (),
    experiment_runs: Sequence[dict] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Write `tables/`, `figures/`, `claims.csv` and `report.html` into `out`.

    Each is written beside its place and then renamed into it, so nothing half-written is ever taken for whole.
    Equal input gives equal bytes.

    Parameters
    ----------
    out
        Folder of the report; made where missing.
    title
        Heading of the page.
    scores
        One row per (segmenter, checkpoint, slide, annotated class), as `stedm.scores.metrics` reads them.
    runs
        One dict per run: `stage`, `id`, `folder` (its `preview/` is read where present), and where they apply `arm`,
        `budget`, `seed`, `fold` (where it is not the first), `validation_labels`, `provenance`.
    ledger
        Rows `{"paper", "ours", "why"}` of the deviation ledger.
    expected
        Segmenters that should be scored, as `{"arm", "budget", "seed"}`, `budget` None where the arm has all labels.
    experiments
        Each is a table and a figure of its own; its scores enter no other, but that those of an experiment without
        axes answer whether synthetic images add something on top of what else helps (`stedm.report.on_top`).
    experiment_runs
        As `runs`, those of experiments alone: their provenance is listed.
    resamples, seed
        Of every bootstrap.

    Returns
    -------
    `report` (Path), `claims`, `supported`, `refuted`, `undecided` (int), `missing` (list of str).

    Raises
    ------
    ValueError
        If the scores are malformed or of more than one cohort.
    """
    again = {"resamples": resamples, "seed": seed}
    made, judged = build_tables(scores, runs=runs, expected=expected, besides=alone(experiments), **again)
    cohorts = sorted(scores["cohort"].unique())
    out.mkdir(parents=True, exist_ok=True)
    patients = made["patients"].raw
    planned = planned_runs(patients, expected)
    missing = [
        f"{arm}{_at(budget)}, seed {k}"
        for (arm, budget), seeds in planned.items()
        for k, there in seeds.items()
        if not there
    ]

    compared = [varied.tabulate(one, **again) for one in experiments]
    _replace_folder(out / "tables", lambda folder: [formats.write(one, folder) for one in [*made.values(), *compared]])
    drawn: dict[str, list] = {}
    absent: dict[str, list[str]] = {"images": [], "training": []}

    def draw(folder: Path) -> None:
        drawn["scores"] = plates.score_figures(folder, patients, made["headline"].raw)
        drawn["images"], absent["images"] = plates.image_figures(folder, runs)
        for into, found in zip((drawn["images"], absent["images"]), plates.slide_figures(folder, runs), strict=True):
            into += found
        drawn["experiments"] = [varied.draw(*pair, folder) for pair in zip(experiments, compared, strict=True)]
        drawn["training"], absent["training"] = plates.curve_figures(folder, runs)

    _replace_folder(out / "figures", draw)
    _replace_file(out / "claims.csv", formats.csv(judged))
    slides = [one for run in runs if run["stage"] == "tiles" for one in previews.overviews(run)]
    if not slides:
        absent["images"].append("No tiles run left overviews of its slides.")
    tally = {name: int((judged["verdict"] == name).sum()) for name in ("supported", "refuted", "undecided")}
    recorded = [*runs, *experiment_runs]
    page = html.render(
        title=title,
        cohort=cohorts[0] if cohorts else "",
        headline=html.headline(judged),
        standings=html.standings(made["headline"].raw.to_dict("records")),
        tally=tally,
        folds=folds_of(runs),
        incomparable=html.incomparable(recorded),
        groups=html.claim_groups(judged),
        missing=missing,
        tables={"headline": html.grid_of(made["headline"]), "more": _more(made, patients)},
        arms={arm for arm, _ in planned},
        experiments=[
            {"about": one, "grid": _below(one.question, html.grid_of(made_table)), "picture": picture}
            for one, made_table, picture in zip(experiments, compared, drawn["experiments"], strict=True)
        ],
        on_top={
            "answers": html.answers(*(made.get(name) for name in ON_TOP)),
            "grids": [html.grid_of(made[name]) for name in ON_TOP if name in made],
        },
        figures=drawn["scores"],
        pictures=drawn["images"],
        curves=drawn["training"],
        absent=absent,
        overviews=[{"name": name, "uri": data_uri(png, "image/png")} for name, png in slides[:MOST_OVERVIEWS]],
        more_overviews=max(0, len(slides) - MOST_OVERVIEWS),
        runs=html.run_rows(recorded),
        ledger=ledger,
        environment=html.environment(recorded),
        **again,
    )
    _replace_file(out / "report.html", page)
    return {"report": out / "report.html", "claims": len(judged), **tally, "missing": missing}


def _at(budget: int | None) -> str:
    return "" if budget is None else f", {budget} label{'s' if budget != 1 else ''}"


def _more(made: dict[str, formats.Table], patients: pd.DataFrame) -> list[dict]:
    titles = {
        "comparisons": "Comparisons behind the claims",
        "references": "References: colour augmentation alone, and all labels",
        "labels": "Effect against label budget",
        "checkpoints": "Best checkpoint beside the last",
        "groups": "Groups of patients",
    }
    if patients["patient"].nunique() <= html.MOST_PATIENTS:
        titles["patients"] = "Patients"
    return [
        {"title": title, "grid": html.grid_of(made[name])}
        for name, title in titles.items()
        if name in made and len(made[name].shown)
    ]


def _below(question: str, grid: dict) -> dict:
    """Leave an experiment's question, which stands above its figure, out of its table's caption."""
    return grid | {"caption": grid["caption"].removeprefix(question).lstrip()}


def _replace_file(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8", newline="\n")
    beside.replace(path)


def _replace_folder(path: Path, fill: Callable[[Path], object]) -> None:
    beside, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    for left in (beside, old):
        shutil.rmtree(left, ignore_errors=True)
    beside.mkdir()
    fill(beside)
    # A folder cannot replace a full one in one step: for an instant there is none, never half of one.
    if path.exists():
        path.rename(old)
    beside.rename(path)
    shutil.rmtree(old, ignore_errors=True)
