"""The tiers of evidence: what can be made again here, and each cell judged against its recorded value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from stedm.config import load_config
from stedm.errors import UserError
from stedm.provenance import SUMS, read_record
from stedm.report.arms import has_budget, order
from stedm.report.claims import MEAN
from stedm.runs import Run
from stedm.scores.metrics import check
from stedm.study import Study
from stedm.verify import stored, tolerances
from stedm.verify.records import DIFFERS, NOISE, NOT_HERE, NOT_RUN, REPRODUCED, Cell, Record, judge
from stedm.verify.values import (
    FROM_SCORES_ALONE,
    OF_RUN,
    RUNS,
    TABLES,
    Parts,
    cells,
    read_tables,
    recorded_experiments,
    row_name,
    run_values,
    split_runs,
    tables_of,
)

NOT_STORED = "its {what} are not stored"
OTHER = "today's settings name another run; recorded is {recorded}, now it is {now}"
Triple = tuple[str, int | None, int]
RETRAINED = ("headline", "checkpoints", "comparisons", "references", "claims")
"""Tables whose cells are compared with those of retrained runs."""


class Reference:
    """A recorded result, and the runs of this clone that would make it again.

    Parameters
    ----------
    folder
        ``results/reference/<name>``.
    root
        The project's root.
    config
        The configuration; by default the recorded one.

    Raises
    ------
    UserError
        If the folder holds no recorded result, or a faulty one.
    """

    def __init__(self, folder: Path, root: Path = Path(), config: Path | None = None) -> None:
        self.folder, self.name = folder, folder.name
        for file in ("scores.parquet", "config.yaml", "claims.csv"):
            if not (folder / file).is_file():
                raise UserError(f"{folder / file}: missing; record the result with `stedm record`.")
        self.study = Study(load_config(config or folder / "config.yaml"), root)
        self.command = f"snakemake --cores all --configfile {config or folder / 'config.yaml'}"
        try:
            self.scores = check(pd.read_parquet(folder / "scores.parquet").astype({"budget": "Int64"}))
        except (ValueError, KeyError) as error:
            raise UserError(f"{folder / 'scores.parquet'}: {error} Record the result again.") from error
        self.tolerances = tolerances.read(folder / tolerances.FILE)
        self.tables = read_tables(folder)
        self.experiments = recorded_experiments(self.study, folder)

    @cached_property
    def runs(self) -> dict[Triple, dict]:
        """Recorded values of each segmenter, in the order of the tables."""
        values = {key: run_values(rows) for key, rows in split_runs(self.scores).items()}
        arms = order({arm for arm, _, _ in values})
        return dict(sorted(values.items(), key=lambda item: _place(item[0], arms)))

    @cached_property
    def segmenters(self) -> dict[Triple, list[str]]:
        """Recorded ids of the segmenters, several where folds are pooled."""
        return {key: sorted(rows["segmenter"].unique()) for key, rows in split_runs(self.scores).items()}

    @cached_property
    def planned(self) -> dict[Triple, list[Run]]:
        """The counts of the segmenters of today's configuration."""
        found: dict[Triple, list[Run]] = {}
        for run in self.study.scores:
            found.setdefault((run.facts["arm"], run.facts["budget"], run.facts["seed"]), []).append(run)
        return found

    def other(self, key: Triple) -> dict[str, str]:
        """Say in a record's words if today's settings name other segmenters than the recorded ones; else empty."""
        now = sorted(run.inputs["segmenter"].id for run in self.planned.get(key, []))
        if now == self.segmenters[key]:
            return {}
        recorded, today = ", ".join(self.segmenters[key]), ", ".join(now) or "no such run"
        return {"state": NOT_HERE, "why": OTHER.format(recorded=recorded, now=today)}

    def record(self, tier: str, cell: Cell, expected: Parts, found: Parts | None, **more: object) -> Record:
        """Judge a cell; without found values the state is given in `more`."""
        table, column = cell.table, "verdict" if cell.table == "claims" else cell.column
        tolerance = self.tolerances.get((tier, table, "mean" if table == "groups" else column))
        if found is not None and "state" not in more:
            if tolerance is None:
                path = self.folder / tolerances.FILE
                raise UserError(f"{path}: no tolerance for {tier}, {table}, {column}; record the result again.")
            more["state"] = judge(expected, found, tolerance)
        source = {RUNS: "scores.parquet", "claims": "claims.csv"}.get(table, f"tables/{table}.csv")
        return Record(
            experiment=self.name,
            tier=tier,
            cell=cell,
            expected=expected[0],
            source=(self.folder / source).as_posix(),
            found=None if found is None else found[0],
            tolerance=tolerance,
            **more,
        )


def verify(reference: Reference) -> list[Record]:
    """Return the records of a recorded result, all tiers."""
    return [
        *from_scores(reference),
        *from_stored(reference, "T1"),
        *from_stored(reference, "T2"),
        *retrained(reference),
    ]


def from_scores(reference: Reference) -> list[Record]:
    """T0: the tables from the recorded scores."""
    config = reference.study.config.report
    made = tables_of(reference.scores, reference.experiments, resamples=config.resamples, seed=config.seed)
    records = []
    for table in dict.fromkeys([*TABLES, *made, *reference.tables]):
        there = cells(table, made[table]) if table in made else {}
        recorded = cells(table, reference.tables[table]) if table in reference.tables else {}
        for cell, (expected, _) in recorded.items():
            found = there.get(cell)
            if found is None:
                why = "the scores hold no such row"
                records.append(reference.record("T0", cell, expected, None, state=DIFFERS, why=why))
            else:
                records.append(reference.record("T0", cell, expected, found[0]))
        for cell in [cell for cell in there if cell not in recorded]:
            why = "the scores have it, the recorded table does not"
            records.append(reference.record("T0", cell, (None,), there[cell][0], state=DIFFERS, why=why))
    return records


