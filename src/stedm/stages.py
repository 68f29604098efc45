"""One function a stage: from a run of the plan to its product on disk."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from stedm.errors import UserError
from stedm.provenance import product, read_record, replacing
from stedm.runs import TRANSFERRED, Plan, Run
from stedm.staging import staged
from stedm.study import Study

log = logging.getLogger("stedm")

STATE_FILES = ("state.ckpt", ".state.ckpt.partial")
"""Files of a training's state (``stedm.training``), and of one that a killed process was about to keep."""


def _settings(run: Run) -> dict[str, Any]:
    return {**run.settings, **run.facts}


def make_cohort(plan: Plan, run: Run) -> None:
    """Acquire and verify the cohort's data; write ``cohort.parquet``, one row a slide."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    cohort = plan.data
    with product(run.folder, stage="cohort", settings=_settings(run)) as making:
        making.facts |= cohort.acquire(plan.slides, workers=plan.config.execution.slide_workers)
        rows = [{**vars(slide), "path": str(cohort.slide_path(slide))} for slide in plan.slides]
        pq.write_table(pa.Table.from_pylist(rows), making.folder / "cohort.parquet")


def make_tiles(plan: Plan, run: Run) -> None:
    """Cut every slide of the cohort into the tile store."""
    from stedm.tiles.cut import cut_cohort

    config, source = plan.config, run.inputs["cohort"].folder
    checksums = (read_record(source) or {}).get("md5", {})
    with product(run.folder, stage="tiles", settings=_settings(run), inputs={"cohort": source}) as making:
        making.facts |= cut_cohort(
            plan.data,
            plan.slides,
            config.tiles,
            making.folder,
            workers=config.execution.slide_workers,
            checksums=checksums,
        )


def make_autoencoder(plan: Plan, run: Run) -> None:
    """Train an autoencoder on the cohort's tiles."""
    from stedm.autoencoder.train import train_autoencoder
    from stedm.tiles.store import TileStore

    config, tiles = plan.config, run.inputs["tiles"].folder
    what = {"stage": "autoencoder", "settings": _settings(run), "inputs": {"tiles": tiles}, "keep": STATE_FILES}
    with product(run.folder, **what) as making, staged(config.execution.scratch, tiles) as [near]:
        train_autoencoder(
            making,
            store=TileStore(near),
            patients=run.settings["patients"],
            validation=plan.patients("validation"),
            kind=run.settings["kind"],
            config=config.generator.first_stage.train,
            device=config.execution.device,
            threads=config.execution.threads,
            workers=config.execution.loader_workers,
        )


def make_generator(plan: Plan, run: Run) -> None:
    """Train a generator."""
    from stedm.generator.build import weight_files
    from stedm.generator.train import train_generator
    from stedm.team import Team
    from stedm.tiles.store import TileStore

    team = Team(plan.config.execution.devices, plan.config.execution.nodes)
    if not team.leads:
        log.setLevel(logging.ERROR)
    config, tiles = plan.config, run.inputs["tiles"].folder
    labelled = run.settings["labelled"]
    inputs, settings = {"tiles": tiles} | weight_files(config.generator), config.generator
    if "autoencoder" in run.inputs:
        inputs["autoencoder"] = run.inputs["autoencoder"].folder
        update = {"path": inputs["autoencoder"], "train": None}
        settings = settings.model_copy(update={"first_stage": settings.first_stage.model_copy(update=update)})
    what = {"stage": "generator", "settings": _settings(run), "inputs": inputs, "keep": STATE_FILES}
    with (
        product(run.folder, **what, leads=team.leads) as making,
        staged(config.execution.scratch, tiles) as [near],
    ):
        train_generator(
            making,
            store=TileStore(near),
            labelled=labelled,
            unlabelled=plan.seen(labelled, run.facts["seed"]),
            config=settings,
            seed=run.facts["seed"],
            device=config.execution.device,
            threads=config.execution.threads,
            workers=config.execution.loader_workers,
            team=team,
            compile=config.execution.compile,
            channels_last=config.execution.channels_last,
            pictures=config.execution.pictures,
        )


def make_synthetic(plan: Plan, run: Run, part: int = 0) -> None:
    """Draw synthetic images, or one of several parts of them."""
    jobs = plan.config.execution.synthetic_jobs
    if not 0 <= part < jobs:
        raise UserError(f"--part {part}: execution.synthetic_jobs is {jobs}; give 0 to {jobs - 1}.")
    (_transfer if run.facts["sampling"] == TRANSFERRED else _draw)(plan, run, part, jobs)


