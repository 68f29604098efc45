"""What would run for a configuration, and what it takes: jobs, GPU-hours, CPU-hours and disk, by stage and by table."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from stedm.config import Config, load_config
from stedm.errors import UserError
from stedm.provenance import SUMS
from stedm.runs import STAGES, TRANSFERRED, Plan, Run
from stedm.study import Studies, Study
from stedm.tools.gpus import needed

ARMS_OF_RUN = "arms of the run"
"""The row of what is needed whatever the experiments."""
DECLARED = "declared"
RULES = Path("workflow") / "rules"
Kind = tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One job of the workflow and what it takes; None where nothing says."""

    stage: str
    folder: Path
    missing: bool
    seconds: float | None
    megabytes: float | None
    threads: int
    gpu: bool
    measured: bool
    """Whether the megabytes are of products that are there; else they are the most that a rule allows."""
    basis: str
    """Where the time is from: `benchmarks`, the name of a recorded result, or `declared`: the most a rule allows."""


def price(studies: Studies) -> str:
    """Return tables of what would run: by stage, and by table of the report."""
    blocks, everything, tables = [], {}, {}
    for study in studies.all:
        jobs, needs = _jobs(study), _needs(study)
        blocks.append(f"{study.config.name}: {_counted(jobs.values())}\n\n{_by_stage(jobs.values())}")
        blocks.append(_by_table(jobs, needs))
        everything |= jobs
        for name, folders in needs.items():
            tables.setdefault(name, set()).update(folders)
    if len(studies.all) > 1:
        blocks.append(f"together: {_counted(everything.values())}\n\n{_by_stage(everything.values())}")
        blocks.append(_by_table(everything, tables))
    notes = [
        "Hours of one job after the other; CPU-hours: times threads. What is there already costs nothing.",
        "from: benchmarks of this configuration's runs; a recorded result of the same preset, tile and device; or",
        f"{DECLARED}: the most that the rule allows (≤), far above what small models take. >: a part is not known.",
    ]
    return "\n\n".join([*blocks, "\n".join(notes)])


# ---- jobs


def _jobs(study: Study) -> dict[Path, Job]:
    """Return the jobs of what the view shows, by the folder that each makes."""
    rates, sizes = _Rates(study), _Sizes(study)
    made = {}
    for plan, run in _with_inputs(study, study.scored):
        execution = plan.config.execution
        trains = run.stage in ("autoencoder", "generator", "synthetic", "segmenter")
        threads = max(1, execution.slide_workers) if run.stage in ("cohort", "tiles") else 1
        threads = execution.threads if trains else threads
        if run.stage == "synthetic":
            threads *= max(1, execution.synthetic_workers)
        seconds, basis = rates.seconds(plan, run)
        for folder in _folders(plan, run):
            there = (folder / SUMS).is_file()
            gpu = execution.device == "cuda" and needed(execution, run) > 0
            size, measured = sizes.of(plan, run)
            made[folder] = Job(run.stage, folder, not there, seconds, size, threads, gpu, measured, basis)
    return made


def _folders(plan: Plan, run: Run) -> list[Path]:
    return run.folders(plan.config.execution.synthetic_jobs)


def _with_inputs(study: Study, scored: Iterable[tuple[Plan, Run]]) -> Iterator[tuple[Plan, Run]]:
    """Return runs and all that they rest on, each once."""
    pending, seen = [run for _, run in scored], set()
    while pending:
        run = pending.pop()
        if run.folder not in seen:
            seen.add(run.folder)
            pending += run.inputs.values()
            yield study.find(run.stage, run.id)


def _needs(study: Study) -> dict[str, set[Path]]:
    """Return the folders that each table rests on."""
    scored = {ARMS_OF_RUN: [(plan, plan.scores(run)) for plan, run in study.segmenters]}
    for made in study.experiments:
        scored[made.experiment.name] = [pair for variant in made.variants for pair in variant.scores]
    return {
        name: {folder for plan, run in _with_inputs(study, pairs) for folder in _folders(plan, run)}
        for name, pairs in scored.items()
    }


# ---- what they take


