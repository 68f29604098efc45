"""Records of the verification: one table cell each, judged against what was recorded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

REPRODUCED, NOISE, DIFFERS = "reproduced", "within noise", "differs"
NOT_RUN, NOT_HERE = "not run", "not reproducible here"
STATES = {REPRODUCED: "✓", NOISE: "≈", DIFFERS: "✗", NOT_RUN: "·", NOT_HERE: "–"}
"""Each state and its mark."""

TIERS = {
    "T0": "tables from recorded scores",
    "T1": "scores from stored predictions",
    "T2": "predictions from stored weights",
    "T3": "retrained: runs of this clone",
}

Value = float | str | None


@dataclass(frozen=True)
class Tolerance:
    """How far a value may be from the recorded one."""

    equal: float
    """Up to this difference it is reproduced."""
    noise: float | None
    """Up to this difference it is within noise; None where no noise is expected or its size is unknown."""
    reason: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table: where it stands, in words that the tables use."""

    table: str
    row: str
    column: str


@dataclass(frozen=True)
class Record:
    """A cell, and what one tier of evidence says of it."""

    experiment: str
    tier: str
    cell: Cell
    expected: Value
    """The recorded value; None where it is recorded as undefined."""
    source: str
    """The file that holds the expected value."""
    found: Value = None
    """The value made again; None where there is none."""
    tolerance: Tolerance | None = None
    state: str = NOT_RUN
    why: str = ""
    """Why it was not run, is not reproducible here or differs; empty where the numbers say it."""
    published: str = ""
    """What a user entered from the paper, shown beside ours and compared with nothing."""


def judge(expected: tuple[Value, ...], found: tuple[Value, ...], tolerance: Tolerance) -> str:
    """Return the state of a cell from its parts: its value and, where they are compared, its interval's ends.

    A number that is undefined on one side only, and a text that is another one, differ.
    """
    other = [pair for pair in zip(expected, found, strict=True) if not same(*pair)]
    if not all(isinstance(value, int | float) for pair in other for value in pair):
        return DIFFERS
    gap = max((abs(a - b) for a, b in other), default=0.0)
    if gap <= tolerance.equal:
        return REPRODUCED
    return NOISE if tolerance.noise is not None and gap <= tolerance.noise else DIFFERS


def same(one: Value, other: Value) -> bool:
    """Say whether two values are the same, both undefined included."""
    return one == other or all(
        value is None or (isinstance(value, float) and math.isnan(value)) for value in (one, other)
    )


def settled(records: Iterable[Record]) -> dict[tuple[str, Cell], str]:
    """Return one state a cell from all its evidence: what differs or is off by noise is not outvoted."""
    ranks = {state: rank for rank, state in enumerate((NOT_HERE, NOT_RUN, REPRODUCED, NOISE, DIFFERS))}
    found: dict[tuple[str, Cell], str] = {}
    for record in records:
        key = record.experiment, record.cell
        found[key] = max(found.get(key, record.state), record.state, key=ranks.__getitem__)
    return found


def summary(records: list[Record]) -> str:
    """Say in one line how many cells were reproduced, and what became of the others."""
    states = list(settled(records).values())
    rest = [f"{states.count(state)} {state}" for state in STATES if state != REPRODUCED and state in states]
    return ", ".join([f"{states.count(REPRODUCED)} of {len(states)} cells reproduced", *rest])


def count(records: Iterable[Record]) -> dict[str, int]:
    """Return how many cells are in each state."""
    found = Counter(settled(records).values())
    return {state: found[state] for state in STATES}
