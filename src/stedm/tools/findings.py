"""Findings of the doctor: rows that pass, warn or fail, each fault with its remedy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from stedm.errors import UserError
from stedm.provenance import write_text

Status = Literal["PASS", "WARN", "FAIL"]
SHOWN = 60
"""Slides without a fault that are listed; of more the number is said."""


@dataclass(frozen=True)
class Row:
    """One finding."""

    status: Status
    what: str
    found: str
    remedy: str = ""

    @classmethod
    def of(cls, what: str, error: UserError, status: Status = "FAIL") -> Row:
        """Make a row of an error, whose last clause is the remedy."""
        found, _, remedy = str(error).rstrip(".").rpartition("; ")
        return cls(status, what, found or remedy, remedy if found else "")


def report(rows: Sequence[Row]) -> str:
    """Return the rows as aligned text, remedies below, and how many there are of each kind."""
    more = set([row for row in rows if row.status == "PASS" and row.what.startswith("slide ")][SHOWN:])
    shown = [row for row in rows if row not in more]
    wide = max(len(row.what) for row in shown)
    lines = []
    for row in shown:
        lines.append(f"{row.status}  {row.what:<{wide}}  {row.found}")
        if row.remedy:
            lines.append(f"{'':{wide + 8}}→ {row.remedy}")
    if more:
        lines.append(f"PASS  … and {len(more)} more slides")
    counts = {status: sum(row.status == status for row in rows) for status in ("PASS", "WARN", "FAIL")}
    return "\n".join([*lines, "", ", ".join(f"{count} {status}" for status, count in counts.items())])


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as JSON: ``{"ok": …, "rows": [{"status", "what", "found", "remedy"}, …]}``."""
    content = {"ok": sound(rows), "rows": [asdict(row) for row in rows]}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def sound(rows: Sequence[Row]) -> bool:
    """Say whether nothing fails."""
    return all(row.status != "FAIL" for row in rows)
