"""The tables of a report: what each holds, as numbers and as people read them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from stedm.report.arms import budget_label, order
from stedm.report.claims import claims
from stedm.report.claims import comparisons as compared
from stedm.report.claims import runs as runs_of
from stedm.report.formats import DASH, Table, ends, interval, known, number, p_value, seeds
from stedm.report.on_top import distance, on_top
from stedm.report.saved import labels_saved
from stedm.report.variants import Variant, joined
from stedm.scores.metrics import check, per_group, per_patient, pooled
from stedm.scores.statistics import RESAMPLES, describe, mean, per_seed, rows_of, table

ARM, LABELS = "Arm", "Labels per class"
Planned = dict[tuple[str, int | None], dict[int, bool]]


def ordered(planned: Planned) -> list[tuple[str, int | None]]:
    """Sort arms and budgets as they stand in every table."""
    rank = {arm: place for place, arm in enumerate(order({arm for arm, _ in planned}))}
    # Oracles have every label: they close the list, as the most labels do.
    return sorted(planned, key=lambda key: (key[1] is None, key[1] or 0, rank[key[0]]))


def each_seed(row: dict) -> str:
    """Spell the mean of each seed of a row, and which seeds are missing."""
    missing = ", ".join(map(str, row["missing_seeds"]))
    return seeds(row["mean_seeds"]) + (f" (missing: {missing})" if missing else "")


def _cells(frame: pd.DataFrame, arm: str, budget: int | None, checkpoint: str = "last") -> pd.DataFrame:
    rows = rows_of(frame, arm, budget)
    return rows[rows["checkpoint"] == checkpoint]


def _average(values: pd.Series) -> float | None:
    there = values.dropna()
    return float(there.astype("float64").mean()) if len(there) else None


def folds_of(runs: list[dict]) -> int:
    """Return over how many folds the scores of a report's runs are pooled."""
    return 1 + max((run.get("fold", 0) for run in runs), default=0)


