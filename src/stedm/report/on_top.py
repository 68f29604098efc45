"""Do synthetic images add anything on top of what else helps, and how far do they go towards all labels?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from stedm.report.arms import budget_label
from stedm.report.claims import MEAN, SPREAD, budgets_of, comparison, corrections, missing_runs, verdict
from stedm.report.formats import DASH, Table, ends, interval, known, number, p_value, seeds
from stedm.scores.statistics import RESAMPLES, Estimate, aligned, bootstrap, columns, mean, per_seed, table

ADDED = (
    ("colour augmentation", "synthetic-colour", "real-colour"),
    ("pseudo-labels", "synthetic-pseudo", "pseudo-labels"),
    ("pseudo-labels and colour augmentation", "synthetic-pseudo-colour", "pseudo-labels-colour"),
    ("stain normalisation", "synthetic-normalised", "real-normalised"),
)
"""What else helps, the arm that has it and synthetic images, and the arm that has it alone."""
WAYS = (("synthetic-colour", "real-colour", "oracle-colour"), ("synthetic", "real", "oracle"))
"""An arm, where it starts from, and the same with all labels."""
WITHIN = "The interval of the distance does not lie above 0: there may be nothing to cover."


def on_top(patients: pd.DataFrame, planned: dict, *, resamples: int = RESAMPLES, seed: int = 0) -> Table | None:
    """Compare arms with synthetic images with the same arms without, where both have something else that helps.

    Parameters
    ----------
    patients, planned
        As of `stedm.report.claims.comparisons` and `stedm.report.claims.runs`.

    Returns
    -------
    A table with one row per (what else helps, budget): the columns of `stedm.scores.statistics.compare`, those of
    `stedm.report.claims.corrections` over this table, and `mean_verdict`, `mean_reason`, `spread_verdict` and
    `spread_reason`, as the claims are judged; None without such a pair.
    """
    rows = []
    for budget in budgets_of(planned):
        for beside, arm, baseline in ADDED:
            sides = (arm, budget), (baseline, budget)
            if all(side in planned for side in sides):
                row = {"beside": beside, "arm": arm, "baseline": baseline, "budget": budget}
                rows.append(row | comparison(patients, planned, *sides, resamples=resamples, seed=seed))
    if not rows:
        return None
    for row, more in zip(rows, corrections(rows, len(rows)), strict=True):
        row.update(more)
        for name, claim in (("mean", MEAN), ("spread", SPREAD)):
            row[f"{name}_verdict"], row[f"{name}_reason"] = verdict(row, claim)
    shown = pd.DataFrame(
        {
            "Arm": row["arm"],
            "Baseline": row["baseline"],
            "Labels per class": budget_label(row["budget"]),
            "Difference of mean IoU [95 %]": interval(row, "difference", sign=True),
            "With runs [95 %]": ends(row, "runs", sign=True),
            "Each seed": seeds(row["difference_seeds"], sign=True),
            "Holm p": p_value(row["holm"]),
            "Raises the mean": row["mean_verdict"],
            "Ratio of SDs [95 %]": interval(row, "ratio"),
            "Lowers the variability": row["spread_verdict"],
        }
        for row in rows
    )
    keys = {
        "Labels per class": [row["budget"] for row in rows],
        "Difference of mean IoU [95 %]": [row["difference"] for row in rows],
        "With runs [95 %]": [row["difference"] for row in rows],
        "Holm p": [row["holm"] for row in rows],
        "Ratio of SDs [95 %]": [row["ratio"] for row in rows],
    }
    caption = (
        "Arms that have something else that helps, with synthetic images and without: differences and ratios on the "
        "same patients and seeds, last checkpoint, with paired 95 % intervals over patients; with runs: with the "
        "spread over runs of training added. Holm p: the Wilcoxon p corrected for all comparisons of this table; the "
        "intervals are of one comparison each. Verdicts as of the claims."
    )
    return Table("on-top", caption, pd.DataFrame(rows), shown, keys)


def distance(patients: pd.DataFrame, planned: dict, *, resamples: int = RESAMPLES, seed: int = 0) -> Table | None:
    """Tell which share of the distance from a baseline to all labels an arm covers; parameters as of `on_top`.

    Returns
    -------
    A table with one row per (arm, budget): `distance` and `share`, each with `_low`, `_high`, `_seeds` and `_reason`.
    The share is None where the interval of the distance does not lie above 0. None without such arms.
    """
    rows = []
    for budget in budgets_of(planned):
        for arm, baseline, oracle in WAYS:
            sides = (arm, budget), (baseline, budget), (oracle, None)
            if all(side in planned for side in sides):
                row = {"arm": arm, "baseline": baseline, "oracle": oracle, "budget": budget}
                row["missing"] = missing_runs(planned, *sides)
                tables = [table(patients, *side, "last") for side in sides]
                rows.append(row | _covered(tables, resamples=resamples, seed=seed))
    if not rows:
        return None
    shown = pd.DataFrame(
        {
            "Arm": row["arm"],
            "From": row["baseline"],
            "To": row["oracle"],
            "Labels per class": budget_label(row["budget"]),
            "Distance of mean IoU [95 %]": interval(row, "distance", sign=True),
            "Share covered [95 %]": percent(row),
            "Share, each seed": ", ".join(_percentage(value) for value in row["share_seeds"]) or DASH,
            "Patients": str(row["patients"]),
        }
        for row in rows
    )
    keys = {
        "Labels per class": [row["budget"] for row in rows],
        "Distance of mean IoU [95 %]": [row["distance"] for row in rows],
        "Share covered [95 %]": [row["share"] for row in rows],
        "Patients": [row["patients"] for row in rows],
    }
    caption = (
        "How much of the distance in mean IoU from a baseline to the same with all labels an arm covers, on the "
        "patients and seeds that all three have, last checkpoint, with 95 % intervals over patients, who are "
        "resampled jointly in all three. Undefined where the interval of the distance does not lie above 0: a share "
        "of nothing is no number. Above 100 %: more than all labels give."
    )
    return Table("distance", caption, pd.DataFrame(rows), shown, keys)


def share(triples: np.ndarray) -> np.ndarray:
    """Share of the way from the second to the third of three arms that the first covers.

    `(..., patients, seeds, 3)` float64 to `(...)`; NaN where the way has no length.
    """
    first, start, end = (mean(triples[..., place]) for place in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (first - start) / (end - start)
    return np.where(end == start, np.nan, found)


def _way(triples: np.ndarray) -> np.ndarray:
    return mean(triples[..., 2]) - mean(triples[..., 1])


def _covered(tables: Sequence[pd.DataFrame], *, resamples: int, seed: int) -> dict:
    common, triples, _ = aligned(*tables)
    way = bootstrap(triples, _way, resamples=resamples, seed=seed)
    row = {"seeds": common, "patients": len(triples), **columns("distance", way, per_seed(triples, _way))}
    if way.low is None or way.low <= 0:
        reason = WITHIN if way.low is not None else f"No interval: {way.reason}."
        return row | columns("share", Estimate(None, reason=reason), [])
    return row | columns("share", bootstrap(triples, share, resamples=resamples, seed=seed), per_seed(triples, share))


def _percentage(value: object) -> str:
    return f"{number(100 * float(value), 0)} %" if known(value) else DASH


def percent(row: dict) -> str:
    """Spell the share of a row with its interval, e.g. "62 % [40 %, 85 %]"."""
    if not known(row["share"]):
        return "undefined"
    both = [row["share_low"], row["share_high"]]
    inside = ", ".join(map(_percentage, both)) if all(map(known, both)) else "no interval"
    return f"{_percentage(row['share'])} [{inside}]"