def from_stored(reference: Reference, tier: str) -> list[Record]:
    """T1 and T2: scores from stored predictions, and from predictions with stored weights."""
    tiles, records = reference.study.tiles.folder, []
    cut = read_record(tiles) if (tiles / SUMS).is_file() else None
    what, names = ("predictions", (stored.PREDICTIONS,)) if tier == "T1" else ("weights", stored.WEIGHTS)
    for key, expected in reference.runs.items():
        folder = reference.folder / stored.FOLDER / reference.segmenters[key][0]
        more: dict = {}
        found = None
        if not folder.is_dir():
            more = {"state": NOT_HERE, "why": NOT_STORED.format(what=what)}
        elif other := reference.other(key):
            more = other
        elif cut is None:
            more = {"state": NOT_RUN, "why": f"the tiles are not cut; `{reference.command} -- cut` cuts them"}
        elif not cut.get("comparable", True):
            more = {"state": NOT_HERE, "why": "slides are drawn differently on this machine"}
        else:
            damaged = stored.changed(folder, names)
            if damaged:
                more = {"state": DIFFERS, "why": f"{', '.join(damaged)}: not the recorded file, by its SHA-256"}
            run = reference.planned[key][0].inputs["segmenter"]
            found = _made_again(reference, run, folder, tier, damaged=bool(damaged))
        for column in OF_RUN:
            cell = Cell(RUNS, _name(key), column)
            value = None if found is None else (found[column],)
            records.append(reference.record(tier, cell, (expected[column],), value, **more))
    return records


def _made_again(reference: Reference, run: Run, folder: Path, tier: str, *, damaged: bool) -> dict | None:
    make: Callable[[], dict] = {
        "T1": lambda: stored.recount(reference.study, run, folder / stored.PREDICTIONS),
        "T2": lambda: stored.predict_again(reference.study, run, folder),
    }[tier]
    if not damaged:
        return make()
    try:
        return make()
    except Exception:  # A damaged file may fail in any way that its reader knows; it differs whatever it says.
        return None


def _place(key: Triple, arms: list[str]) -> tuple:
    arm, budget, seed = key
    return budget is None, budget or 0, arms.index(arm), seed


def _name(key: Triple) -> str:
    arm, budget, seed = key
    return row_name({"arm": arm, "budget": budget, "seed": seed})


def retrained(reference: Reference) -> list[Record]:
    """T3: the runs of this clone, one by one, and the tables that all runs of a row make."""
    records, there, why = [], {}, {}
    for key, expected in reference.runs.items():
        files = [run.folder / "scores.parquet" for run in reference.planned.get(key, [])]
        lacking = [path.parent.name for path in files if not path.is_file()]
        if other := reference.other(key):
            why[key] = other
        elif lacking:
            remedy = f"`{reference.command}` makes it"
            why[key] = {"state": NOT_RUN, "why": f"{', '.join(lacking)} is not in results/runs; {remedy}"}
        else:
            frames = [pd.read_parquet(path).astype({"budget": "Int64"}) for path in files]
            there[key] = check(pd.concat(frames, ignore_index=True))
        found = run_values(there[key]) if key in there else None
        for column in OF_RUN:
            cell = Cell(RUNS, _name(key), column)
            value = None if found is None else (found[column],)
            records.append(reference.record("T3", cell, (expected[column],), value, **why.get(key, {})))
    return [*records, *_retrained_tables(reference, there, why)]


def _retrained_tables(reference: Reference, there: dict, why: dict) -> list[Record]:
    config = reference.study.config.report
    again = {"resamples": config.resamples, "seed": config.seed}
    made = tables_of(pd.concat(there.values(), ignore_index=True), **again) if there else {}
    records: list[Record] = []
    for table in RETRAINED:
        found = cells(table, made[table]) if table in made else {}
        for cell, (expected, sides) in cells(table, reference.tables.get(table, pd.DataFrame())).items():
            if cell.column in FROM_SCORES_ALONE:
                continue
            needed = [k for k in reference.runs if any(_belongs(k, side) for side in sides)]
            lacking = [why[key] for key in needed if key in why]
            # A user's noise is not that of an interval's ends: of a retrained cell the value alone is compared.
            if lacking or cell not in found:
                more = lacking[0] if lacking else {"state": NOT_RUN, "why": "the runs make no such row"}
                records.append(reference.record("T3", cell, expected[:1], None, **more))
            else:
                records.append(reference.record("T3", cell, expected[:1], found[cell][0][:1]))
    return _verdicts_within_noise(records)


def _belongs(key: Triple, side: tuple[str, int | None]) -> bool:
    arm, budget, _ = key
    return arm == side[0] and budget == (side[1] if has_budget(arm) else None)


def _verdicts_within_noise(records: list[Record]) -> list[Record]:
    """Let a verdict that changed be within noise where the number behind it is."""
    numbers = {(r.cell.row, r.cell.column): r.state for r in records if r.cell.table == "comparisons"}
    changed = []
    for record in records:
        if record.cell.table == "claims" and record.state == DIFFERS:
            number = "difference" if record.cell.column == MEAN else "ratio"
            if numbers.get((record.cell.row, number)) in (REPRODUCED, NOISE):
                record = replace(record, state=NOISE, why=f"the {number} behind it is within noise")
        changed.append(record)
    return changed
