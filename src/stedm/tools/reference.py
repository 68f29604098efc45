"""The configuration's reference page and JSON schema, generated from :mod:`stedm.config`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from stedm.config import ARMS, DEFAULT_ARMS, SAMPLINGS, Collection, Config, Experiment
from stedm.provenance import write_text
from stedm.tools.values import fill, marked
from stedm.tools.values import pages as pages_of


def write_reference(root: Path) -> list[Path]:
    """Write ``docs/configuration.md`` and ``config/schema.json``, and the numbers of other pages; return the paths.

    Raises
    ------
    UserError
        If a page asks for a number that is not there (see :mod:`stedm.tools.values`).
    """
    pages = {
        root / "docs" / "configuration.md": render_page(),
        root / "config" / "schema.json": render_schema(),
    }
    for path, text in pages.items():
        write_text(path, text)
    return [*pages, *write_values(root)]


def write_values(root: Path, result: str | None = None) -> list[Path]:
    """Fill the marked places of all pages, or of those that show a recorded result; return the pages that have some."""
    found = []
    for path in pages_of(root):
        before = path.read_text()
        if result is not None and not any(
            f"{where}{result}" in before for where in ("results/reference/", "results of ")
        ):
            continue
        text = fill(path, root)
        if marked(text) != text:
            found.append(path)
            write_text(path, text)
    return found


def render_schema() -> str:
    """Return the JSON schema, for editors."""
    return json.dumps(Config.model_json_schema(), indent=1, sort_keys=True) + "\n"


def render_page() -> str:
    """Return the reference page in Markdown."""
    lines = [
        "# Configuration",
        "",
        "Generated from `src/stedm/config.py` by `make docs`; do not edit. A run is one YAML file; unknown keys "
        "and values out of range are errors. `stedm check config/demo.yaml` prints a file with all its defaults.",
        "",
        *_section(Config, ""),
        "",
        "## Arms",
        "",
        f"Without `arms` there are {', '.join(f'`{arm}`' for arm in DEFAULT_ARMS)}. "
        "[baselines.md](baselines.md) says how each works and where it comes from.",
        "",
        "| arm | images beside the real ones | from unlabelled tiles | colour | labels |",
        "|---|---|---|---|---|",
    ]
    shown = {
        None: "none",
        "generator": "synthetic, styles of unlabelled patients",
        "none": "synthetic, null style",
        "transferred": "labelled ones in the colours of unlabelled patients",
    }
    learning = {None: "nothing", "mean_teacher": "agreement with a mean teacher", "pseudo_labels": "pseudo-labels"}
    for name, arm in ARMS.items():
        colour = "augmented" if arm.colour else "normalised" if arm.normalised else "as it is"
        labels = "all" if arm.all_labels else "the budget's"
        lines.append(f"| `{name}` | {shown[arm.style]} | {learning[arm.unlabelled]} | {colour} | {labels} |")
    lines += ["", *_section(Experiment, "", "An experiment"), ""]
    lines += [
        "Valid style samplings: "
        + "; ".join(f"`{cohort}`: {', '.join(names)}" for cohort, names in SAMPLINGS.items())
        + "; cohorts of your own: any. An aggregation other than `mean` belongs to `multi-patch`. A run that asks for "
        "another combination is an error; of an experiment's combinations those that are not valid for a cohort are "
        "not run there, and the report names them.",
        "",
        *_section(Collection, "", "A collection"),
    ]
    return "\n".join(lines) + "\n"


def _section(model: type[BaseModel], prefix: str, title: str = "The run") -> list[str]:
    lines = [f"## `{prefix.rstrip('.')}`" if prefix else f"## {title}", "", (model.__doc__ or "").strip(), ""]
    lines += ["| key | default | what it is |", "|---|---|---|"]
    nested: list[tuple[type[BaseModel], str]] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        optional = [one for one in get_args(kind) if isinstance(one, type) and issubclass(one, BaseModel)]
        nested += [(one, f"{prefix}{name}.") for one in optional]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            nested.append((kind, f"{prefix}{name}."))
            continue
        default = "required" if field.default is PydanticUndefined else f"`{_plain(field.default)}`"
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {default} | {text} |")
    if len(lines) == 6:
        lines = lines[:4]
    for kind, path in nested:
        lines += ["", *_section(kind, path)]
    return lines


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
