"""Listing the runs of a configuration."""

from __future__ import annotations

from stedm.provenance import read_record
from stedm.runs import STAGES
from stedm.study import Study


def list_runs(study: Study) -> str:
    """Return a line a run: stage, id, whether its product is there."""
    lines = [f"{study.config.name}: {len(study.plans[0].slides)} slides, {sum(map(len, study.all.values()))} runs"]
    jobs = study.config.execution.synthetic_jobs
    for stage in STAGES:
        for run in study.all.get(stage, {}).values():
            there = all(read_record(folder) for folder in run.folders(jobs))
            lines.append(f"  {stage:<11} {run.id:<40} {'done' if there else '-'}")
    return "\n".join(lines)
