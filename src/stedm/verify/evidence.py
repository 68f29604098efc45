"""The tiers of evidence: what can be made again here, and each cell judged against its recorded value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from stedm.provenance import SUMS, read_record
from stedm.report.arms import has_budget
from stedm.report.claims import MEAN
from stedm.report.experiments import PREFIX, tabulate
from stedm.report.formats import known
from stedm.report.variants import Experiment
from stedm.runs import Run
from stedm.scores.metrics import check, read_scores
from stedm.verify import stored
from stedm.verify.records import DIFFERS, NOISE, NOT_HERE, NOT_RUN, REPRODUCED, Cell, Record
from stedm.verify.reference import OTHER, Reference, Triple
from stedm.verify.values import (
    FROM_SCORES_ALONE,
    OF_RUN,
    PAIRED,
    RUNS,
    TABLES,
    Parts,
    cells,
    row_name,
    run_values,
    tables_of,
)

NOT_STORED = "its {what} are not stored"
LACKING = "{runs} is not in results/runs; `{command}` makes it"
RETRAINED = ("headline", "checkpoints", "comparisons", "references", "claims")
"""Tables whose cells are compared with those of retrained runs."""


def verify(reference: Reference) -> list[Record]:
    """Return the records of a recorded result, all tiers."""
    return [
        *from_scores(reference),
        *from_stored(reference, "T1"),
        *from_stored(reference, "T2"),
        *retrained(reference),
        *retrained_experiments(reference),
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
            why[key] = _not_run(reference, lacking)
        else:
            there[key] = check(pd.concat(map(read_scores, files), ignore_index=True))
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
            records.append(_retrained_cell(reference, cell, expected, found, lacking))
    return _verdicts_within_noise(records)


def _retrained_cell(
    reference: Reference, cell: Cell, expected: Parts, found: dict[Cell, tuple[Parts, Any]], lacking: list[dict]
) -> Record:
    """Judge a cell of a table of retrained runs; `lacking` says in a record's words why runs of it are not there."""
    # A user's noise is not that of an interval's ends: of a retrained cell the value alone is compared.
    if lacking or cell not in found:
        more = lacking[0] if lacking else {"state": NOT_RUN, "why": "the runs make no such row"}
        return reference.record("T3", cell, expected[:1], None, **more)
    return reference.record("T3", cell, expected[:1], found[cell][0][:1])


def _not_run(reference: Reference, runs: list[str]) -> dict[str, str]:
    return {"state": NOT_RUN, "why": LACKING.format(runs=", ".join(runs), command=reference.command)}


def _belongs(key: Triple, side: tuple[str, int | None]) -> bool:
    arm, budget, _ = key
    return arm == side[0] and budget == (side[1] if has_budget(arm) else None)


def retrained_experiments(reference: Reference) -> list[Record]:
    """T3 of the experiments' tables: what they are with the runs of this clone in place of the recorded ones."""
    files = {run.inputs["segmenter"].id: run.folder / "scores.parquet" for _, run in reference.study.scored}
    names = {name for recorded in reference.experiments for variant in recorded.variants for name in variant.names}
    why = {name: _absent(reference, files, name) for name in sorted(names)}
    there = {name: read_scores(files[name]) for name, lacking in why.items() if not lacking}
    return [one for recorded in reference.experiments for one in _retrained_experiment(reference, recorded, there, why)]


def _absent(reference: Reference, files: dict[str, Path], segmenter: str) -> dict[str, str]:
    """Say in a record's words why this clone has no scores of a recorded segmenter; empty where it has them."""
    if segmenter not in files:
        return {"state": NOT_HERE, "why": OTHER.format(recorded=segmenter, now="no such run")}
    if not files[segmenter].is_file():
        return _not_run(reference, [files[segmenter].parent.name])
    return {}


def _retrained_experiment(
    reference: Reference, recorded: Experiment, there: dict[str, pd.DataFrame], why: dict[str, dict[str, str]]
) -> list[Record]:
    table = f"{PREFIX}{recorded.name}"
    config = reference.study.config.report
    some = any(name in there for variant in recorded.variants for name in variant.names)
    again = {"resamples": config.resamples, "seed": config.seed}
    found = cells(table, tabulate(recorded.scored(there), **again).raw) if some else {}
    records = []
    for row in reference.tables.get(table, pd.DataFrame()).to_dict("records"):
        own = str(row["runs"]).split(";")
        compared = recorded.reference((row["arm"], int(row["budget"]) if known(row["budget"]) else None))
        for cell, (expected, _) in cells(table, pd.DataFrame([row])).items():
            if cell.column in FROM_SCORES_ALONE:
                continue
            needed = [*own, *(compared[0].ids(compared[1]) if compared and cell.column in PAIRED else ())]
            lacking = [why[name] for name in sorted(needed) if why[name]]
            records.append(_retrained_cell(reference, cell, expected, found, lacking))
    return records


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