def _transfer(plan: Plan, run: Run, part: int, jobs: int) -> None:
    from stedm.synthetic.transfer import draw_transferred
    from stedm.tiles.store import TileStore

    tiles, labelled = run.inputs["tiles"].folder, run.settings["labelled"]
    what = {"stage": "synthetic", "settings": _settings(run), "inputs": {"tiles": tiles}}
    with (
        product(run.parts(jobs)[part], **what) as making,
        staged(plan.config.execution.scratch, tiles) as [near],
    ):
        draw_transferred(
            making,
            store=TileStore(near),
            labelled=labelled,
            unlabelled=plan.unlabelled(labelled),
            config=plan.config.synthetic,
            seed=run.facts["seed"],
            part=part,
            parts=jobs,
        )


def _draw(plan: Plan, run: Run, part: int, jobs: int) -> None:
    from stedm.synthetic.draw import Setting, draw_synthetic

    config, generator = plan.config, run.inputs["generator"]
    inputs = {"tiles": run.inputs["tiles"].folder, "generator": generator.folder}
    labelled = generator.settings["labelled"]
    with (
        product(run.parts(jobs)[part], stage="synthetic", settings=_settings(run), inputs=inputs) as making,
        staged(config.execution.scratch, inputs["tiles"]) as [near],
    ):
        setting = Setting(
            store=near,
            generator=inputs["generator"],
            labelled=tuple(labelled),
            unlabelled=tuple(plan.styles(labelled, run.facts["seed"])),
            sampling=run.facts["sampling"],
            seed=run.facts["seed"],
            config=config.synthetic,
        )
        draw_synthetic(
            making,
            setting,
            generator_id=generator.id,
            part=part,
            parts=jobs,
            device=config.execution.device,
            threads=config.execution.threads,
            workers=config.execution.synthetic_workers,
        )


def make_segmenter(plan: Plan, run: Run) -> None:
    """Train a segmenter and predict the patients that are scored."""
    from stedm.segmenter.train import train_segmenter
    from stedm.tiles.store import TileStore
    from stedm.weights import existing

    config, tiles = plan.config, run.inputs["tiles"].folder
    synthetic = run.inputs.get("synthetic")
    parts = synthetic.parts(config.execution.synthetic_jobs) if synthetic else []
    inputs = {"tiles": tiles} | {f"synthetic-{n}": part for n, part in enumerate(parts)}
    labelled, settings = run.settings["labelled"], config.segmenter
    if settings.path is not None:
        inputs["encoder"] = existing(settings.path)
    if "colour_jitter" in run.settings["segmenter"]:
        update = {"colour_jitter": run.settings["segmenter"]["colour_jitter"]}
        settings = settings.model_copy(update=update)
    scored = plan.patients("test") if run.settings["scored"] == "test" else plan.unused(labelled)
    what = {"stage": "segmenter", "settings": _settings(run), "inputs": inputs, "keep": STATE_FILES}
    with (
        product(run.folder, **what) as making,
        staged(config.execution.scratch, tiles, *parts) as [near, *drawn],
    ):
        train_segmenter(
            making,
            store=TileStore(near),
            synthetic=TileStore(*drawn) if drawn else None,
            labelled=labelled,
            validation=plan.patients("validation"),
            scored=scored,
            config=settings,
            colour=run.settings["colour"],
            normalised=run.settings.get("normalised", False),
            learning=run.settings.get("unlabelled"),
            unlabelled=plan.unlabelled(labelled),
            seed=run.facts["seed"],
            label=run.id,
            device=config.execution.device,
            threads=config.execution.threads,
            workers=config.execution.loader_workers,
        )


def make_scores(plan: Plan, run: Run) -> None:
    """Count a segmenter's predictions against the labels, and keep overviews of a few slides."""
    from stedm.scores.count import SCORES, count_predictions
    from stedm.scores.overviews import OVERVIEWS, write_overviews
    from stedm.tiles.store import TileStore

    segmenter, tiles = run.inputs["segmenter"], run.inputs["tiles"].folder
    facts = {"cohort": plan.config.cohort.name, **run.facts, "segmenter": segmenter.id}
    inputs = {"segmenter": segmenter.folder, "tiles": tiles}
    with product(run.folder, stage="scores", settings=_settings(run), inputs=inputs) as making:
        predictions = segmenter.folder / "predictions.parquet"
        store = TileStore(tiles)
        count_predictions(predictions, store, facts, making.folder / SCORES)
        write_overviews(predictions, store, making.folder / "preview" / OVERVIEWS)


