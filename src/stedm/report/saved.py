"""Effect against label budget: how many labels a baseline needs for what an arm reaches with fewer."""

from __future__ import annotations

import numpy as np
import pandas as pd

from stedm.report.arms import has_budget, order, uses_synthetic
from stedm.report.claims import baselines
from stedm.report.formats import Table
from stedm.scores.statistics import LEVEL, MIN_PATIENTS, RESAMPLES, seed_average, table


def equivalent_budget(target: float, budgets: np.ndarray, means: np.ndarray) -> float:
    """Return the label budget at which a baseline's mean is `target`, between its budgets along their logarithm.

    Parameters
    ----------
    target
        Mean of the arm.
    budgets, means
        The baseline's budgets, rising, and its mean at each; where more labels were worse, the lower mean counts as
        the higher one before it.

    Returns
    -------
    0 where the baseline has more than `target` at its lowest budget, infinity where it has less at its highest.
    """
    rising = np.maximum.accumulate(means)
    if target < rising[0]:
        return 0.0
    if target > rising[-1]:
        return np.inf
    return float(np.exp(np.interp(target, rising, np.log(budgets))))


def labels_saved(patients: pd.DataFrame, planned: dict, *, resamples: int = RESAMPLES, seed: int = 0) -> Table | None:
    """Compare each arm that uses synthetic images with the curve of each baseline over its budgets.

    Parameters
    ----------
    patients, planned
        As of `stedm.report.claims.comparisons` and `stedm.report.claims.runs`.
    resamples, seed
        Of the percentile interval over patients, who are resampled jointly in all arms.

    Returns
    -------
    A table with one row per (arm, baseline, budget), or None where no baseline has two budgets.
    """
    budgets = sorted({budget for arm, budget in planned if has_budget(arm) and budget is not None})
    rows = []
    for arm in order({arm for arm, _ in planned if uses_synthetic(arm)}):
        for baseline in baselines(arm):
            for budget in budgets:
                sides = [(baseline, other) for other in budgets if (baseline, other) in planned]
                if (arm, budget) in planned and len(sides) > 1:
                    rows.append(_row(patients, (arm, budget), sides, resamples, seed))
    rows = [row for row in rows if row is not None]
    if not rows:
        return None
    shown = pd.DataFrame(
        {
            "Arm": row["arm"],
            "Labels per class": str(row["budget"]),
            "Baseline": row["baseline"],
            "Labels that the baseline needs [95 %]": _needed(row),
        }
        for row in rows
    )
    caption = (
        "How many labelled patients per class a baseline needs for the mean IoU of an arm, read off its means at the "
        "budgets that were run, along their logarithm; percentile interval over patients, last checkpoint. Beyond the "
        "budgets that were run nothing is extrapolated."
    )
    keys = {"Labels that the baseline needs [95 %]": [row["labels"] for row in rows]}
    return Table("labels", caption, pd.DataFrame(rows), shown, keys)


def _row(patients: pd.DataFrame, arm: tuple[str, int], sides: list, resamples: int, seed: int) -> dict | None:
    columns = {side: _averages(table(patients, *side, "last")) for side in (arm, *sides)}
    values = pd.DataFrame(columns).dropna().to_numpy()
    if len(values) < MIN_PATIENTS:
        return None
    levels = np.array([budget for _, budget in sides], dtype=float)

    def needed(means: np.ndarray) -> float:
        return equivalent_budget(means[0], levels, means[1:])

    draws = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    drawn = [needed(means) for means in values[draws].mean(1)]
    # An end may be infinite, so that nothing is to be interpolated.
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    row = {"arm": arm[0], "baseline": sides[0][0], "budget": arm[1], "labels": needed(values.mean(0))}
    row |= {"labels_low": float(low), "labels_high": float(high)}
    return row | {"run_at": [budget for _, budget in sides], "patients": len(values)}


def _averages(wide: pd.DataFrame) -> pd.Series:
    """Average each patient over the seeds that are defined; NaN where none is."""
    values = wide.to_numpy(dtype=float)
    return pd.Series(np.where(np.isfinite(values).any(1), seed_average(values), np.nan), wide.index)


def _needed(row: dict) -> str:
    least, *_, most = row["run_at"]

    def spelt(value: float) -> str:
        return f"< {least}" if value < least else f"> {most}" if value > most else f"{value:.1f}"

    return f"{spelt(row['labels'])} [{spelt(row['labels_low'])}, {spelt(row['labels_high'])}]"
