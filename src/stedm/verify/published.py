"""Values that a user enters from the paper: shown beside ours, and compared with nothing."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from stedm.errors import UserError
from stedm.verify.records import Record

FILE = Path("config/published.csv")
COLUMNS = ["table", "row", "column", "value", "page"]


def show_published(records: list[Record], path: Path) -> tuple[list[Record], list[str]]:
    """Put each published value beside the cells of its table, row and column; say which match no cell.

    Raises
    ------
    UserError
        If the file is not a table with these columns, or a value is no number.
    """
    found: dict[tuple[str, str, str], str] = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != COLUMNS:
                raise UserError(f"{path}: its columns are {reader.fieldnames}; they must be {','.join(COLUMNS)}.")
            for line, row in enumerate(reader, start=2):
                try:
                    float(row["value"])
                except (TypeError, ValueError):
                    raise UserError(f"{path}, line {line}: {row['value']!r} is no number; correct it.") from None
                page = f" (page {row['page']})" if row["page"] else ""
                found[row["table"], row["row"], row["column"]] = row["value"] + page
    there = {(r.cell.table, r.cell.row, r.cell.column) for r in records}
    beside = [
        replace(r, published=found.get((r.cell.table, r.cell.row, r.cell.column), "")) if found else r for r in records
    ]
    return beside, [f"{path}: {', '.join(key)} is no cell of these results" for key in found if key not in there]
