"""One table, three files: CSV with raw full-precision columns, Markdown and LaTeX formatted for people."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

DASH = "—"
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\u00a0": " ",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "×": r"$\times$",
    "µ": r"$\mu$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
}


@dataclass(frozen=True)
class Table:
    """A table for people, and the numbers behind it.

    Attributes
    ----------
    name, caption
        File name without suffix, and a sentence that says what the numbers are.
    raw
        One column per number; lists (a value per seed) are joined with ";" in the CSV.
    shown
        Strings, as people read them; may be laid out unlike `raw`.
    keys
        What to sort each column of `shown` by, where the string itself will not do: header to numbers, or None.
    """

    name: str
    caption: str
    raw: pd.DataFrame
    shown: pd.DataFrame
    keys: dict[str, list] = field(default_factory=dict)


def known(value: object) -> bool:
    """Say whether a value is there: None, NaN and pandas' NA are not."""
    return value is not None and (isinstance(value, list | dict | tuple | str) or not pd.isna(value))


def number(value: object, digits: int = 3, *, sign: bool = False) -> str:
    """Format a number with a true minus, or a dash where there is none."""
    if not known(value) or not math.isfinite(float(value)):
        return DASH
    return format(float(value), f"{'+' if sign else ''}.{digits}f").replace("-", "−")


def interval(row: dict, name: str, *, sign: bool = False) -> str:
    """Format `name` of a row with its interval, e.g. "0.712 [0.650, 0.768]"."""
    if not known(row.get(name)):
        return DASH
    ends = [row.get(f"{name}_low"), row.get(f"{name}_high")]
    if not all(known(end) for end in ends):
        return f"{number(row[name], sign=sign)} [no interval]"
    return f"{number(row[name], sign=sign)} [{', '.join(number(end, sign=sign) for end in ends)}]"


def ends(row: dict, name: str, *, sign: bool = False) -> str:
    """Format the interval `name` of a row without its estimate, e.g. "[0.650, 0.768]"."""
    both = [row.get(f"{name}_low"), row.get(f"{name}_high")]
    return f"[{', '.join(number(end, sign=sign) for end in both)}]" if all(map(known, both)) else DASH


def seeds(values: object, *, sign: bool = False) -> str:
    """Format one value per seed, and their range where there are more than two, e.g. "0.70, 0.72"."""
    if not isinstance(values, list) or not values:
        return DASH
    there = [value for value in values if known(value)]
    if len(there) > 2:
        return f"{number(min(there), sign=sign)} to {number(max(there), sign=sign)} ({len(there)} seeds)"
    return ", ".join(number(value, sign=sign) for value in values)


def p_value(value: object) -> str:
    """Format a p-value: three digits, "< 0.001" below."""
    if not known(value):
        return DASH
    return "< 0.001" if value < 0.001 else number(value)


def latex_escape(text: str) -> str:
    """Escape what LaTeX reads as markup."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def latex(table: Table) -> str:
    """Render a table float with booktabs rules; more than 40 rows become a longtable, which may break pages."""
    long = len(table.shown) > 40
    columns = "l" * len(table.shown.columns)
    rows = [[latex_escape(str(cell)) for cell in row] for row in table.shown.itertuples(index=False)]
    head = " & ".join(latex_escape(str(name)) for name in table.shown.columns) + r" \\"
    body = [" & ".join(row) + r" \\" for row in rows]
    caption = rf"\caption{{{latex_escape(table.caption)}}}\label{{tab:{table.name}}}"
    packages = "booktabs, longtable" if long else "booktabs"
    lines = [f"% \\usepackage{{{packages}}}"]
    if long:
        lines += [
            r"\begingroup\footnotesize",
            rf"\begin{{longtable}}{{{columns}}}",
            caption + r"\\",
            r"\toprule",
        ]
        lines += [head, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot", *body]
        return "\n".join([*lines, r"\end{longtable}", r"\endgroup", ""])
    lines += [r"\begin{table}[htbp]", r"\centering\footnotesize", r"\setlength{\tabcolsep}{4pt}", caption]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", r"\end{table}", ""])


def markdown(table: Table) -> str:
    """Render a pipe table under its caption."""
    shown = table.shown.astype(str).map(lambda text: text.replace("|", r"\|"))
    body = shown.to_markdown(index=False, disable_numparse=True) if len(shown) else "No rows.\n"
    return f"{table.caption}\n\n{body}\n"


def csv(frame: pd.DataFrame) -> str:
    """Render a data frame with full precision; lists are joined with ";", undefined is empty."""

    def cell(value: object) -> object:
        if isinstance(value, list | tuple):
            return ";".join(
                "" if not known(part) else repr(part) if isinstance(part, float) else str(part) for part in value
            )
        return value if known(value) else None

    plain = frame.astype(object).map(cell) if len(frame) else frame
    return plain.to_csv(index=False, lineterminator="\n")


def write(table: Table, folder: Path) -> None:
    """Write `<name>.csv`, `.md` and `.tex` into `folder`."""
    for suffix, text in ((".csv", csv(table.raw)), (".md", markdown(table)), (".tex", latex(table))):
        (folder / f"{table.name}{suffix}").write_text(text, encoding="utf-8", newline="\n")
