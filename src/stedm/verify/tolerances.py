"""How far a number may be from the recorded one, and why: written by `stedm record`, read by `stedm verify`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from stedm.errors import UserError
from stedm.report.experiments import PREFIX
from stedm.report.formats import known
from stedm.verify.records import Tolerance
from stedm.verify.values import (
    EXPERIMENT,
    FROM_SCORES_ALONE,
    OF_RUN,
    PAIRED,
    RUNS,
    TABLES,
    columns_of,
    run_values,
    split_runs,
)

FILE = "tolerances.csv"
COLUMNS = ("tier", "table", "column", "equal", "noise", "reason")
SAME_SUMS = 1e-9
AS_PRINTED = 0.0005
FACTOR = 10
"""By how much the tolerance for stored weights exceeds what another arithmetic changed."""

RETRAINED = {"headline": TABLES["headline"][1], "checkpoints": TABLES["checkpoints"][1]}
PAIRS = ("comparisons", "references")


def tolerances(scores: pd.DataFrame, tables: dict[str, pd.DataFrame], arithmetic: dict[str, float]) -> pd.DataFrame:
    """Return the tolerances of a result, one row a tier, table and column.

    Parameters
    ----------
    scores
        The scores.
    tables
        The tables made from them, by name.
    arithmetic
        How far each of `OF_RUN` moved, at most, when stored weights predicted in float64; empty where none are stored.
    """
    rows = []
    exact = "The same scores give the same table; sums in another order differ in the last bits."
    for table in dict.fromkeys([*TABLES, *tables]):
        rows += [("T0", table, column, SAME_SUMS, None, exact) for column in columns_of(table)[1]]
    counts = "The same predictions give the same counts; sums in another order differ in the last bits."
    rows += [("T1", RUNS, column, SAME_SUMS, None, counts) for column in OF_RUN]
    for column, moved in arithmetic.items():
        reason = (
            f"{FACTOR} times what predicting in float64 changed at most ({moved:.1e}): processors round differently."
        )
        rows.append(("T2", RUNS, column, SAME_SUMS, max(FACTOR * moved, SAME_SUMS), reason))
    rows += _of_seeds(scores, tables)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _of_seeds(scores: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> list[tuple]:
    runs: dict[tuple, list[dict]] = {}
    for (arm, budget, _), rows in split_runs(scores).items():
        runs.setdefault((arm, budget), []).append(run_values(rows))
    number = max((len(values) for values in runs.values()), default=1)
    seeds = {name: [[value[name] for value in values] for values in runs.values()] for name in OF_RUN}
    found = [_seed_row(RUNS, name, seeds[name], 1) for name in OF_RUN]
    found += [_seed_row(table, name, seeds[name], number) for table, names in RETRAINED.items() for name in names]
    for table in PAIRS:
        for name in PAIRED:
            frame = tables.get(table)
            values = [] if frame is None or not len(frame) else [as_list(v) for v in frame[f"{name}_seeds"]]
            found.append(_seed_row(table, name, values, number))
    for table in [name for name in tables if name.startswith(PREFIX)]:
        for name in [name for name in EXPERIMENT[1] if name not in FROM_SCORES_ALONE]:
            values = [as_list(v) for v in tables[table][f"{name}_seeds"]]
            found.append(_seed_row(table, name, values, max((len(row) for row in values), default=1)))
    reason = "Another verdict is within noise where difference and ratio are."
    return [*found, ("T3", "claims", "verdict", AS_PRINTED, None, reason)]


def as_list(value: object) -> list[float | None]:
    """Return the values per seed of a table's cell, as made or as its CSV holds them."""
    if isinstance(value, list):
        return value
    return [float(part) if part else None for part in str(value).split(";")] if known(value) else []


def _seed_row(table: str, column: str, values: list[list[float | None]], averaged: int) -> tuple:
    """Tolerance of the difference of two trainings that differ in their seeds, each averaged over so many seeds."""
    kept = [np.array([v for v in row if known(v)], dtype=float) for row in values]
    kept = [row for row in kept if len(row) > 1]
    freedom = sum(len(row) - 1 for row in kept)
    if not freedom:
        return ("T3", table, column, AS_PRINTED, None, "One seed: the spread over seeds is unknown.")
    spread = math.sqrt(sum(((row - row.mean()) ** 2).sum() for row in kept) / freedom)
    noise = stats.t.ppf(0.975, freedom) * spread * math.sqrt(2 / averaged)
    reason = (
        f"Two trainings with other seeds differ by less 19 times of 20: Student's t ({freedom} degrees of freedom) × "
        f"{spread:.3f}, the standard deviation over seeds pooled over {len(kept)} rows, × √(2/{averaged}). "
        "Reproduced: equal as printed."
    )
    return ("T3", table, column, AS_PRINTED, noise, reason)


def write(path: Path, rows: pd.DataFrame) -> None:
    """Write tolerances, sorted by tier, with the digits that matter."""
    rows.sort_values("tier", kind="stable").to_csv(path, index=False, float_format="%.4g", lineterminator="\n")


def read(path: Path) -> dict[tuple[str, str, str], Tolerance]:
    """Read a recorded ``tolerances.csv``; keys are tier, table and column.

    Raises
    ------
    UserError
        If it is missing or malformed.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing; record the result again with `stedm record`.")
    try:
        frame = pd.read_csv(path).astype({"equal": float, "noise": float})
        rows = frame[list(COLUMNS)].itertuples(index=False)
        found = {(tier, table, column): _tolerance(*rest) for tier, table, column, *rest in rows}
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: not a table of tolerances ({error}); record the result again.") from error
    return found


def _tolerance(equal: float, noise: float, reason: str) -> Tolerance:
    if not equal >= 0 or noise < 0:
        raise ValueError(f"equal {equal}, noise {noise}: neither may be negative")
    return Tolerance(equal, float(noise) if known(noise) else None, reason)
