"""Table cells as values: of whole tables, and of single runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from stedm.report.arms import budget_label
from stedm.report.experiments import PREFIX, tabulate
from stedm.report.formats import known
from stedm.report.tables import build_tables
from stedm.report.variants import PACKED, Experiment, alone, unpack
from stedm.scores import statistics
from stedm.scores.metrics import per_patient, pooled, read_scores
from stedm.study import Study
from stedm.verify.records import Cell, Value

RUNS = "runs"
"""Not a table of the report: the values of each segmenter alone, of which the tables are averages."""
PAIR = ("arm", "baseline", "budget")
FROM_SCORES_ALONE = ("wilcoxon", "holm", "runs_low", "runs_high")
"""Columns that a retraining is not held to: probabilities, and ends of an interval."""
PAIRED = ("difference", "ratio")
"""Columns that are of two arms or variants."""
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "headline": (("arm", "budget"), ("mean", "std", "worst", "dice", "pooled_iou")),
    "comparisons": (PAIR, (*PAIRED, *FROM_SCORES_ALONE)),
    "references": (PAIR, (*PAIRED, *FROM_SCORES_ALONE)),
    "checkpoints": (("arm", "budget"), ("best_mean", "best_std")),
    "labels": (PAIR, ("labels",)),
    "on-top": (PAIR, (*PAIRED, *FROM_SCORES_ALONE, "mean_verdict", "spread_verdict")),
    "distance": (PAIR, ("distance", "share")),
    "groups": (("arm", "budget", "group"), ("mean",)),
    "claims": ((*PAIR, "claim"), ("verdict",)),
}
"""Columns that name a row of a table's CSV, and columns that are verified with the ends of their interval."""
EXPERIMENT = (("arm", "budget"), ("mean", "std", *PAIRED, *FROM_SCORES_ALONE))
"""The same of the tables of experiments, whose rows have their settings in their names too."""
OF_RUN = ("mean", "std", "worst", "dice", "pooled_iou", "best_mean", "best_std")

Parts = tuple[Value, ...]
Key = tuple[str, int | None]
"""Arm and budget."""


def columns_of(table: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns that name a table's rows, and those that are verified."""
    return EXPERIMENT if table.startswith(PREFIX) else TABLES[table]


def recorded_experiments(study: Study, folder: Path) -> list[Experiment]:
    """Return a recorded result's experiments with their scores; empty where none are recorded."""
    path = folder / PACKED
    if not path.is_file():
        return []
    return unpack(read_scores(path), [made.described([]) for made in study.experiments])


def row_name(row: dict) -> str:
    """Name a row, e.g. "synthetic vs real, 1 label" or "real, 3 labels, seed 0"."""
    budget = int(row["budget"]) if known(row.get("budget")) else None
    against = f" vs {row['baseline']}" if "baseline" in row else ""
    seed = f", seed {row['seed']}" if "seed" in row else ""
    return f"{row['arm']}{against}, {budget_label(budget)} label{'s' * (budget != 1)}{seed}"


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Read the CSVs of a view or a recorded result."""
    paths = {name: folder / ("claims.csv" if name == "claims" else f"tables/{name}.csv") for name in TABLES}
    paths |= {path.stem: path for path in sorted((folder / "tables").glob(f"{PREFIX}*.csv"))}
    there = {name: path for name, path in paths.items() if path.is_file() and path.stat().st_size > 1}
    return {name: _read(path) for name, path in there.items()}


def _read(path: Path) -> pd.DataFrame:
    # Groups and settings are names, though some read like numbers.
    names = [name for name in pd.read_csv(path, nrows=0).columns if name == "group" or "." in name]
    return pd.read_csv(path, dtype=dict.fromkeys(names, str))


def tables_of(
    scores: pd.DataFrame, experiments: Sequence[Experiment] = (), *, resamples: int, seed: int
) -> dict[str, pd.DataFrame]:
    """Make the tables from scores, those of experiments from theirs."""
    again = {"resamples": resamples, "seed": seed}
    made, claims = build_tables(scores, besides=alone(experiments), **again)
    varied = [tabulate(one, **again) for one in experiments]
    found = {name: made[name].raw for name in TABLES if name in made}
    return {**found, "claims": claims, **{one.name: one.raw for one in varied}}


def cells(table: str, frame: pd.DataFrame) -> dict[Cell, tuple[Parts, tuple[Key, ...]]]:
    """Return a table's cells: of each its value with the ends of its interval, and which arms and budgets it is of."""
    found = {}
    names, columns = columns_of(table)
    settings = [name for name in frame.columns if "." in name]
    for row in frame.to_dict("records"):
        name = row_name({key: row[key] for key in names if key not in ("group", "claim")})
        name += "".join(f", {key.rpartition('.')[2]} {row[key]}" for key in settings)
        sides = [row["arm"], *([row["baseline"]] if "baseline" in names else [])]
        budget = int(row["budget"]) if known(row["budget"]) else None
        # What nothing is compared with has no difference.
        for column in columns if _compared(row) else columns[: columns.index("difference")]:
            parts = [row.get(column), *(row[f"{column}{end}"] for end in ("_low", "_high") if f"{column}{end}" in row)]
            shown = row["group"] if "group" in names else row["claim"] if "claim" in names else column
            values = tuple(None if not known(v) else v if isinstance(v, str) else float(v) for v in parts)
            found[Cell(table, name, str(shown))] = (values, tuple((arm, budget) for arm in sides))
    return found


def _compared(row: dict) -> bool:
    """Say whether a row of an experiment's table is compared with another; rows of other tables are what they are."""
    return "compared_seeds" not in row or (known(row["compared_seeds"]) and row["compared_seeds"] != [])


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
