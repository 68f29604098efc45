"""What an experiment's table compares: variants of the models, each with its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from stedm.report.arms import has_budget
from stedm.report.claims import runs
from stedm.scores.metrics import check, per_patient
from stedm.scores.statistics import rows_of

PACKED = "experiments.parquet"
"""File with the scores of all experiments of a view or a recorded result."""

Key = tuple[str, int | None]
"""Arm and budget."""


@dataclass(frozen=True)
class Variant:
    """One combination of an experiment's values, and its scores.

    Attributes
    ----------
    chosen
        Dotted keys and their values as people read them.
    scores
        As `stedm.scores.metrics` reads them.
    expected
        What should be scored: `arm`, `budget` (None where the arm has all labels), `seed` and the scores' `id`.
    """

    chosen: dict[str, str]
    scores: pd.DataFrame
    expected: list[dict[str, Any]]

    @cached_property
    def patients(self) -> pd.DataFrame:
        """Counts, IoU and Dice of each patient and run."""
        return per_patient(check(self.scores))

    @cached_property
    def planned(self) -> dict[Key, dict[int, bool]]:
        """Arm and budget to seeds, each True if scored."""
        return runs(self.patients, self.expected)

    @property
    def names(self) -> list[str]:
        """The ids of all its runs."""
        return [run["id"] for run in self.expected]

    def ids(self, key: Key) -> frozenset[str]:
        """Return the runs of an arm and budget."""
        return frozenset(run["id"] for run in self.expected if (run["arm"], run["budget"]) == key)


@dataclass(frozen=True)
class Experiment:
    """What a table of variants compares, and what it asks."""

    name: str
    title: str
    question: str
    arms: list[str]
    variants: list[Variant]
    """The first is what others are compared with; where it is alone, arms are compared with the first arm."""
    invalid: list[str]
    """Combinations that mean nothing in this cohort."""

    @cached_property
    def axes(self) -> list[str]:
        """Dotted keys of which more than one value was run."""
        keys = self.variants[0].chosen
        return [key for key in keys if len({variant.chosen[key] for variant in self.variants}) > 1]

    @property
    def fixed(self) -> dict[str, str]:
        """Values that all variants share."""
        return {key: value for key, value in self.variants[0].chosen.items() if key not in self.axes}

    def scored(self, scores: dict[str, pd.DataFrame]) -> Experiment:
        """Return the same with other scores, by the ids of runs; a run that has none is missing."""
        variants = []
        for one in self.variants:
            there = [scores[name] for name in dict.fromkeys(one.names) if name in scores]
            rows = pd.concat(there, ignore_index=True) if there else one.scores.iloc[:0]
            variants.append(replace(one, scores=rows))
        return replace(self, variants=variants)

    def reference(self, key: Key) -> tuple[Variant, Key] | None:
        """Return what an arm and budget of any variant is compared with, if that is planned."""
        first, budget = self.variants[0], key[1]
        if len(self.variants) > 1:
            other = key
        else:
            smallest = min((k for _, k in first.planned if k is not None), default=None)
            other = self.arms[0], (smallest if budget is None else budget) if has_budget(self.arms[0]) else None
        return (first, other) if other in first.planned else None


def alone(experiments: Sequence[Experiment]) -> list[Variant]:
    """Return the variants that vary nothing: those of experiments without axes, which compare arms."""
    return [one.variants[0] for one in experiments if not one.variants[0].chosen]


def joined(
    patients: pd.DataFrame, planned: dict[Key, dict[int, bool]], others: Sequence[Variant]
) -> tuple[pd.DataFrame, dict[Key, dict[int, bool]]]:
    """Add to patients and planned runs the arms and budgets that others have and these have not."""
    frames, every = [patients], dict(planned)
    for other in others:
        for (arm, budget), runs_ in other.planned.items():
            if (arm, budget) not in every:
                every[arm, budget] = runs_
                frames.append(rows_of(other.patients, arm, budget))
    return pd.concat(frames, ignore_index=True), every


def pack(experiments: Sequence[Experiment]) -> pd.DataFrame:
    """Put the scores of all experiments together, with the columns `experiment` and `variant` before the others."""
    tables = []
    for experiment in experiments:
        for variant in experiment.variants:
            named = "; ".join(f"{key}={value}" for key, value in variant.chosen.items())
            tables.append(variant.scores.assign(experiment=experiment.name, variant=named))
    table = pd.concat(tables, ignore_index=True)
    first = ["experiment", "variant"]
    return table[[*first, *(name for name in table.columns if name not in first)]]


def unpack(table: pd.DataFrame, about: Sequence[Experiment]) -> list[Experiment]:
    """Return experiments with the variants of a table as `pack` makes it; expected is what it holds.

    Those of which it holds none are left out; the order of variants and of arms is that of its rows.
    """
    found = []
    for one in about:
        own = table[table["experiment"] == one.name]
        variants = []
        for named, rows in own.groupby("variant", sort=False):
            chosen = dict(part.split("=", 1) for part in str(named).split("; ")) if named else {}
            runs_ = rows[["arm", "budget", "seed", "segmenter"]].drop_duplicates().itertuples(index=False)
            expected = [
                {"arm": arm, "budget": None if pd.isna(budget) else int(budget), "seed": int(seed), "id": name}
                for arm, budget, seed, name in runs_
            ]
            variants.append(Variant(chosen, rows.drop(columns=["experiment", "variant"]), expected))
        if variants:
            found.append(replace(one, variants=variants))
    return found
