"""Recording a run's results in the repository, so that others can compare theirs."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pandas as pd

from stedm.errors import UserError
from stedm.provenance import environment, read_record, write_text
from stedm.report.variants import PACKED
from stedm.scores.metrics import read_scores
from stedm.study import Study
from stedm.tools.reference import write_values

FILES = ("scores.parquet", "claims.csv", "config.yaml", "colour-search.csv", PACKED)
"""What is copied of a view, beside its tables and the pictures of its figures."""
LARGE, WIDEST = 500_000, 1000
"""Bytes from which a picture is reduced, and its width in pixels then: the repository keeps every version of it."""


def record_reference(study: Study) -> Path:
    """Copy a view's numbers to ``results/reference/<name>/``, say what made them, and fill the pages that show them.

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
    _copy_figures(view, out)
    _record_verification(study, view, out)
    write_text(out / "made-by.json", json.dumps(_made_by(study), indent=1, sort_keys=True) + "\n")
    write_values(study.root, study.config.name)
    return out


def record_again(study: Study) -> Path:
    """Make tables, claims, figures and tolerances of a recorded result anew from its recorded scores.

    What comes from runs stays: scores, pictures, training curves, the number of validation labels, and tolerances of
    stored weights.

    Raises
    ------
    UserError
        If the result is not recorded.
    """
    from stedm.report import build_report
    from stedm.verify.values import recorded_experiments

    out = study.root / "results" / "reference" / study.config.name
    if not (out / "scores.parquet").is_file():
        raise UserError(f"{out}/scores.parquet: missing; only a recorded result can be made again from its scores.")
    scores = read_scores(out / "scores.parquet")
    runs = _validation_labels(out)
    expected = scores[["arm", "budget", "seed"]].drop_duplicates().to_dict("records")
    again = {"resamples": study.config.report.resamples, "seed": study.config.report.seed}
    with tempfile.TemporaryDirectory() as folder:
        view = Path(folder)
        build_report(
            out=view,
            title="",
            scores=scores,
            runs=runs,
            ledger=[],
            expected=expected,
            experiments=recorded_experiments(study, out),
            **again,
        )
        shutil.copyfile(view / "claims.csv", out / "claims.csv")
        shutil.copytree(view / "tables", out / "tables", dirs_exist_ok=True)
        _copy_figures(view, out)
    _record_tolerances(out, scores)
    write_values(study.root, study.config.name)
    return out


def _validation_labels(reference: Path) -> list[dict[str, object]]:
    """Return what the recorded table of checkpoints says of each arm's validation labels, as runs of a report."""
    table = pd.read_csv(reference / "tables" / "checkpoints.csv", dtype={"validation_labels": str})
    return [
        {"stage": "segmenter", "id": "", "folder": reference / "none", "arm": row.arm, "budget": row.budget}
        | {"validation_labels": int(number), "provenance": None}
        for row in table.itertuples()
        for number in str(row.validation_labels).split(";")
        if number.isdigit()
    ]


def _record_verification(study: Study, view: Path, out: Path) -> None:
    """Store small weights and predictions, and how far numbers made from them or anew may be from these."""
    from stedm.provenance import SUMS
    from stedm.verify import stored

    runs = stored.store(study, out)
    moved = stored.arithmetic(study, runs) if (study.tiles.folder / SUMS).is_file() else {}
    _record_tolerances(out, pd.read_parquet(view / "scores.parquet"), moved)


def _record_tolerances(out: Path, scores: pd.DataFrame, moved: dict[str, float] | None = None) -> None:
    """Write a result's tolerances; without `moved` (see `stedm.verify.stored`) those of stored weights stay."""
    from stedm.verify import tolerances
    from stedm.verify.values import read_tables

    path = out / tolerances.FILE
    made = tolerances.tolerances(scores, read_tables(out), moved or {})
    if moved is None and path.is_file():
        before = pd.read_csv(path)
        made = pd.concat([made, before[before["tier"] == "T2"]], ignore_index=True)
    tolerances.write(path, made)


def _copy_figures(view: Path, out: Path) -> None:
    for path in sorted((view / "figures").glob("*.png")):
        _copy_picture(path, out / "figures" / path.name)


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
            for folder in run.folders(jobs):
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
