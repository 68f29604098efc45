import logging
import os
import sys
from pathlib import Path

from stedm.config import parse_configs
from stedm.errors import UserError
from stedm.provenance import SUMS, fingerprint, write_text
from stedm.study import Studies
from stedm.tools.failures import LOGGER, Failures
from stedm.tools.memory import memory_mb
from stedm.tools.scheduler import check_scheduler, find_commands


def leave(error):
    """End with the one sentence; Snakemake would wrap an exception in its own lines and a traceback."""
    print(f"error: {error}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(2)


try:
    studies = Studies(
        parse_configs(
            config, source=", ".join(map(str, workflow.configfiles)) or "--config"
        )
    )
except UserError as error:
    leave(error)

find_commands()

RUNS = "results/runs/{cohort}"
VIEW = "results/{name}"
NAMES = [study.config.name for study in studies.all]


wildcard_constraints:
    cohort="[a-z0-9-]+",
    id="[a-z0-9-]+",
    name="|".join(NAMES),
    part=r"\d+",
    parts=r"\d+",


onstart:
    import yaml

    try:
        check_scheduler(workflow.executor_plugin.name)
    except UserError as error:
        leave(error)
    for study in studies.all:
        write_text(
            study.view / "config.yaml",
            yaml.safe_dump(study.config.model_dump(mode="json"), sort_keys=False),
        )


# Of the jobs that this process runs or submits; one on a node has nobody to tell.
failures = Failures()
if workflow.is_main_process:
    logging.getLogger(LOGGER).addHandler(failures)


onerror:
    print(failures.summary(), file=sys.stderr)


def resolved(stage):
    """Resource function of a stage: the configuration of the study that a job's run belongs to.

    A resource: in `params` or `input` it would be a reason to rerun what two configurations share.
    """

    def find(wildcards):
        return str(studies.having(stage, wildcards.id).view / "config.yaml")

    return find


def view_settings(wildcards):
    """The configuration of the study whose view a job makes."""
    return str(studies.named(wildcards.name).view / "config.yaml")


def configured(stage, take):
    """Function of a stage: what `take` makes of the configuration of a job's study."""

    def find(wildcards):
        return take(studies.having(stage, wildcards.id).config)

    return find


def execution(stage, take):
    """The same of its execution settings."""
    return configured(stage, lambda config: take(config.execution))


def sums(run, jobs=1):
    """Files that say that a run's product is whole; they change only when its contents do."""
    return [str(folder / SUMS) for folder in run.folders(jobs)]


def inputs(stage):
    """Input function of a stage: the products of the runs that this one builds on."""

    def find(wildcards):
        plan, run = studies.having(stage, wildcards.id).find(stage, wildcards.id)
        jobs = plan.config.execution.synthetic_jobs
        return [path for source in run.inputs.values() for path in sums(source, jobs)]

    return find


def slide_workers(settings):
    return max(1, settings.slide_workers)


def threads_of(settings):
    return settings.threads


def synthetic_threads(settings):
    return settings.threads * max(1, settings.synthetic_workers)


def gpus(settings):
    return 1 if settings.device == "cuda" else 0


def training_threads(settings):
    return settings.threads * settings.devices


def training_gpus(settings):
    """GPUs of all nodes together."""
    return settings.devices * settings.nodes if settings.device == "cuda" else 0


def on_nodes(take):
    """What the Slurm plugin needs to be told of a generator's training on several nodes, and of no other job."""
    return execution(
        "generator", lambda settings: take(settings) if settings.nodes > 1 else None
    )


def training_memory(stage):
    """Main memory of a stage that trains or draws, in MB."""
    return configured(stage, memory_mb)
