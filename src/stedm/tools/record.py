"""Recording a run's results in the repository, so that others can compare theirs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from stedm.errors import UserError
from stedm.provenance import environment, read_record, write_text
from stedm.study import Study

FILES = ("scores.parquet", "claims.csv", "config.yaml", "colour-search.csv", "experiments.parquet")
"""What is copied of a view, beside its tables and the pictures of its figures."""
LARGE, WIDEST = 500_000, 1000
"""Bytes from which a picture is reduced, and its width in pixels then: the repository keeps every version of it."""


def record_reference(study: Study) -> Path:
    """Copy a view's numbers to ``results/reference/<name>/`` and say what made them.

    Raises
    ------
    UserError
        If the view has not been made.
    """
    view, out = study.view, study.root / "results" / "reference" / study.config.name
    if not (view / "claims.csv").is_file():
        raise UserError(f"{view}/claims.csv: missing; run `snakemake` for this configuration first.")
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    for name in FILES:
        if (view / name).is_file():
            shutil.copyfile(view / name, out / name)
    shutil.copytree(view / "tables", out / "tables")
    (out / "figures").mkdir()
    for path in sorted((view / "figures").glob("*.png")):
        _copy_picture(path, out / "figures" / path.name)
    _show_in_readme(study, view)
    write_text(out / "made-by.json", json.dumps(_made_by(study), indent=1, sort_keys=True) + "\n")
    return out


def _copy_picture(path: Path, out: Path) -> None:
    """Copy a PNG, a large one no wider than a page shows it."""
    if path.stat().st_size < LARGE:
        shutil.copyfile(path, out)
        return
    from PIL import Image

    with Image.open(path) as picture:
        picture = picture.convert("RGB")
        picture.thumbnail((WIDEST, 2 * WIDEST), Image.Resampling.LANCZOS)
        picture.save(out, optimize=True)


def _show_in_readme(study: Study, view: Path) -> None:
    """Put headline table and claims between the README's markers for this run, where it has them."""
    path, name = study.root / "README.md", study.config.name
    start, end = f"<!-- results of {name}: written by `stedm record` -->", "<!-- end of results -->"
    text = path.read_text() if path.is_file() else ""
    before, found, rest = text.partition(start)
    if found:
        after = rest.partition(end)[2]
        shown = f"\n```text\n{_headline(view)}\n```\n"
        write_text(path, before + start + shown + end + after)


def _headline(view: Path) -> str:
    from stedm.report import headline_text

    # The last line says where the report lies on this machine.
    return headline_text(view).rpartition("\n")[0].rstrip()


def _made_by(study: Study) -> dict[str, object]:
    """Return the machine and, for each run, its commit, code, time and memory."""
    here = environment()
    jobs = study.config.execution.synthetic_jobs
    runs = {}
    for scores in study.scores:
        pending = [scores]
        while pending:
            run = pending.pop()
            pending += run.inputs.values()
            for folder in run.parts(jobs) if run.stage == "synthetic" else [run.folder]:
                record = read_record(folder) or {}
                keys = (
                    "commit",
                    "dirty",
                    "code",
                    "wall_seconds",
                    "cpu_seconds",
                    "peak_mb",
                    "device",
                    "threads",
                )
                name = folder.relative_to(study.root / "results" / "runs").as_posix()
                runs[name] = {key: record.get(key) for key in (*keys, "comparable")}
    kept = ("platform", "cpu", "cores", "versions")
    return {**{key: here[key] for key in kept}, "preset": study.config.preset or "none", "runs": runs}
