"""The paper's claim as a list of testable sentences, each with a verdict that the data can carry.

A claim reads: this arm, compared with this baseline at the same label budget, raises the mean patient IoU, or
lowers the standard deviation between patients. It is

supported
    if the 95 % interval excludes no effect in the claimed direction, every seed has that sign and, for the mean, the
    interval that adds the spread over runs excludes it too;
refuted
    if the same holds in the opposite direction;
undecided
    otherwise, and whenever a run is missing; `reason` says which.

Verdicts are of one claim each and are not corrected for their number. What is: the p of the signed-rank test, by
Holm's method over all comparisons of a table (`stedm.scores.statistics.holm`), which stands beside the plain p. A claim
that is supported while its corrected p is large may be one of the few that chance supports among many.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from stedm.report.arms import baseline_of, has_budget, order, uses_synthetic
from stedm.scores.statistics import RESAMPLES, compare, holm, table, with_runs

BASELINES = (
    "real", "real-colour", "real-normalised", "mean-teacher", "mean-teacher-colour", "pseudo-labels",
    "pseudo-labels-colour", "transferred", "transferred-colour",
)  # fmt: skip
MEAN = "raises the mean"
SPREAD = "lowers the variability"
EFFECTS = {MEAN: ("difference", 0.0, 1), SPREAD: ("ratio", 1.0, -1)}
"""Of each claim the number that decides it, that number without an effect, and the claimed direction."""
INCLUDES = "The interval includes no effect."
AGREES = "The interval excludes no effect and every seed agrees."
RUNS = "The interval over patients excludes no effect, the one that adds the spread over runs does not."

COLUMNS = (
    "arm", "baseline", "budget", "claim", "verdict", "reason", "effect", "no_effect", "estimate", "low", "high",
    "runs_low", "runs_high", "per_seed", "seeds", "wilcoxon", "holm", "patients", "dropped",
)  # fmt: skip


def baselines(arm: str) -> tuple[str, ...]:
    """Return what an arm with synthetic images is compared with: those without style, as real images alone are."""
    return BASELINES[:2] if arm == "synthetic-null" else BASELINES


def comparisons(
    patients: pd.DataFrame, expected: list[dict] | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Compare every arm with its baselines at each budget, on `last`.

    Parameters
    ----------
    patients
        As returned by `stedm.scores.metrics.per_patient`.
    expected
        Runs that should be there, as `{"arm", "budget", "seed"}` (`budget` None: the arm has all labels).

    Returns
    -------
    One row per (arm, baseline, budget): `kind`, `missing` (list, e.g. "synthetic seed 1"), the columns of
    `stedm.scores.statistics.compare`; `holm`, its `wilcoxon` corrected for all rows of the kind; `runs_low` and
    `runs_high`, the difference's interval with the spread over runs (`stedm.scores.statistics.with_runs`), None where
    unknown. Of kind "claim" are arms that use synthetic images against each of their `baselines`; of kind "reference"
    what the paper does not claim: colour augmentation, normalisation, unlabelled tiles or transferred colours against
    none, all labels against some.
    """
    planned = runs(patients, expected)
    arms = order({arm for arm, _ in planned})
    pairs = [(arm, baseline, "claim") for arm in arms if uses_synthetic(arm) for baseline in baselines(arm)]
    others = [arm for arm in arms if not uses_synthetic(arm) and arm != "real"]
    pairs += [(arm, baseline_of(arm), "reference") for arm in others]
    rows = []
    for budget in budgets_of(planned):
        for arm, baseline, kind in pairs:
            sides = (arm, budget if has_budget(arm) else None), (baseline, budget)
            if all(side in planned for side in sides):
                row = {"kind": kind, "arm": arm, "baseline": baseline, "budget": budget}
                rows.append(row | comparison(patients, planned, *sides, resamples=resamples, seed=seed))
    for kind in ("claim", "reference"):
        family = [row for row in rows if row["kind"] == kind]
        distinct = len({(row["arm"], row["budget"]) for row in family})
        for row, more in zip(family, corrections(family, distinct), strict=True):
            row.update(more)
    return pd.DataFrame(rows)


def budgets_of(planned: dict) -> list[int]:
    """Return the budgets of planned runs, ascending."""
    return sorted({budget for _, budget in planned if budget is not None})


def comparison(
    patients: pd.DataFrame, planned: dict, *sides: tuple[str, int | None], resamples: int, seed: int
) -> dict[str, Any]:
    """Compare two arms at their budgets on `last`: which runs are `missing`, and what `compare` returns."""
    tables = [table(patients, *side, "last") for side in sides]
    return {"missing": missing_runs(planned, *sides), **compare(*tables, resamples=resamples, seed=seed)}


