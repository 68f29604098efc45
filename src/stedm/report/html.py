"""The one-page report: everything inside one file that opens offline."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from stedm.report import claims as claims_module
from stedm.report.arms import LOOKS, MEANINGS, has_budget, order
from stedm.report.claims import MEAN
from stedm.report.formats import DASH, Table, ends, interval, known, number, p_value, seeds
from stedm.report.on_top import percent
from stedm.report.style import data_uri
from stedm.scores.statistics import LEVEL

TEMPLATES = Path(__file__).parent / "templates"
# A table of more patients than this is left to its files.
MOST_PATIENTS = 60
_MARKS = {"supported": "✓", "refuted": "✗", "undecided": "?"}
_BAR = 120.0


@dataclass(frozen=True)
class Picture:
    """A figure of the page: its SVG or PNG, what it says, and what it shows for those who cannot see it."""

    name: str
    title: str
    caption: str
    alt: str
    content: bytes
    kind: str = "image/svg+xml"

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return data_uri(self.content, self.kind)


def labels(budget: object) -> str:
    """Spell a budget in a sentence, e.g. "3 labelled patients per class"."""
    if not known(budget):
        return "all labels"
    return f"{int(budget)} labelled patient{'s' if int(budget) != 1 else ''} per class"


def headline(claims: pd.DataFrame) -> list[str]:
    """Say in a few sentences how the claims fared."""
    if not len(claims):
        return ["No claim could be tested: no arm with synthetic images stands beside a real baseline."]
    count = claims["verdict"].value_counts()
    parts = [f"{count.get(verdict, 0)} {verdict}" for verdict in ("refuted", "undecided")]
    said = [f"{count.get('supported', 0)} of {len(claims)} claims supported, {' and '.join(parts)}."]
    for baseline, own in claims.groupby("baseline", sort=True):
        won = own[own["verdict"] == "supported"]
        gains, calms = (int((won["claim"] == name).sum()) for name in (MEAN, own["claim"].iloc[-1]))
        half = len(own) // 2
        said.append(
            f"Against {baseline}, arms with synthetic images raise the mean in {gains} of {half} comparisons "
            f"and lower the variability between patients in {calms} of {half}."
        )
    tested = claims["holm"].dropna()
    higher = tested[claims.loc[tested.index, "estimate"] > 0]
    kept = int((higher < 1 - LEVEL).sum())
    said.append(f"Corrected for their number (Holm), the signed-rank test keeps {kept} of {len(higher)} higher means.")
    return said


def standings(rows: list[dict]) -> list[str]:
    """Say from the raw headline rows which arm has the highest mean at each budget, and what all labels give."""
    said = []
    oracles = [row for row in rows if not has_budget(row["arm"]) and known(row["mean"])]
    for budget in sorted({int(row["budget"]) for row in rows if known(row["budget"])}):
        own = [row for row in rows if known(row["budget"]) and int(row["budget"]) == budget and known(row["mean"])]
        if own:
            best = max(own, key=lambda row: row["mean"])
            rest = [
                f"{row['arm']} {number(row['mean'])}" for row in own if row["arm"].startswith("real") and row != best
            ]
            beside = f", beside {' and '.join(rest)}" if rest else ""
            said.append(
                f"With {labels(budget)}, {best['arm']} has the highest mean IoU, {number(best['mean'])}{beside}."
            )
    if oracles:
        each = ", ".join(f"{row['arm']} {number(row['mean'])}" for row in oracles)
        said.append(f"With all labels: {each}.")
    return said


def answers(added: Table | None, way: Table | None) -> list[str]:
    """Say in a sentence a row what the tables of `stedm.report.on_top` found."""
    outcomes = {"supported": "synthetic images add to the mean IoU", "refuted": "synthetic images lower the mean IoU"}
    said = []
    for row in added.raw.to_dict("records") if added else []:
        start = f"On top of {row['beside']}, with {labels(row['budget'])}: "
        outcome = outcomes.get(row["mean_verdict"], "whether synthetic images add to the mean IoU is undecided")
        numbers = f" ({interval(row, 'difference', sign=True)}, Holm p {p_value(row['holm'])})"
        said.append(f"{start}{outcome}{numbers if known(row['difference']) else ''}. {row['mean_reason']}")
    for row in way.raw.to_dict("records") if way else []:
        path = f"of the distance from {row['baseline']} to {row['oracle']}"
        length = f" ({interval(row, 'distance', sign=True)})" if known(row["distance"]) else ""
        verb = f"covers {percent(row)}" if known(row["share"]) else "has no share"
        missing = [f"Missing: {', '.join(row['missing'])}; the numbers are from the other runs."]
        end = " ".join([row["share_reason"], *(missing if row["missing"] else [])]).strip()
        said.append(f"With {labels(row['budget'])}, {row['arm']} {verb} {path}{length}. {end}".rstrip())
    return said


def _bars(claims: pd.DataFrame) -> list[dict]:
    """Place each interval on a scale that all claims of its kind share, with no effect in the middle."""

    def scaled(row: dict, value: object) -> float | None:
        if not known(value):
            return None
        return float(value) if row["claim"] == MEAN else math.log(max(float(value), 1e-9))

    rows = claims.to_dict("records")
    reach = {}
    for row in rows:
        ends = [scaled(row, value) for value in (row["low"], row["high"], *row["per_seed"])]
        reach[row["claim"]] = max([reach.get(row["claim"], 0.02), *(abs(end) for end in ends if end is not None)])
    bars = []
    for row in rows:
        half = reach[row["claim"]] * 1.05

        def at(value: object, row: dict = row, half: float = half) -> float | None:
            place = scaled(row, value)
            return None if place is None else round(_BAR / 2 * (1 + place / half), 1)

        bars.append({key: at(row[key]) for key in ("low", "high", "estimate")})
        bars[-1]["seeds"] = [at(value) for value in row["per_seed"] if known(value)]
    return bars


def claim_groups(claims: pd.DataFrame) -> list[dict]:
    """Group claims for the page: one group per budget, one row per pair of arms, one cell per claim."""
    groups: dict = {}
    for row, bar in zip(claims.to_dict("records"), _bars(claims), strict=True):
        sign = row["claim"] == MEAN
        cell = {
            "verdict": row["verdict"],
            "mark": _MARKS[row["verdict"]],
            # The two plain reasons are the definition that stands above the table.
            "reason": "" if row["reason"] in (claims_module.AGREES, claims_module.INCLUDES) else row["reason"],
            "effect": interval(
                {**row, "x": row["estimate"], "x_low": row["low"], "x_high": row["high"]}, "x", sign=sign
            ),
            "seeds": seeds(row["per_seed"], sign=sign),
            "runs": ends(row, "runs", sign=True) if known(row["runs_low"]) else "",
            "p": f"{p_value(row['wilcoxon'])} (Holm {p_value(row['holm'])})" if known(row["wilcoxon"]) else "",
            "bar": bar,
        }
        group = groups.setdefault(row["budget"], {"label": labels(row["budget"]), "pairs": {}})
        group["pairs"].setdefault((row["arm"], row["baseline"]), []).append(cell)
    return [
        {
            "label": group["label"],
            "pairs": [{"arm": a, "baseline": b, "cells": c} for (a, b), c in group["pairs"].items()],
        }
        for _, group in sorted(groups.items())
    ]


def whole(text: str) -> str:
    """Keep what stands in brackets, such as an interval, in one line."""
    return re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\u00a0"), text)


def grid_of(table: Table) -> dict:
    """Turn a `Table` into headers and cells with sort keys, for the template."""
    columns = list(table.shown.columns)
    rows = []
    for place, row in enumerate(table.shown.itertuples(index=False)):
        cells = []
        for header, text in zip(columns, row, strict=True):
            key = table.keys[header][place] if header in table.keys else "" if text == DASH else text
            # As the page's script reads it.
            key = "Infinity" if isinstance(key, float) and key == math.inf else key
            cells.append({"text": whole(text), "key": "" if not known(key) else key, "number": header in table.keys})
        rows.append(cells)
    headers = [{"text": whole(header), "number": header in table.keys} for header in columns]
    return {"name": table.name, "caption": table.caption, "headers": headers, "rows": rows}


def duration(seconds: object) -> str:
    """Spell seconds, e.g. "2 min 05 s"."""
    if not known(seconds):
        return DASH
    whole = round(float(seconds))
    if whole < 60:
        return f"{float(seconds):.1f} s" if whole < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(megabytes: object) -> str:
    """Spell megabytes, e.g. "1.2 GB"."""
    if not known(megabytes):
        return DASH
    return f"{float(megabytes) / 1000:.1f} GB" if float(megabytes) >= 1000 else f"{float(megabytes):.0f} MB"


def run_rows(runs: list[dict]) -> list[dict]:
    """One row of the provenance table per run; a run without a record keeps its row and says so."""
    rows = []
    for run in runs:
        record = run.get("provenance") or {}
        commit = str(record.get("commit") or "")[:10]
        threads = record.get("threads")
        rows.append(
            {
                "stage": run["stage"],
                "id": run["id"],
                "recorded": bool(record),
                "note": reconstruction(record.get("reconstruction")),
                "wall": duration(record.get("wall_seconds")),
                "wall_key": record.get("wall_seconds") or 0,
                "memory": memory(record.get("peak_mb")),
                "memory_key": record.get("peak_mb") or 0,
                "commit": f"{commit}{' + changes' if record.get('dirty') else ''}" if commit else DASH,
                "device": " ".join(
                    filter(None, [record.get("device") or DASH, f"({threads} threads)" if threads else ""])
                ),
                "command": record.get("command") or DASH,
                "time": record.get("time") or DASH,
            }
        )
    return rows


def reconstruction(found: dict | None) -> str:
    """Spell how well an autoencoder reconstructs tiles, e.g. "PSNR 27.3 dB, L1 0.021 on 64 validation tiles"."""
    if not found:
        return ""
    return f"PSNR {found['psnr_db']:.1f} dB, L1 {found['l1']:.3f} on {found['tiles']} {found['split']} tiles"


def incomparable(runs: list[dict]) -> list[str]:
    """Return the ids of runs whose record says that slides were drawn differently on their machine."""
    return [run["id"] for run in runs if (run.get("provenance") or {}).get("comparable") is False]


def environment(runs: list[dict]) -> list[dict]:
    """List platform and package versions over all runs, with every value that occurs."""
    found: dict[str, set[str]] = {}
    for run in runs:
        record = run.get("provenance") or {}
        pairs = [("platform", record.get("platform")), *sorted((record.get("versions") or {}).items())]
        for name, value in pairs:
            if value:
                found.setdefault(name, set()).add(str(value))
    names = sorted(found, key=lambda name: (name != "platform", name != "python", name.lower()))
    return [{"name": name, "values": sorted(found[name])} for name in names]


def code(text: str) -> Markup:
    """Mark what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def page(template: str, **context: object) -> str:
    """Render a template with the styles and script that all pages share.

    Raises
    ------
    jinja2.UndefinedError
        If the template asks for what the context lacks.
    """
    loader = jinja2.FileSystemLoader(TEMPLATES)
    settings = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    settings.filters["code"] = code
    assets = {name: (TEMPLATES / f"report.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    return settings.get_template(template).render(**context, **assets)


def render(**context: object) -> str:
    """Render the report; `context` is what `stedm.report.build` collects."""
    looks = {arm: drawn.colour for arm, drawn in LOOKS.items()}
    arms = [{"name": arm, "meaning": MEANINGS.get(arm, "")} for arm in order(context["arms"])]
    return page("report.html.j2", **{**context, "arms": arms}, colours=looks, bar=_BAR)
