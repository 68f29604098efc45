"""Recording a run's results in the repository, so that others can compare theirs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from stedm.errors import UserError
from stedm.provenance import environment, read_record, write_text
from stedm.runs import Plan
from stedm.tools.reference import write_values

FILES = ("scores.parquet", "claims.csv", "config.yaml", "colour-search.csv")
"""What is copied of a view, beside its tables and the pictures of its figures."""
LARGE, WIDEST = 500_000, 1000
"""Bytes from which a picture is reduced, and its width in pixels then: the repository keeps every version of it."""


def record_reference(plan: Plan) -> Path:
    """Copy a view's numbers to ``results/reference/<name>/``, say what made them, and fill the pages that show them.

    Raises
    ------
    UserError
        If the view has not been made.
    """
    view, out = plan.view, plan.root / "results" / "reference" / plan.config.name
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
    write_text(out / "made-by.json", json.dumps(_made_by(plan), indent=1, sort_keys=True) + "\n")
    write_values(plan.root)
    return out


def record_again(plan: Plan) -> Path:
    """Make tables, claims and figures of a recorded result anew from its recorded scores, as the code is now.

    Scores, figures of images and ``made-by.json`` stay; so do the counts of validation labels, which no score tells.

    Raises
    ------
    UserError
        If the result has not been recorded.
    """
    from stedm.report import build_report

    out = plan.root / "results" / "reference" / plan.config.name
    if not (out / "scores.parquet").is_file():
        raise UserError(f"{out}/scores.parquet: missing; record a finished run with `stedm record` first.")
    scores = pd.read_parquet(out / "scores.parquet").astype({"budget": "Int64"})
    settings = plan.config.report
    with TemporaryDirectory(dir=out.parent) as folder:
        view = Path(folder)
        build_report(
            out=view,
            title=plan.config.name,
            scores=scores,
            runs=_validation_labels(out),
            ledger=[],
            expected=[run.facts for run in plan.segmenters],
            resamples=settings.resamples,
            seed=settings.seed,
        )
        shutil.copyfile(view / "claims.csv", out / "claims.csv")
        shutil.rmtree(out / "tables")
        shutil.copytree(view / "tables", out / "tables")
        for path in sorted((view / "figures").glob("*.png")):
            _copy_picture(path, out / "figures" / path.name)
    write_values(plan.root)
    return out


def _validation_labels(reference: Path) -> list[dict[str, object]]:
    """Return what the recorded table of checkpoints says of each arm's validation labels, as runs of a report."""
    table = pd.read_csv(reference / "tables" / "checkpoints.csv", dtype={"validation_labels": str})
    return [
        {"stage": "segmenter", "id": "", "folder": reference, "arm": row.arm, "budget": row.budget}
        | {"validation_labels": int(number), "provenance": None}
        for row in table.itertuples()
        for number in str(row.validation_labels).split(";")
        if number.isdigit()
    ]


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


def _made_by(plan: Plan) -> dict[str, object]:
    """Return the machine and, for each run, its commit, code, time and memory."""
    here = environment()
    jobs = plan.config.execution.synthetic_jobs
    runs = {}
    for segmenter in plan.segmenters:
        pending = [plan.scores(segmenter)]
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
                name = folder.relative_to(plan.root / "results" / "runs").as_posix()
                runs[name] = {key: record.get(key) for key in (*keys, "comparable")}
    kept = ("platform", "cpu", "cores", "versions")
    return {**{key: here[key] for key in kept}, "preset": plan.config.preset or "none", "runs": runs}