def make_report(study: Study, *, recorded: bool = False) -> str:
    """Collect the scores and write tables, figures, claims and the report; return the headline as text.

    Parameters
    ----------
    study
        The study.
    recorded
        Report the recorded scores instead, in ``results/review/<name>``; pictures and curves are of the runs there are.
    """
    import pandas as pd

    from stedm.report import build_report, headline_text
    from stedm.report.variants import PACKED, pack
    from stedm.scores.metrics import read_scores
    from stedm.verify.values import recorded_experiments

    config, out = study.config, study.view
    title = config.title or config.name
    if recorded:
        title, out = f"{title}, as recorded", study.root / "results" / "review" / config.name
        folder = study.root / "results" / "reference" / config.name
        scores, experiments = read_scores(folder / "scores.parquet"), recorded_experiments(study, folder)
    else:
        read = {run.id: read_scores(run.folder / "scores.parquet") for _, run in study.scored}
        scores = pd.concat([read[run.id] for run in study.scores], ignore_index=True)
        experiments = described_experiments(study, read)
    with replacing(out / "scores.parquet") as beside:
        scores.to_parquet(beside, index=False)
    if experiments:
        with replacing(out / PACKED) as beside:
            pack(experiments).to_parquet(beside, index=False)
    expected = [run.facts for run in study.scores]
    own = _described_runs(study, study.scores)
    others = _described_runs(study, [run for _, run in study.scored], besides={run["folder"] for run in own})
    try:
        build_report(
            out=out,
            title=title,
            scores=scores,
            runs=own,
            ledger=read_ledger(study.root / "docs" / "ledger.csv"),
            expected=expected,
            experiments=experiments,
            experiment_runs=others,
            resamples=config.report.resamples,
            seed=config.report.seed,
        )
    except ValueError as error:
        raise UserError(f"{out / 'scores.parquet'}: {error} Run the stages that made it again.") from error
    return headline_text(out)


def described_experiments(study: Study, read: dict[str, Any]) -> list[Any]:
    """Describe each experiment as the report takes it; `read` holds the scores by the id of their run."""
    import pandas as pd

    from stedm.experiments import shown
    from stedm.report.variants import Variant

    described = []
    for made in study.experiments:
        found = []
        for variant in made.variants:
            runs = [run for _, run in variant.scores]
            found.append(
                Variant(
                    chosen={key: shown(value) for key, value in variant.chosen.items()},
                    scores=pd.concat([read[run.id] for run in runs], ignore_index=True),
                    expected=[{**run.facts, "id": run.inputs["segmenter"].id} for run in runs],
                )
            )
        described.append(made.described(found))
    return described


def _described_runs(study: Study, scores: Iterable[Run], besides: Collection[Path] = ()) -> list[dict[str, Any]]:
    """Describe each run that scores rest on, `besides` some folders: where it is, what it is, its provenance."""
    needed: dict[Path, dict[str, Any]] = {}

    def add(run: Run) -> None:
        for source in run.inputs.values():
            add(source)
        for folder in run.folders(study.config.execution.synthetic_jobs):
            if folder in needed or folder in besides:
                continue
            record = read_record(folder)
            needed[folder] = {
                "stage": run.stage,
                "id": run.id,
                "folder": folder,
                "preset": study.config.preset or "none",
                **run.facts,
                "validation_labels": (record or {}).get("validation_slides"),
                "provenance": record,
            }

    for run in scores:
        add(run)
    return list(needed.values())


def read_ledger(path: Path) -> list[dict[str, str]]:
    """Read the deviation ledger, a CSV with the columns paper, ours, why; empty where there is none."""
    import csv

    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def make_search(study: Study) -> str:
    """Compare the strengths of colour augmentation on training patients; return the table as text."""
    import pandas as pd

    from stedm.scores.metrics import per_patient, read_scores

    rows = []
    for run in study.searched:
        patients = per_patient(read_scores(run.folder / "scores.parquet"))
        iou = patients.loc[patients["checkpoint"] == "last", "iou"]
        strength = run.inputs["segmenter"].settings["segmenter"]["colour_jitter"]
        rows.append({"strength": strength, "seed": run.facts["seed"], "patients": len(iou), "iou": iou.mean()})
    table = pd.DataFrame(rows).sort_values(["strength", "seed"])
    with replacing(study.view / "colour-search.csv") as beside:
        table.to_csv(beside, index=False)
    return table.groupby("strength")["iou"].mean().to_string()