def _kinds(plan: Plan, run: Run) -> list[Kind]:
    """Return what runs of alike cost have in common, the closest first."""
    if run.facts.get("sampling") == TRANSFERRED:
        return [(run.stage, TRANSFERRED)]
    style = plan.config.generator.style
    closer = {
        "generator": (style.sampling, style.aggregation),
        "synthetic": (run.facts.get("sampling", ""), style.aggregation),
        "segmenter": (str(run.facts.get("arm")),),
    }.get(run.stage, ())
    return [(run.stage, *closer), (run.stage,)]


def _work(plan: Plan, run: Run) -> float:
    """Return how much a job of a run does, in units that are alike within a stage."""
    config = plan.config
    if run.stage == "generator":
        return config.generator.steps * config.generator.batch * config.generator.accumulate
    if run.stage == "autoencoder":
        return config.generator.first_stage.train.steps * config.generator.first_stage.train.batch
    if run.stage == "segmenter":
        return config.segmenter.steps * config.segmenter.batch
    if run.stage == "synthetic":
        drawn, images = config.synthetic, config.synthetic.count / config.execution.synthetic_jobs
        if run.facts.get("sampling") == TRANSFERRED:
            return images
        guided = run.facts.get("sampling") != "none" and drawn.guidance != 1
        evaluations = 1 + guided + (drawn.layout_guidance != 1)
        return images * drawn.steps * evaluations * (2 if drawn.sampler == "heun" else 1)
    return len(plan.slides)


class _Rates:
    """Seconds of a unit of work, from benchmarks of the study's runs and from recorded results."""

    def __init__(self, study: Study) -> None:
        self.root = study.root
        own = _measured(study, _benchmark)
        self.sources: list[tuple[str, dict[Kind, list[float]]]] = [("benchmarks", own)] if own else []
        for path in sorted((study.root / "results" / "reference").glob("*/made-by.json")):
            if (other := _recorded_study(path, study)) is not None:
                times = json.loads(path.read_text())["runs"]
                found = _measured(other, lambda folder, _, times=times, of=other: _recorded(times, folder, of))
                self.sources += [(path.parent.name, found)] if found else []

    def seconds(self, plan: Plan, run: Run) -> tuple[float | None, str]:
        """Return how long a job of a run takes, and what says so."""
        for name, rates in self.sources:
            for kind in _kinds(plan, run):
                if kind in rates:
                    return median(rates[kind]) * _work(plan, run), name
        minutes = _declared(self.root, run.stage, "runtime")
        return (None if minutes is None else 60 * minutes), DECLARED


def _measured(study: Study, read) -> dict[Kind, list[float]]:
    rates: dict[Kind, list[float]] = {}
    for plan, run in _with_inputs(study, study.scored):
        for folder in _folders(plan, run):
            if (seconds := read(folder, study.root)) is not None:
                for kind in _kinds(plan, run):
                    rates.setdefault(kind, []).append(seconds / _work(plan, run))
    return rates


def _benchmark(folder: Path, root: Path) -> float | None:
    """Read Snakemake's benchmark of the job that makes a folder."""
    cohort, stage, *names = folder.relative_to(root / "results" / "runs").parts
    path = root / "results" / "benchmarks" / cohort / stage / f"{'-'.join(names).replace('-part-', '-')}.tsv"
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        return next((float(row["s"]) for row in csv.DictReader(file, delimiter="\t")), None)


def _recorded(times: dict[str, dict], folder: Path, study: Study) -> float | None:
    name = folder.relative_to(study.root / "results" / "runs").as_posix()
    return (times.get(name) or {}).get("wall_seconds")


def _recorded_study(path: Path, study: Study) -> Study | None:
    """Return the study of a recorded result if its jobs are of the same models on the same device."""
    try:
        config = load_config(path.with_name("config.yaml"))
    except UserError:
        # Recorded under an older schema: nothing to measure by.
        return None
    same = all(_alike(config) == _alike(other.config) for other in study.plans[:1])
    return Study(config, study.root) if same else None


def _alike(config: Config) -> tuple[object, ...]:
    return config.preset, config.tiles.tile, config.execution.device


