"""The table and the figure of an experiment: variants of the models side by side, each against the first."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stedm.report.arms import budget_label, look, order
from stedm.report.claims import corrections
from stedm.report.formats import Table, ends, interval, known, number, p_value
from stedm.report.html import Picture, labels
from stedm.report.style import INK, PAPER, save, theme
from stedm.report.tables import ARM, LABELS, each_seed, ordered
from stedm.report.variants import Experiment, Key, Variant
from stedm.scores.statistics import RESAMPLES, compare, describe, table

PREFIX = "experiment-"
"""Of the names of tables and figures."""
ANY = "any"
"""In the place of a value: the arm's runs are the same whatever it is."""


def tabulate(experiment: Experiment, *, resamples: int = RESAMPLES, seed: int = 0) -> Table:
    """One row per arm, budget and variant on `last`, with its difference from the reference on the same patients."""
    again = {"resamples": resamples, "seed": seed}
    every = {key: seeds for variant in reversed(experiment.variants) for key, seeds in variant.planned.items()}
    rows = [
        _row(experiment, variant, key, shared, again)
        for key in ordered(every)
        for variant, shared in _variants_of(experiment, key)
    ]
    family = [row | {"seeds": row["compared_seeds"]} for row in rows]
    for row, more in zip(rows, corrections(family, _distinct(experiment, rows)), strict=True):
        row.update(more)
    raw = pd.DataFrame(rows).astype({"budget": "Int64"}) if rows else pd.DataFrame()
    axes = {key: key.rpartition(".")[2].replace("_", " ") for key in experiment.axes}
    shown = pd.DataFrame(
        {
            **{header: row[key] for key, header in axes.items()},
            ARM: row["arm"],
            LABELS: budget_label(row["budget"]),
            "Mean IoU [95 %]": interval(row, "mean") if row["seeds"] else "missing",
            "Mean, each seed": each_seed(row),
            "SD between patients [95 %]": interval(row, "std"),
            "Difference of mean IoU [95 %]": _difference(row),
            "With runs [95 %]": ends(row, "runs", sign=True),
            "Wilcoxon p": p_value(row["wilcoxon"]),
            "Holm p": p_value(row["holm"]),
            "Ratio of SDs [95 %]": interval(row, "ratio"),
            "Patients": str(row["patients"]),
        }
        for row in rows
    )
    headers = {
        "Mean IoU [95 %]": "mean",
        "SD between patients [95 %]": "std",
        "Difference of mean IoU [95 %]": "difference",
        "With runs [95 %]": "difference",
        "Wilcoxon p": "wilcoxon",
        "Holm p": "holm",
        "Ratio of SDs [95 %]": "ratio",
        "Patients": "patients",
    }
    keys = {header: [row[name] for row in rows] for header, name in headers.items()}
    keys[LABELS] = [10**9 if row["budget"] is None else row["budget"] for row in rows]
    keys["Mean, each seed"] = [min((v for v in row["mean_seeds"] if known(v)), default=None) for row in rows]
    shared = any(row[key] == ANY for row in rows for key in experiment.axes)
    return Table(f"{PREFIX}{experiment.name}", _caption(experiment, shared=shared), raw, shown, keys)


def _distinct(experiment: Experiment, rows: list[dict[str, Any]]) -> float:
    """Return how many independent comparisons tell as much of the spread over runs as those of a table.

    Differences from one reference share its runs and correlate by a half, their variances by a quarter: the mean of n
    such variances has n / (1 + (n - 1) / 4) times the degrees of freedom of one.
    """
    compared = [row for row in rows if row["compared_seeds"]]
    shared = Counter(experiment.reference((row["arm"], row["budget"]))[1] for row in compared)
    return sum(number_ / (1 + (number_ - 1) / 4) for number_ in shared.values())


def _variants_of(experiment: Experiment, key: Key) -> list[tuple[Variant, bool]]:
    """Return the variants in which an arm is planned; one alone, marked, where its runs are the same in all."""
    having = [variant for variant in experiment.variants if key in variant.planned]
    first = having[0].ids(key)
    if len(having) > 1 and first and all(variant.ids(key) == first for variant in having):
        return [(having[0], True)]
    return [(variant, False) for variant in having]


def _row(experiment: Experiment, variant: Variant, key: Key, shared: bool, again: dict[str, int]) -> dict[str, Any]:
    arm, budget = key
    row: dict[str, Any] = {name: ANY if shared else variant.chosen[name] for name in experiment.axes}
    row |= {"arm": arm, "budget": budget, "runs": sorted(variant.ids(key))}
    own = table(variant.patients, arm, budget, "last")
    row["missing_seeds"] = [k for k, there in variant.planned[key].items() if not there]
    row |= describe(own, **again)
    reference = None if shared else experiment.reference(key)
    row["reference"] = reference is not None and reference[0] is variant and reference[1] == key
    other = pd.DataFrame(index=own.index[:0])
    if reference is not None and not row["reference"]:
        other = table(reference[0].patients, *reference[1], "last")
    found = compare(own, other, **again)
    # Seeds and patients of the pair are told apart from those of the arm alone.
    names = {"seeds": "compared_seeds", "patients": "compared_patients"}
    return row | {names.get(name, name): value for name, value in found.items()}


def _difference(row: dict[str, Any]) -> str:
    return "reference" if row["reference"] else interval(row, "difference", sign=True)