def build_tables(
    scores: pd.DataFrame,
    *,
    runs: list[dict] | None = None,
    expected: list[dict] | None = None,
    besides: Sequence[Variant] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[dict[str, Table], pd.DataFrame]:
    """Return a report's tables by name, and its claims.

    The arms of `besides` enter no table but those of `stedm.report.on_top`; other parameters and errors are those of
    `stedm.report.build_report`.
    """
    scores = check(scores)
    cohorts = sorted(scores["cohort"].unique())
    if len(cohorts) > 1:
        raise ValueError(f"A report is of one cohort; the scores hold {', '.join(cohorts)}.")
    again = {"resamples": resamples, "seed": seed}
    patients = per_patient(scores)
    planned = runs_of(patients, expected)
    pairs = compared(patients, expected, **again)
    made = {
        "headline": headline(scores, patients, planned, folds=folds_of(runs or []), **again),
        "comparisons": comparisons(pairs, "claim"),
        "references": comparisons(pairs, "reference"),
        "checkpoints": checkpoints(patients, planned, runs or [], **again),
        "groups": groups(scores, patients, planned),
        "patients": per_patient_table(patients, planned),
    }
    every = joined(patients, planned, besides)
    more = labels_saved(patients, planned, **again), on_top(*every, **again), distance(*every, **again)
    made |= {one.name: one for one in more if one is not None}
    return made, claims(pairs)


def headline(
    scores: pd.DataFrame,
    patients: pd.DataFrame,
    planned: Planned,
    *,
    folds: int = 1,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Table:
    """One row per arm and budget on `last`; a run that is expected and not there is listed, never a number.

    The scores of several `folds` are one table: each patient was tested in one of them.
    """
    rows = []
    every_pixel = pooled(scores)
    for arm, budget in ordered(planned):
        row = {"arm": arm, "budget": budget}
        row |= {"missing_seeds": [k for k, there in planned[arm, budget].items() if not there]}
        row |= describe(table(patients, arm, budget, "last"), resamples=resamples, seed=seed)
        dice = table(patients, arm, budget, "last", "dice").to_numpy()
        dice = dice[(dice == dice).any(axis=1)]
        row["dice"] = float(mean(dice)) if len(dice) else None
        row["dice_seeds"] = per_seed(dice, mean)
        row["pooled_iou"] = _average(_cells(every_pixel, arm, budget)["iou"])
        rows.append(row)
    raw = pd.DataFrame(rows).astype({"budget": "Int64"}) if rows else pd.DataFrame()
    shown = pd.DataFrame(
        {
            ARM: row["arm"],
            LABELS: budget_label(row["budget"]),
            "Mean IoU [95 %]": interval(row, "mean") if row["seeds"] else "missing",
            "Mean, each seed": each_seed(row),
            "SD between patients [95 %]": interval(row, "std"),
            "Worst decile [95 %]": interval(row, "worst"),
            "Dice": number(row["dice"]),
            "Pooled IoU": number(row["pooled_iou"]),
            "Patients": str(row["patients"]),
            "Null": str(row["nulls"]),
        }
        for row in rows
    )
    keys = {
        LABELS: [10**9 if row["budget"] is None else row["budget"] for row in rows],
        **{
            header: [row[name] for row in rows]
            for header, name in (
                ("Mean IoU [95 %]", "mean"),
                ("SD between patients [95 %]", "std"),
                ("Worst decile [95 %]", "worst"),
                ("Dice", "dice"),
                ("Pooled IoU", "pooled_iou"),
                ("Patients", "patients"),
                ("Null", "nulls"),
            )
        },
        "Mean, each seed": [min((v for v in row["mean_seeds"] if known(v)), default=None) for row in rows],
    }
    caption = (
        "Foreground IoU on the test patients, last checkpoint. Mean over patients, standard deviation (SD) between "
        "patients (averaged over seeds) and mean of the worst tenth of the patients, each with a 95 % interval over "
        "patients; the mean of each seed beside it. The CSV names the worst tenth, the worst first; their interval "
        "cannot reach below the worst patient seen. Null: patient-seed cells with nothing to find and nothing found, "
        "or not scored."
    )
    if folds > 1:
        caption += f" Pooled over {folds} folds: each patient is scored by segmenters of the fold that tests it."
    return Table("headline", caption, raw, shown, keys)


def checkpoints(
    patients: pd.DataFrame, planned: Planned, runs: list[dict], *, resamples: int = RESAMPLES, seed: int = 0
) -> Table:
    """`best` (lowest validation loss) beside `last`, with the number of labelled slides that choosing it took."""
    labels: dict[tuple[str, int | None], set[int]] = {}
    for run in runs:
        if run.get("stage") == "segmenter" and known(run.get("validation_labels")):
            key = (run.get("arm"), int(run["budget"]) if known(run.get("budget")) else None)
            labels.setdefault(key, set()).add(int(run["validation_labels"]))
    rows = []
    for arm, budget in ordered(planned):
        row = {"arm": arm, "budget": budget, "validation_labels": sorted(labels.get((arm, budget), set()))}
        for checkpoint in ("last", "best"):
            found = describe(table(patients, arm, budget, checkpoint), resamples=resamples, seed=seed)
            row |= {f"{checkpoint}_{name}": value for name, value in found.items()}
        rows.append(row)
    raw = pd.DataFrame(rows).astype({"budget": "Int64"}) if rows else pd.DataFrame()
    shown = pd.DataFrame(
        {
            ARM: row["arm"],
            LABELS: budget_label(row["budget"]),
            "Mean IoU, last": interval(row, "last_mean"),
            "Mean IoU, best": interval(row, "best_mean"),
            "SD, last": interval(row, "last_std"),
            "SD, best": interval(row, "best_std"),
            "Validation labels": " or ".join(map(str, row["validation_labels"])) or DASH,
        }
        for row in rows
    )
    headers = {
        "Mean IoU, last": "last_mean",
        "Mean IoU, best": "best_mean",
        "SD, last": "last_std",
        "SD, best": "best_std",
    }
    keys = {header: [row[name] for row in rows] for header, name in headers.items()}
    keys[LABELS] = [10**9 if row["budget"] is None else row["budget"] for row in rows]
    caption = (
        "The checkpoint with the lowest validation loss (best) beside the last one. Choosing it takes labelled "
        "validation slides, counted in the last column, beyond the label budget."
    )
    return Table("checkpoints", caption, raw, shown, keys)


def comparisons(pairs: pd.DataFrame, kind: str) -> Table:
    """Format the rows of one kind ("claim" or "reference") of `stedm.report.claims.comparisons`."""
    pairs = pairs[pairs["kind"] == kind] if len(pairs) else pairs
    rows = pairs.to_dict("records")
    shown = pd.DataFrame(
        {
            "Arm": row["arm"],
            "Baseline": row["baseline"],
            LABELS: budget_label(row["budget"]),
            "Difference of mean IoU [95 %]": interval(row, "difference", sign=True),
            "With runs [95 %]": ends(row, "runs", sign=True),
            "Each seed": seeds(row["difference_seeds"], sign=True),
            "Wilcoxon p": p_value(row["wilcoxon"]),
            "Holm p": p_value(row["holm"]),
            "Ratio of SDs [95 %]": interval(row, "ratio"),
            "Ratio, each seed": seeds(row["ratio_seeds"]),
            "Patients": str(row["patients"]),
            "Left out": str(row["dropped"]),
            "Missing": ", ".join(row["missing"]) or DASH,
        }
        for row in rows
    )
    caption = (
        "Arms compared on the same patients and seeds, last checkpoint: difference of the mean IoU, and ratio of the "
        "standard deviations (SD) between patients (below 1: the arm varies less), each with a paired 95 % interval "
        "over patients. With runs: the difference's interval with the spread over runs of training added. Holm p: the "
        "Wilcoxon p corrected for all comparisons of this table; the intervals are of one comparison each. Left out: "
        "patient-seed cells undefined in either arm."
    )
    if kind == "reference":
        caption = "Comparisons that are no claim of the paper, for reference. " + caption
    headers = {
        "Difference of mean IoU [95 %]": "difference",
        "With runs [95 %]": "difference",
        "Wilcoxon p": "wilcoxon",
        "Holm p": "holm",
        "Ratio of SDs [95 %]": "ratio",
        "Patients": "patients",
        "Left out": "dropped",
        LABELS: "budget",
    }
    keys = {header: [row[name] for row in rows] for header, name in headers.items()}
    return Table("comparisons" if kind == "claim" else "references", caption, pairs, shown, keys)


def per_patient_table(patients: pd.DataFrame, planned: Planned) -> Table:
    """Each test patient's IoU in each arm, averaged over seeds; the CSV has every seed and checkpoint."""
    names = patients[["patient", "group"]].drop_duplicates().sort_values(["group", "patient"])
    shown = names.rename(columns={"patient": "Patient", "group": "Group"}).astype(str).reset_index(drop=True)
    keys: dict[str, list] = {}
    for arm, budget in ordered(planned):
        average = table(patients, arm, budget, "last").mean(axis=1).reindex(names["patient"])
        header = f"{arm}, {budget_label(budget)}"
        shown[header] = [number(value) for value in average]
        keys[header] = [value if known(value) else None for value in average]
    caption = (
        "Foreground IoU of each test patient, last checkpoint, averaged over seeds. Columns: arm, labels per class. "
        "A dash: nothing to find and nothing found, or not scored."
    )
    return Table("patients", caption, patients, shown, keys)


def groups(scores: pd.DataFrame, patients: pd.DataFrame, planned: Planned) -> Table:
    """Mean patient IoU within each group of patients (class, subtype); the CSV has the pooled IoU too."""
    pixels = per_group(scores)
    names = sorted(patients["group"].dropna().astype(str).unique())
    rows, shown = [], []
    keys: dict[str, list] = {name: [] for name in names}
    for arm, budget in ordered(planned):
        line = {ARM: arm, LABELS: budget_label(budget)}
        own, all_pixels = _cells(patients, arm, budget), _cells(pixels, arm, budget)
        for name in names:
            part = own[own["group"].astype(str) == name]
            per_one = part.groupby("patient")["iou"].mean().dropna().astype("float64")
            row = {"arm": arm, "budget": budget, "group": name, "patients": len(per_one)}
            row["mean"] = float(per_one.mean()) if len(per_one) else None
            row["std"] = float(per_one.std(ddof=1)) if len(per_one) > 1 else None
            row["pooled_iou"] = _average(all_pixels.loc[all_pixels["group"].astype(str) == name, "iou"])
            rows.append(row)
            line[name] = f"{number(row['mean'])} (n={row['patients']})" if row["patients"] else DASH
            keys[name].append(row["mean"])
        shown.append(line)
    raw = pd.DataFrame(rows).astype({"budget": "Int64"}) if rows else pd.DataFrame()
    caption = (
        "Mean patient IoU within each group of patients, last checkpoint, averaged over seeds; n patients with a value."
    )
    keys[LABELS] = [10**9 if budget is None else budget for _, budget in ordered(planned)]
    return Table("groups", caption, raw, pd.DataFrame(shown), keys)
