"""Recording a run's results in the repository, so that others can compare theirs."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from stedm.errors import UserError
from stedm.provenance import environment, read_record, write_text
from stedm.runs import Plan

FILES = ("scores.parquet", "claims.csv", "config.yaml", "colour-search.csv")
"""What is copied of a view, beside its tables and the pictures of its figures."""
LARGE, WIDEST = 500_000, 1000
"""Bytes from which a picture is reduced, and its width in pixels then: the repository keeps every version of it."""


def record_reference(plan: Plan) -> Path:
    """Copy a view's numbers to ``results/reference/<name>/`` and say what made them.

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
    _record_verification(plan, view, out)
    _show_in_readme(plan, view)
    write_text(out / "made-by.json", json.dumps(_made_by(plan), indent=1, sort_keys=True) + "\n")
    return out


def record_derived(plan: Plan) -> Path:
    """Make tables, claims, figures of scores and tolerances of a recorded result again from its recorded scores.

    For results whose runs are gone, when the statistics change. What comes from runs stays: pictures, training curves,
    the number of validation labels, and tolerances of stored weights.

    Raises
    ------
    UserError
        If the result is not recorded.
    """
    import pandas as pd

    from stedm.report import build_report
    from stedm.verify import tolerances
    from stedm.verify.values import read_tables

    out = plan.root / "results" / "reference" / plan.config.name
    if not (out / "scores.parquet").is_file():
        raise UserError(f"{out}/scores.parquet: missing; only a recorded result can be made again from its scores.")
    scores = pd.read_parquet(out / "scores.parquet").astype({"budget": "Int64"})
    known = pd.read_csv(out / "tables" / "checkpoints.csv").to_dict("records")
    runs = [{**row, "stage": "segmenter", "id": "", "folder": out / "none"} for row in known]
    expected = scores[["arm", "budget", "seed"]].drop_duplicates().to_dict("records")
    again = {"resamples": plan.config.report.resamples, "seed": plan.config.report.seed}
    with tempfile.TemporaryDirectory() as folder:
        view = Path(folder)
        build_report(out=view, title="", scores=scores, runs=runs, ledger=[], expected=expected, **again)
        shutil.copyfile(view / "claims.csv", out / "claims.csv")
        shutil.copytree(view / "tables", out / "tables", dirs_exist_ok=True)
        for path in sorted((view / "figures").glob("*.png")):
            _copy_picture(path, out / "figures" / path.name)
    _show_in_readme(plan, out)
    made, path = tolerances.tolerances(scores, read_tables(out), {}), out / tolerances.FILE
    if path.is_file():
        before = pd.read_csv(path)
        made = pd.concat([made, before[before["tier"] == "T2"]], ignore_index=True)
    tolerances.write(path, made)
    return out


def _record_verification(plan: Plan, view: Path, out: Path) -> None:
    """Store small weights and predictions, and how far numbers made from them or anew may be from these."""
    import pandas as pd

    from stedm.provenance import SUMS
    from stedm.verify import stored, tolerances
    from stedm.verify.values import read_tables

    runs = stored.store(plan, out)
    moved = stored.arithmetic(plan, runs) if (plan.tiles.folder / SUMS).is_file() else {}
    scores = pd.read_parquet(view / "scores.parquet")
    tolerances.write(out / tolerances.FILE, tolerances.tolerances(scores, read_tables(view), moved))


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


def _show_in_readme(plan: Plan, view: Path) -> None:
    """Put headline table and claims between the README's markers for this run, where it has them."""
    path, name = plan.root / "README.md", plan.config.name
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
