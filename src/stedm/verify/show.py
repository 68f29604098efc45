"""A verification as text, JSON and a page, and the line that a user signs."""

from __future__ import annotations

import getpass
import json
import math
import subprocess
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from stedm.provenance import environment, write_text
from stedm.report import html
from stedm.report.formats import number
from stedm.verify.records import DIFFERS, NOT_HERE, NOT_RUN, STATES, TIERS, Cell, Record, Value, count, summary

SIGNED = "REPRODUCED.md"
TITLES = {
    "headline": "Headline",
    "comparisons": "Comparisons behind the claims",
    "references": "References",
    "labels": "Effect against label budget",
    "on-top": "On top of what else helps",
    "distance": "Distance to all labels",
    "checkpoints": "Best checkpoint",
    "groups": "Groups of patients",
    "claims": "Verdicts",
    "runs": "Segmenters, each alone",
}
MOST_DIFFERENCES = 20
"""Cells that differ of which the terminal shows the numbers; JSON and page hold all."""


def blocks(records: list[Record]) -> list[dict]:
    """Arrange records as matrices: one an experiment and table, rows and columns as the tables have them.

    Returns
    -------
    Dicts of `experiment`, `table`, `tiers` (of this table), `columns`, and `rows` of `name` and `cells`, each a
    list of the records of one cell, by tier.
    """
    found: dict[tuple[str, str], dict[Cell, list[Record]]] = {}
    for record in records:
        block = found.setdefault((record.experiment, record.cell.table), {})
        block.setdefault(record.cell, []).append(record)
    return [
        {
            "experiment": experiment,
            "table": table,
            "tiers": [tier for tier in TIERS if any(r.tier == tier for own in cells.values() for r in own)],
            "columns": (columns := list(dict.fromkeys(cell.column for cell in cells))),
            "rows": [
                {"name": name, "cells": [cells.get(Cell(table, name, column), []) for column in columns]}
                for name in dict.fromkeys(cell.row for cell in cells)
            ],
        }
        for (experiment, table), cells in found.items()
    ]


def matrix(records: list[Record]) -> str:
    """Return the matrices as text: a mark a tier in each cell."""
    lines = [f"{mark} {state}" for state, mark in STATES.items()]
    lines = ["   ".join(lines), ", ".join(f"{tier} {text}" for tier, text in TIERS.items())]
    for block in blocks(records):
        title = f"{block['experiment']}: {title_of(block['table'])}"
        wide = max([len(row["name"]) for row in block["rows"]] + [len(title)])
        widths = [max(len(column), len(block["tiers"])) for column in block["columns"]]
        head = "  ".join(column.ljust(width) for column, width in zip(block["columns"], widths, strict=True))
        lines += ["", f"{title:<{wide}}  {head}   ({' '.join(block['tiers'])})"]
        for row in block["rows"]:
            marks = [
                "".join(STATES[r.state] for r in own).ljust(w) for own, w in zip(row["cells"], widths, strict=True)
            ]
            lines.append(f"{row['name']:<{wide}}  {'  '.join(marks)}".rstrip())
    return "\n".join(lines)


def text(records: list[Record], unmatched: list[str]) -> str:
    """Return what the terminal shows: the matrices, what differs, what could not be checked, and the summary."""
    lines = [matrix(records)]
    differing = [record for record in records if record.state == DIFFERS]
    if differing:
        lines += ["", "Differs:"]
        lines += [f"  {difference(record)}" for record in differing[:MOST_DIFFERENCES]]
        lines += [f"  … and {more} more"] if (more := len(differing) - MOST_DIFFERENCES) > 0 else []
    if unchecked := not_checked(records):
        lines += ["", "Not checked:", *(f"  {line}" for line in unchecked)]
    if unmatched:
        lines += ["", *unmatched]
    lines.append("")
    for tier, meaning in TIERS.items():
        own = [record for record in records if record.tier == tier]
        lines.append(f"{tier}  {meaning + ':':<33} {summary(own)}" if own else f"{tier}  {meaning}: none")
    return "\n".join([*lines, "", summary(records)])


