import os
import sys
from pathlib import Path

from stedm.config import parse_config
from stedm.errors import UserError
from stedm.provenance import SUMS, fingerprint, write_text
from stedm.study import Study

try:
    settings = parse_config(
        config, source=", ".join(map(str, workflow.configfiles)) or "--config"
    )
    study = Study(settings)
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    # Snakemake wraps an exception in its own lines and a traceback; the sentence above is all there is to say.
    sys.stderr.flush()
    os._exit(2)

EXECUTION = settings.execution
RUNS = "results/runs/{cohort}"
# Handed to commands as a resource: in `params` or `input` it would be a reason to rerun what two configurations share.
RESOLVED = f"results/{settings.name}/config.yaml"


wildcard_constraints:
    cohort="[a-z0-9-]+",
    id="[a-z0-9-]+",
    part=r"\d+",
    parts=r"\d+",


onstart:
    import yaml

    write_text(
        Path(RESOLVED),
        yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False),
    )


def sums(run):
    """Files that say that a run's product is whole; they change only when its contents do."""
    folders = (
        run.parts(EXECUTION.synthetic_jobs)
        if run.stage == "synthetic"
        else [run.folder]
    )
    return [str(folder / SUMS) for folder in folders]


def inputs(stage):
    """Input function of a stage: the products of the runs that this one builds on."""

    def find(wildcards):
        _, run = study.find(stage, wildcards.id)
        return [path for source in run.inputs.values() for path in sums(source)]

    return find


def gpus():
    return 1 if EXECUTION.device == "cuda" else 0
