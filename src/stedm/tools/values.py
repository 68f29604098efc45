"""Numbers in prose, taken from files: marked places of Markdown pages that ``stedm docs`` fills.

In the page's source stands, invisible when it is rendered,

``<!-- value FILE WHERE… FORMAT -->…<!-- end -->``
    One value. Of a CSV, WHERE are ``column=value``, which must fit one row, and last the column to show. Of a JSON they
    are the keys to go down by, and ``key=value`` for the one element of a list. FORMAT is a Python format such as
    ``.3f``, ``+.3f``, ``.0%`` or ``s``; or, of a CSV with columns ``X_low`` and ``X_high`` (or ``low`` and ``high``)
    beside X, ``interval`` or ``+interval``.
``<!-- table FILE WHERE… -->…<!-- end -->``
    A whole CSV as a table; or a list of records of a JSON, found by the keys WHERE, with all columns that any has.
``<!-- results of NAME -->…<!-- end -->``
    The headline of ``results/reference/NAME``, as ``stedm headline`` prints it.

Files are relative to the project's root; words with spaces stand in quotes.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

from stedm.errors import UserError

PAGES = ("README.md", "benchmarks/README.md", "config/README.md", "docs/*.md", "results/README.md")
"""Pages with marked places, relative to the project's root."""
END = "<!-- end -->"
_MARK = re.compile(
    rf"(?P<mark><!-- (?P<kind>value|table|results of) (?P<what>[^>]+?) -->)(?P<text>.*?){END}", re.DOTALL
)


def pages(root: Path) -> list[Path]:
    """Return the pages of a project that exist."""
    return sorted(path for pattern in PAGES for path in Path(root).glob(pattern))


def fill(page: Path, root: Path) -> str:
    """Return a page's text with its marked places filled anew.

    Raises
    ------
    UserError
        If a marked place names no file, no value or more than one.
    """
    makers = {"value": _value, "table": _table, "results of": _results}

    def replaced(match: re.Match) -> str:
        try:
            shown = makers[match["kind"]](shlex.split(match["what"]), Path(root))
        except (LookupError, ValueError, OSError) as error:
            reason = str(error).rstrip(".")
            raise UserError(f"{page}: cannot fill {match['mark']!r} ({reason}); mend it or its file.") from error
        return f"{match['mark']}{shown}{END}"

    return _MARK.sub(replaced, Path(page).read_text())


def marked(text: str) -> str:
    """Return a page's text without its marked places: what nothing fills."""
    return _MARK.sub("", text)


def _value(words: list[str], root: Path) -> str:
    name, *where, form = words
    path = root / name
    if path.suffix == ".json":
        return _formatted(_descend(json.loads(path.read_text()), where), form)
    *filters, column = where
    rows = [row for row in _rows(path) if all(_fits(row, *word.split("=", 1)) for word in filters)]
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows fit")
    [row] = rows
    if not form.endswith("interval"):
        return _formatted(row[column], form)
    low, high = (f"{column}_low", f"{column}_high") if f"{column}_low" in row else ("low", "high")
    spec = f"{form.removesuffix('interval')}.3f"
    estimate, *ends = (_formatted(row[key], spec) for key in (column, low, high))
    return f"{estimate} [{', '.join(ends)}]"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _fits(row: dict[str, Any], key: str, wanted: str) -> bool:
    found = str(row[key])
    try:
        return float(found) == float(wanted)
    except ValueError:
        return found == wanted


def _descend(value: Any, words: list[str]) -> Any:
    for word in words:
        if isinstance(value, dict):
            value = value[word]
        elif "=" in word:
            fitting = [one for one in value if _fits(one, *word.split("=", 1))]
            if len(fitting) != 1:
                raise ValueError(f"{len(fitting)} elements fit {word}")
            [value] = fitting
        else:
            value = value[int(word)]
    return value


def _formatted(value: Any, form: str) -> str:
    if form == "s":
        return str(value)
    return format(float(value), form).replace("-", "−").replace("%", " %")


def _table(words: list[str], root: Path) -> str:
    name, *where = words
    path = root / name
    if path.suffix == ".json":
        rows = _descend(json.loads(path.read_text()), where)
    elif where:
        raise ValueError(f"a CSV is shown whole, not {' '.join(where)}")
    else:
        rows = _rows(path)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column, "")) for column in columns] for row in rows)]
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _results(words: list[str], root: Path) -> str:
    from stedm.report import headline_text

    [name] = words
    # The last line says where the report lies, which is on one machine only.
    shown = headline_text(root / "results" / "reference" / name).rpartition("\n")[0].rstrip()
    return f"\n```text\n{shown}\n```\n"