def difference(record: Record) -> str:
    """Say what differs: the cell, both values, and the reason or the tolerance."""
    cell = record.cell
    where = f"{record.tier} {record.experiment}, {cell.table}: {cell.row}, {cell.column}"
    why = f" ({record.why})" if record.why else ""
    return f"{where}: {shown(record.found)}, recorded {shown(record.expected)}{why}"


def shown(value: Value) -> str:
    """Write a value out, numbers with six digits."""
    return value if isinstance(value, str) else "∞" if value == math.inf else number(value, 6)


def title_of(table: str) -> str:
    """Return what a table is called."""
    return TITLES.get(table, table.replace("-", " ", 1))


def not_checked(records: list[Record]) -> list[str]:
    """Say which cells could not be checked and why, those of one reason together."""
    reasons: Counter[tuple[str, str, str]] = Counter()
    for record in records:
        if record.state in (NOT_RUN, NOT_HERE):
            # Before the semicolon stands what is so, after it the remedy or the runs concerned.
            what, _, remedy = record.why.partition("; ")
            why = remedy if record.state == NOT_RUN and remedy else what
            reasons[record.experiment, record.tier, f"{record.state}: {why}"] += 1
    return [f"{tier} {name}, {cells} cells {why}" for (name, tier, why), cells in reasons.items()]


def write_files(out: Path, records: list[Record], title: str) -> tuple[Path, Path]:
    """Write ``verification.json`` and ``verification.html`` into a folder; return their paths."""
    made = environment()
    content = {
        "summary": summary(records),
        "counts": count(records),
        "tiers": {tier: count(r for r in records if r.tier == tier) for tier in TIERS},
        "made_by": made,
        "cells": [_cell(record) for record in records],
    }
    paths = out / "verification.json", out / "verification.html"
    write_text(paths[0], json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    per_tier = [(t, m, summary(own)) for t, m in TIERS.items() if (own := [r for r in records if r.tier == t])]
    page = html.page(
        "verification.html.j2",
        title=title,
        summary=summary(records),
        counts=count(records),
        states=STATES,
        per_tier=per_tier,
        differing=[difference(r) for r in records if r.state == DIFFERS],
        unchecked=not_checked(records),
        blocks=blocks(records),
        title_of=title_of,
        tiers=TIERS,
        tolerances=_tolerances(records),
        shown=shown,
        made=made,
    )
    write_text(paths[1], page)
    return paths


def _cell(record: Record) -> dict:
    """Return a record as JSON can hold it, which knows no infinite number."""
    content = asdict(record) | asdict(record.cell)
    del content["cell"]
    endless = {name: str(value) for name, value in content.items() if value in (math.inf, -math.inf)}
    return content | endless


def _tolerances(records: list[Record]) -> list[dict]:
    """Return each limit once a tier and table, with the columns and the number of cells that it holds for."""
    found: dict[tuple, Counter[str]] = {}
    for r in records:
        if r.tolerance:
            found.setdefault((r.tier, r.cell.table, r.tolerance), Counter())[_column(r)] += 1
    return [
        {"tier": tier, "table": name, "columns": list(columns), "limit": limit, "cells": columns.total()}
        for (tier, name, limit), columns in found.items()
    ]


def _column(record: Record) -> str:
    return record.cell.column if record.cell.table not in ("groups", "claims") else "all"


def sign(root: Path, experiments: list[str], records: list[Record]) -> Path:
    """Append to ``REPRODUCED.md`` who verified what, when, at which commit and on which machine; return its path."""
    made, path = environment(), root / SIGNED
    commit = (made["commit"] or "unknown")[:10] + (" + changes" if made["dirty"] else "")
    machine = f"{made['cpu'] or 'unknown processor'}, {made['cores']} cores, {made['platform']}"
    line = [_who(), made["time"], commit, machine, ", ".join(experiments), summary(records)]
    head = ["who", "when", "commit", "machine", "results", "outcome"]
    rows = [line] if path.is_file() else [head, ["---"] * len(head), line]
    before = (
        path.read_text()
        if path.is_file()
        else "# Who has reproduced these results\n\nWritten by `stedm verify --sign`.\n\n"
    )
    write_text(path, before + "".join(f"| {' | '.join(part.replace('|', '/') for part in row)} |\n" for row in rows))
    return path


def _who() -> str:
    done = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or getpass.getuser()
