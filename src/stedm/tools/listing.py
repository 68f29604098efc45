"""Listing the runs of a configuration."""

from __future__ import annotations

from stedm.provenance import read_record
from stedm.runs import Plan


def list_runs(plan: Plan) -> str:
    """Return a line a run: stage, id, whether its product is there."""
    lines = [f"{plan.config.name}: {len(plan.slides)} slides, {sum(map(len, plan.all.values()))} runs"]
    jobs = plan.config.execution.synthetic_jobs
    for stage in ("cohort", "tiles", "autoencoder", "generator", "synthetic", "segmenter", "scores"):
        for run in plan.all.get(stage, {}).values():
            folders = run.parts(jobs) if stage == "synthetic" else [run.folder]
            there = all(read_record(folder) for folder in folders)
            lines.append(f"  {stage:<11} {run.id:<40} {'done' if there else '-'}")
    return "\n".join(lines)