def _caption(experiment: Experiment, *, shared: bool) -> str:
    fixed = ", ".join(f"{key} {value}" for key, value in experiment.fixed.items())
    first = ", ".join(f"{key.rpartition('.')[2]} {experiment.variants[0].chosen[key]}" for key in experiment.axes)
    against = (
        f"the same arm with {first}"
        if first
        else f"the arm {experiment.arms[0]} at the same labels, of arms with all labels at the fewest"
    )
    said = (
        f"{experiment.question} Foreground IoU on the test patients, last checkpoint: mean over patients and standard "
        "deviation (SD) between patients with 95 % intervals over patients, the mean of each seed, and difference "
        f"and ratio to {against}, paired over patients and seeds. With runs: the difference's interval with the spread "
        "over runs of training added. Holm p: the Wilcoxon p corrected for all comparisons of this table; the "
        "intervals are of one comparison each."
    )
    said += f" All with {fixed}." if fixed else ""
    if shared:
        said += f" {ANY}: the arm's runs do not depend on it."
    if experiment.invalid:
        said += f" Not valid in this cohort: {'; '.join(experiment.invalid)}."
    return said


# ---- the figure


def draw(experiment: Experiment, made: Table, folder: Path) -> Picture | None:
    """Draw mean and variability of every variant and arm into `folder`; None without a score."""
    rows = [row for row in made.raw.to_dict("records") if known(row["mean"])]
    if not rows:
        return None
    name = f"{PREFIX}{experiment.name}"
    content = save(_figure(experiment, rows), folder, name)
    said = "; ".join(
        f"{', '.join(part for part in (_spelled(experiment, row), row['arm'], labels(row['budget'])) if part)}: "
        f"{number(row['mean'], 2)}"
        for row in rows
    )
    caption = (
        "Mean IoU over patients and standard deviation between patients; lines are 95 % intervals over patients, short "
        "ticks single seeds."
    )
    return Picture(name, experiment.title, caption, f"{experiment.title}. Mean IoU: {said}.", content)


def _spelled(experiment: Experiment, row: dict[str, Any]) -> str:
    values = [str(row[key]) for key in experiment.axes]
    return "" if set(values) == {ANY} else ", ".join(values)


def _figure(experiment: Experiment, rows: list[dict[str, Any]]) -> Figure:
    several = len({row["budget"] for row in rows if known(row["budget"])}) > 1

    def place(row: dict[str, Any]) -> str:
        budget = "all labels" if not known(row["budget"]) else labels(row["budget"]) if several else ""
        return "\n".join(part for part in (_spelled(experiment, row), budget) if part)

    arms = order({row["arm"] for row in rows})
    # Arms that no value changes stand above the variants, in the order of the rows.
    lines = list(dict.fromkeys(place(row) for row in sorted(rows, key=lambda row: _spelled(experiment, row) != "")))
    names = {line: line or " ".join(dict.fromkeys(row["arm"] for row in rows if place(row) == line)) for line in lines}
    if not experiment.axes:
        names = {line: line or labels(rows[0]["budget"]) for line in lines}
    with matplotlib.rc_context(theme()):
        height = 0.9 + sum(max(0.34, 0.15 * sum(place(row) == line for row in rows)) for line in lines)
        figure, panels = plt.subplots(1, 2, figsize=(7.2, height), sharey=True)
        tops, top = {}, 0.0
        for line in lines:
            own = sorted((row for row in rows if place(row) == line), key=lambda row: arms.index(row["arm"]))
            size = max(0.34, 0.15 * len(own))
            for number_, row in enumerate(own):
                y = top + size * (number_ + 0.5) / len(own)
                for panel, key in zip(panels, ("mean", "std"), strict=True):
                    _mark(panel, y, row, key, arms)
            tops[line] = top + size / 2
            top += size + 0.08
            for panel in panels:
                panel.axhline(top - 0.04, color=INK, linewidth=0.3, alpha=0.3)
        for panel, title in zip(panels, ("Mean IoU over patients", "SD of IoU between patients"), strict=True):
            panel.set_xlabel(title)
            panel.grid(axis="x")
            panel.tick_params(axis="y", length=0)
            sns.despine(ax=panel, left=True)
        panels[0].set_yticks(list(tops.values()), [names[line] for line in tops])
        panels[0].set_ylim(top, -0.08)
        panels[1].set_xlim(left=0)
        handles = [
            Line2D([], [], color=look(arm, arms).colour, marker=look(arm, arms).marker, markersize=5, label=arm)
            for arm in arms
        ]
        figure.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
        figure.tight_layout(w_pad=1.5)
    return figure


def _mark(panel: Axes, y: float, row: dict[str, Any], key: str, arms: list[str]) -> None:
    if not known(row[key]):
        return
    drawn = look(row["arm"], arms)
    if known(row[f"{key}_low"]):
        ends = [row[f"{key}_low"], row[f"{key}_high"]]
        panel.plot(ends, [y, y], color=drawn.colour, linewidth=1.5, solid_capstyle="butt")
    each = [value for value in row[f"{key}_seeds"] if known(value)]
    panel.plot(each, [y] * len(each), "|", color=drawn.colour, markersize=5, markeredgewidth=0.9)
    shape = {"color": drawn.colour, "markersize": 5, "markeredgecolor": PAPER, "markeredgewidth": 0.5}
    panel.plot(row[key], y, drawn.marker, **shape)