class _Sizes:
    """Megabytes of a product, from those that are there."""

    def __init__(self, study: Study) -> None:
        self.root = study.root
        self.found: dict[Kind, list[float]] = {}
        for plan, run in _with_inputs(study, study.scored):
            for folder in _folders(plan, run):
                if (folder / SUMS).is_file():
                    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
                    scale = plan.config.synthetic.count if run.stage == "synthetic" else 1
                    for kind in _kinds(plan, run):
                        self.found.setdefault(kind, []).append(size / scale)

    def of(self, plan: Plan, run: Run) -> tuple[float | None, bool]:
        """Return the size of what a job of a run makes, and whether it was measured or is declared."""
        scale = plan.config.synthetic.count if run.stage == "synthetic" else 1
        for kind in _kinds(plan, run):
            if kind in self.found:
                return median(self.found[kind]) * scale, True
        return _declared(self.root, run.stage, "disk_mb"), False


def _declared(root: Path, stage: str, resource: str) -> float | None:
    """Read a resource that a stage's rule declares."""
    path = root / RULES / f"{stage}.smk"
    found = re.search(rf"\b{resource}=(\d+),", path.read_text()) if path.is_file() else None
    return float(found[1]) if found else None


# ---- tables


def _counted(jobs: Iterable[Job]) -> str:
    jobs = list(jobs)
    return f"{len(jobs)} jobs and the report, of which {sum(job.missing for job in jobs)} would run"


def _by_stage(jobs: Iterable[Job]) -> str:
    jobs = list(jobs)
    lines = [["stage", "jobs", "to run", "GPU-hours", "CPU-hours", "disk", "from"]]
    for stage in STAGES:
        own = [job for job in jobs if job.stage == stage]
        if own:
            lines.append([stage, *_sums(own), _bases(own)])
    return _table([*lines, ["total", *_sums(jobs), ""]])


def _by_table(jobs: dict[Path, Job], needs: dict[str, set[Path]]) -> str:
    lines = [["table", "jobs", "to run", "GPU-hours", "CPU-hours", "disk", "for it alone"]]
    for name, folders in needs.items():
        others = set().union(*(other for key, other in needs.items() if key != name))
        alone = [jobs[folder] for folder in sorted(folders - others)]
        _, missing, gpu, cpu, _ = _sums(alone)
        own = f"{missing} jobs, {gpu if gpu != '0.0' else cpu} {'GPU' if gpu != '0.0' else 'CPU'}-hours"
        lines.append([name, *_sums([jobs[folder] for folder in folders]), own])
    return _table(lines)


def _sums(jobs: Iterable[Job]) -> list[str]:
    jobs = list(jobs)
    todo = [job for job in jobs if job.missing]
    gpus = [job for job in todo if job.gpu]
    hours = [
        _total(
            [None if job.seconds is None else job.seconds * (1 if own is gpus else job.threads) for job in own],
            3600,
            most=any(job.basis == DECLARED for job in own),
        )
        for own in (gpus, todo)
    ]
    disk = _total([job.megabytes for job in todo], 1000, most=not all(job.measured for job in todo))
    return [str(len(jobs)), str(len(todo)), *hours, disk if disk == "unknown" else f"{disk} GB"]


def _total(values: list[float | None], unit: float, *, most: bool) -> str:
    known = [value for value in values if value is not None]
    if values and not known:
        return "unknown"
    sign = "> " if len(known) < len(values) else "≤ " if most else ""
    return f"{sign}{sum(known) / unit:.1f}"


def _bases(jobs: list[Job]) -> str:
    todo = [job.basis for job in jobs if job.missing]
    counted = {basis: todo.count(basis) for basis in dict.fromkeys(todo)}
    if len(counted) == 1:
        return next(iter(counted))
    return ", ".join(f"{basis} ({number})" for basis, number in counted.items())


def _table(lines: list[list[str]]) -> str:
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    rows = []
    for number, line in enumerate(lines):
        cells = [
            cell.ljust(width) if place in (0, len(line) - 1) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        rows.append(("  " + "  ".join(cells)).rstrip())
        if number == 0:
            rows.append("  " + "  ".join("─" * width for width in widths))
    return "\n".join(rows)
