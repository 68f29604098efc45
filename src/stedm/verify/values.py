"""Table cells as values: of whole tables, and of single runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from stedm.report.arms import budget_label
from stedm.report.formats import known
from stedm.report.tables import build_tables
from stedm.scores import statistics
from stedm.scores.metrics import per_patient, pooled
from stedm.verify.records import Cell, Value

RUNS = "runs"
"""Not a table of the report: the values of each segmenter alone, of which the tables are averages."""
PAIR = ("arm", "baseline", "budget")
FROM_SCORES_ALONE = ("wilcoxon", "holm", "runs_low", "runs_high")
"""Columns that a retraining is not held to: probabilities, and ends of an interval."""
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "headline": (("arm", "budget"), ("mean", "std", "worst", "dice", "pooled_iou")),
    "comparisons": (PAIR, ("difference", "ratio", *FROM_SCORES_ALONE)),
    "references": (PAIR, ("difference", "ratio", *FROM_SCORES_ALONE)),
    "checkpoints": (("arm", "budget"), ("best_mean", "best_std")),
    "groups": (("arm", "budget", "group"), ("mean",)),
    "claims": ((*PAIR, "claim"), ("verdict",)),
}
"""Columns that name a row of a table's CSV, and columns that are verified with the ends of their interval."""
OF_RUN = ("mean", "std", "worst", "dice", "pooled_iou", "best_mean", "best_std")

Parts = tuple[Value, ...]
Key = tuple[str, int | None]
"""Arm and budget."""


def row_name(row: dict) -> str:
    """Name a row, e.g. "synthetic vs real, 1 label" or "real, 3 labels, seed 0"."""
    budget = int(row["budget"]) if known(row.get("budget")) else None
    against = f" vs {row['baseline']}" if "baseline" in row else ""
    seed = f", seed {row['seed']}" if "seed" in row else ""
    return f"{row['arm']}{against}, {budget_label(budget)} label{'s' * (budget != 1)}{seed}"


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Read the CSVs of a view or a recorded result."""
    paths = {name: folder / ("claims.csv" if name == "claims" else f"tables/{name}.csv") for name in TABLES}
    return {name: pd.read_csv(path, dtype={"group": str}) for name, path in paths.items() if path.stat().st_size > 1}


def tables_of(scores: pd.DataFrame, *, resamples: int, seed: int) -> dict[str, pd.DataFrame]:
    """Make the tables from scores."""
    made, claims = build_tables(scores, resamples=resamples, seed=seed)
    return {name: made[name].raw if name in made else claims for name in TABLES}


def cells(table: str, frame: pd.DataFrame) -> dict[Cell, tuple[Parts, tuple[Key, ...]]]:
    """Return a table's cells: of each its value with the ends of its interval, and which arms and budgets it is of."""
    found = {}
    names, columns = TABLES[table]
    for row in frame.to_dict("records"):
        name = row_name({key: row[key] for key in names if key not in ("group", "claim")})
        sides = [row["arm"], *([row["baseline"]] if "baseline" in names else [])]
        budget = int(row["budget"]) if known(row["budget"]) else None
        for column in columns:
            parts = [row.get(column), *(row[f"{column}{end}"] for end in ("_low", "_high") if f"{column}{end}" in row)]
            shown = row["group"] if "group" in names else row["claim"] if "claim" in names else column
            values = tuple(None if not known(v) else v if isinstance(v, str) else float(v) for v in parts)
            found[Cell(table, name, str(shown))] = (values, tuple((arm, budget) for arm in sides))
    return found


def run_values(scores: pd.DataFrame) -> dict[str, Value]:
    """Return the values of one segmenter, from its rows of the scores: `OF_RUN`."""
    patients, pixels = per_patient(scores), pooled(scores).set_index("checkpoint")["iou"]
    found: dict[str, Value] = {}
    for checkpoint, prefix, names in (("last", "", ("mean", "std", "worst")), ("best", "best_", ("mean", "std"))):
        rows = patients[patients["checkpoint"] == checkpoint]
        iou = rows["iou"].dropna().to_numpy(dtype=float)[:, None]
        for name in names:
            value = float(getattr(statistics, name)(iou)) if len(iou) else None
            found[prefix + name] = value if known(value) else None
        if checkpoint == "last":
            dice = rows["dice"].dropna()
            found["dice"] = float(dice.astype(float).mean()) if len(dice) else None
            found["pooled_iou"] = float(pixels["last"]) if known(pixels.get("last")) else None
    return {name: found[name] for name in OF_RUN}


def split_runs(scores: pd.DataFrame) -> dict[tuple[str, int | None, int], pd.DataFrame]:
    """Return the rows of each segmenter, by arm, budget and seed."""
    groups = scores.groupby(["arm", "budget", "seed"], dropna=False, sort=True)
    return {(arm, int(k) if known(k) else None, int(seed)): rows for (arm, k, seed), rows in groups}