def corrections(rows: list[dict], distinct: float) -> list[dict]:
    """Return of each comparison of a table what depends on the others: `holm`, `runs_low` and `runs_high`.

    `rows` and `distinct` are as `stedm.scores.statistics.with_runs` takes them.
    """
    ends = [own or (None, None) for own in with_runs(rows, distinct)]
    corrected = zip(holm([row["wilcoxon"] for row in rows]), ends, strict=True)
    return [{"holm": p, "runs_low": low, "runs_high": high} for p, (low, high) in corrected]


def claims(pairs: pd.DataFrame) -> pd.DataFrame:
    """Judge the rows of kind "claim" of `comparisons`: two claims, on the mean and on the variability, for each.

    Returns
    -------
    One row per claim with the columns `COLUMNS`. `estimate`, `low`, `high` and `per_seed` are a difference of mean
    IoU (`no_effect` 0) or a ratio of standard deviations (`no_effect` 1); None where undefined.
    """
    rows = [row for row in pairs.to_dict("records") if row["kind"] == "claim"]
    judged = [_judge(row, claim) for row in rows for claim in (MEAN, SPREAD)]
    return pd.DataFrame(judged, columns=list(COLUMNS))


def runs(patients: pd.DataFrame, expected: list[dict] | None) -> dict[tuple[str, int | None], dict[int, bool]]:
    """Map (arm, budget) to its seeds, each True if scored: what is there, and what is expected and missing."""
    found: dict[tuple[str, int | None], dict[int, bool]] = {}
    for run in expected or []:
        budget = None if pd.isna(run.get("budget")) else int(run["budget"])
        found.setdefault((run["arm"], budget), {})[int(run["seed"])] = False
    there = patients.loc[patients["checkpoint"] == "last", ["arm", "budget", "seed"]].drop_duplicates()
    for arm, budget, seed in there.itertuples(index=False):
        found.setdefault((arm, None if pd.isna(budget) else int(budget)), {})[int(seed)] = True
    return {key: dict(sorted(seeds.items())) for key, seeds in found.items()}


def missing_runs(planned: dict, *sides: tuple[str, int | None]) -> list[str]:
    """Return which runs some arms and budgets lack of those that any of them has, e.g. "synthetic seed 1"."""
    # A seed that only one of them was trained with is missing from the others, expected or not.
    seeds = sorted({seed for side in sides for seed in planned[side]})
    return [f"{side[0]} seed {seed}" for side in sides for seed in seeds if not planned[side].get(seed)]


def _judge(found: dict, claim: str) -> dict:
    name, no_effect, _ = EFFECTS[claim]
    low, high, seeds = found[f"{name}_low"], found[f"{name}_high"], found[f"{name}_seeds"]
    row = {key: found[key] for key in ("arm", "baseline", "budget", "seeds", "patients", "dropped")}
    row |= {
        "claim": claim,
        "effect": "difference of means" if claim == MEAN else "ratio of standard deviations",
    }
    row |= {"no_effect": no_effect, "estimate": found[name], "low": low, "high": high, "per_seed": seeds}
    row |= {key: found[key] if claim == MEAN else None for key in ("wilcoxon", "holm", "runs_low", "runs_high")}
    row = {key: None if isinstance(value, float) and _none(value) else value for key, value in row.items()}
    row["verdict"], row["reason"] = verdict(found, claim)
    return row


def _none(value: float | None) -> bool:
    # A column of numbers and None comes back from a data frame with NaN for None.
    return value is None or value != value


def verdict(found: dict, claim: str) -> tuple[str, str]:
    """Judge a comparison, a row as of `comparisons`, and say why; `claim` is `MEAN` or `SPREAD`."""
    name, no_effect, sign = EFFECTS[claim]
    if not found["seeds"]:
        return "undecided", f"Missing: {', '.join(found['missing'])}." if found["missing"] else "No seed in common."
    if _none(found[f"{name}_low"]):
        return "undecided", f"No interval: {found[f'{name}_reason']}."
    if found["missing"]:
        return "undecided", f"Missing: {', '.join(found['missing'])}; the numbers are from the other runs."
    low, high = (sign * (found[f"{name}{end}"] - no_effect) for end in ("_low", "_high"))
    low, high = min(low, high), max(low, high)
    seeds = [None if value is None else sign * (value - no_effect) for value in found[f"{name}_seeds"]]
    if low <= 0 <= high:
        return "undecided", INCLUDES
    outcome, way = ("supported", 1) if low > 0 else ("refuted", -1)
    against = [str(k) for k, value in zip(found["seeds"], seeds, strict=True) if value is None or way * value <= 0]
    if against:
        return (
            "undecided",
            f"The interval excludes no effect, but seed {' and '.join(against)} does not agree.",
        )
    if name == "difference" and not _none(found["runs_low"]) and found["runs_low"] <= 0 <= found["runs_high"]:
        return "undecided", RUNS
    if len(seeds) == 1:
        return (
            outcome,
            "The interval excludes no effect; with one seed the spread over label draws is unknown.",
        )
    return outcome, AGREES
