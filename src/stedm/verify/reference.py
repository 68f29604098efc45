"""A recorded result, and the runs of this clone that would make it again."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from stedm.config import load_config
from stedm.errors import UserError
from stedm.report.arms import order
from stedm.runs import Run
from stedm.scores.metrics import check, read_scores
from stedm.study import Study
from stedm.verify import tolerances
from stedm.verify.records import NOT_HERE, Cell, Record, judge
from stedm.verify.values import RUNS, Parts, read_tables, recorded_experiments, run_values, split_runs

OTHER = "today's settings name another run; recorded is {recorded}, now it is {now}"
Triple = tuple[str, int | None, int]


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
            self.scores = check(read_scores(folder / "scores.parquet"))
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


def _place(key: Triple, arms: list[str]) -> tuple:
    arm, budget, seed = key
    return budget is None, budget or 0, arms.index(arm), seed
