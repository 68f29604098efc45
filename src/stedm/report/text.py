"""The outcome of a report as plain text for a terminal."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from stedm.report.arms import budget_label
from stedm.report.claims import MEAN, RUNS
from stedm.report.formats import interval, known, number

WIDTH = 110


def headline_text(out: Path) -> str:
    """Read a built report and return its headline table, verdicts and place, at most 110 columns wide.

    Raises
    ------
    FileNotFoundError
        If `out` holds no report.
    """
    rows = pd.read_csv(out / "tables" / "headline.csv").to_dict("records")
    body = [
        [
            row["arm"],
            budget_label(int(row["budget"]) if known(row["budget"]) else None),
            interval(row, "mean") if known(row["mean"]) else "missing",
            interval(row, "std"),
            interval(row, "worst"),
            number(row["dice"]),
            str(row["patients"]),
        ]
        for row in rows
    ]
    head = ["arm", "labels", "mean IoU [95 %]", "SD between patients", "worst decile", "Dice", "patients"]
    widths = [max(len(line[place]) for line in [head, *body]) for place in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [head, *body]]
    lines.insert(1, "  ".join("─" * width for width in widths))

    claims = pd.read_csv(out / "claims.csv")
    lines += ["", _count(claims)]
    for row in claims.to_dict("records"):
        name = f"{row['arm']} vs {row['baseline']}, {row['budget']} label{'s' * (row['budget'] != 1)}: {row['claim']}"
        shown = interval(
            {"x": row["estimate"], "x_low": row["low"], "x_high": row["high"]}, "x", sign=row["claim"] == MEAN
        )
        lines.append(f"  {row['verdict']:<10} {name:<62} {shown}{' *' * (row['reason'] == RUNS)}")
    if (claims["reason"] == RUNS).any():
        lines.append(f"  * {RUNS}")
    lines += ["", f"Report: {out / 'report.html'}"]
    # The last line is a path: cut, it would open nothing.
    return "\n".join([line.rstrip()[:WIDTH] for line in lines[:-1]] + lines[-1:])


def _count(claims: pd.DataFrame) -> str:
    if not len(claims):
        return "No claim could be tested."
    count = claims["verdict"].value_counts()
    rest = f"{count.get('refuted', 0)} refuted, {count.get('undecided', 0)} undecided"
    return f"{count.get('supported', 0)} of {len(claims)} claims supported, {rest}."
