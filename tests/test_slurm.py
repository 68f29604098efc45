"""The workflow through profiles/slurm on a real scheduler: `make test-slurm`, and its faults: `make test-faults`."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import slurm
from conftest import MINI, command, write_config
from safetensors.torch import load_file
from test_processes import TOLERANCE

from stedm.config import load_config
from stedm.provenance import environment, write_text
from stedm.runs import Plan

pytestmark = pytest.mark.slurm

WORKFLOW = ("snakemake", "--profile", "profiles/slurm", "--configfile", "config/mini.yaml")
# The profile's pauses are made for jobs of hours.
QUICK = [
    *("--seconds-between-status-checks", "2"),
    *("--slurm-init-seconds-before-status-checks", "2"),
    *("--latency-wait", "5"),
]
LONG = MINI | {"name": "long", "segmenter": MINI["segmenter"] | {"steps": 1500, "checkpoint_every": 200}}


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    if reason := slurm.missing():
        pytest.skip(reason)
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def record(scheduler):
    """What became of each fault that was tried; written to the file that STEDM_FAULTS names."""
    rows: dict[str, dict] = {}
    yield rows
    if (path := os.environ.get("STEDM_FAULTS")) and rows:
        version = scheduler.say("scontrol", "--version").split()[1]
        write_text(Path(path), json.dumps({"slurm": version, **environment(), "faults": rows}, indent=1) + "\n")


def segmenter(root: Path, name: str, arm: str = "real"):
    run = Plan(load_config(root / "config" / f"{name}.yaml"), root).segmenter(arm, 1, 0)
    return dataclasses.replace(run, folder=run.folder.relative_to(root))


def sums(root: Path, run) -> str:
    return (root / run.folder / "SHA256SUMS").read_text()


def test_the_dag_runs_on_two_nodes_with_a_gpu_a_job(scheduler, built, project):
    """Six jobs; what they make is what a local run makes, byte for byte."""
    runs = [segmenter(project, "mini", arm) for arm in ("real", "synthetic")]
    command(project, *WORKFLOW, *QUICK, *(str(run.folder / "SHA256SUMS") for run in runs))
    jobs = scheduler.jobs()
    assert sorted(job["rule"] for job in jobs) == sorted(
        ["cohort", "tiles", "generator", "synthetic", "segmenter", "segmenter"]
    )
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    for job in jobs:
        assert job["gpus"] == (1 if job["rule"] in ("generator", "synthetic", "segmenter") else 0), job
    assert {job["NodeList"] for job in jobs} == set(slurm.NODES)
    for run in runs:
        assert sums(project, run) == sums(built, run)
        record = json.loads((project / run.folder / "provenance.json").read_text())
        assert record["device"] == "cpu"


def test_two_nodes_train_what_one_process_does(scheduler, finished):
    """One process on each node; only the order of sums differs."""
    values = MINI | {"name": "pair", "generator": MINI["generator"] | {"steps": 8}}
    write_config(finished, values, "alone")
    write_config(finished, values | {"execution": MINI["execution"] | {"nodes": 2}}, "pair")
    run = Plan(load_config(finished / "config" / "pair.yaml"), finished).generator(1, 0)
    command(finished, "stedm", "generator", "config/alone.yaml", run.id)
    alone = run.folder.rename(finished / "alone")
    before = {job["JobId"] for job in scheduler.jobs()}
    command(
        finished,
        *(*WORKFLOW[:-1], "config/pair.yaml", *QUICK, "--set-resources", "generator:gpu=2", "--"),
        str(run.folder.relative_to(finished) / "SHA256SUMS"),
        # Both nodes are this machine, whose names nobody resolves.
        MASTER_ADDR="127.0.0.1",
        GLOO_SOCKET_IFNAME="lo",
    )
    [job] = [job for job in scheduler.jobs() if job["JobId"] not in before]
    assert (job["rule"], job["JobState"], job["NumNodes"], job["gpus"]) == ("generator", "COMPLETED", "2", 2)
    assert json.loads((run.folder / "provenance.json").read_text())["processes"] == 2
    losses, expected = (pd.read_csv(folder / "preview" / "curves.csv") for folder in (run.folder, alone))
    assert losses["step"].tolist() == list(range(1, 9))
    assert abs(losses["loss"] - expected["loss"]).max() < TOLERANCE
    again, weights = (load_file(folder / "weights.safetensors") for folder in (run.folder, alone))
    assert max(float((again[name] - weights[name]).abs().max()) for name in weights) < TOLERANCE
    log = (finished / "results" / "logs" / "phantom" / "generator" / f"{run.id}.log").read_text()
    assert "srun starts 2 processes on 2 nodes" in log and log.count("first stage:") == 1


# ---- faults


@pytest.fixture(scope="module")
def undisturbed(built, tmp_path_factory):
    """A finished small run, and a longer training that nothing disturbed."""
    root = tmp_path_factory.mktemp("undisturbed") / "project"
    subprocess.run(["cp", "-a", str(built), str(root)], check=True)
    write_config(root, LONG, "long")
    run = segmenter(root, "long")
    command(root, "stedm", "segmenter", "config/long.yaml", run.id)
    return root, run


class Work:
    """A training of the workflow on the scheduler, to be disturbed."""

    def __init__(self, scheduler: slurm.Slurm, root: Path, run) -> None:
        self.scheduler, self.root, self.run = scheduler, root, run
        self.before = {job["JobId"] for job in scheduler.jobs()}
        self.started: list[subprocess.Popen] = []

    def start(self) -> subprocess.Popen:
        env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        arguments = [*WORKFLOW[:-1], "config/long.yaml", *QUICK, str(self.run.folder / "SHA256SUMS")]
        log = (self.root / f"snakemake-{len(self.started)}.log").open("w")
        process = subprocess.Popen(arguments, cwd=self.root, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def said(self) -> str:
        return "".join(path.read_text() for path in sorted(self.root.glob("snakemake-*.log")))

    def log(self) -> str:
        [path] = (self.root / "results" / "logs" / "phantom" / "segmenter").glob(f"{self.run.id}.log")
        return path.read_text()

    def until_state(self) -> None:
        folder = self.root / self.run.folder
        self.scheduler.until((folder.with_name(f".{folder.name}.partial") / "state.ckpt").exists, 120)

    def jobs(self) -> list[dict[str, str]]:
        return [job for job in self.scheduler.jobs() if job["JobId"] not in self.before]

    def running(self) -> dict[str, str]:
        [job] = [job for job in self.jobs() if job["JobState"] == "RUNNING"]
        return job

    def process(self) -> int:
        """Return the process of the training itself."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line = (entry / "cmdline").read_bytes().split(b"\0")
                if self.run.id.encode() in line and (entry / "cwd").resolve() == self.root:
                    return int(entry.name)
            except OSError:
                continue
        raise AssertionError("no training runs")


def killed(work: Work) -> None:
    """The training is killed with -9."""
    os.kill(work.process(), signal.SIGKILL)


def warned(work: Work) -> None:
    """The scheduler's warning: SIGTERM to all processes of the job's step, as --signal=TERM@ sends it."""
    work.scheduler.say("scancel", "--signal=TERM", work.running()["JobId"])


def requeued(work: Work) -> None:
    """Slurm takes the job back into the queue."""
    work.scheduler.say("scontrol", "requeue", work.running()["JobId"])


def node_down(work: Work) -> None:
    """The node is lost; the other one goes on."""
    node = work.running()["NodeList"]
    work.scheduler.say("scontrol", "update", f"nodename={node}", "state=down", "reason=test")


def node_drained(work: Work) -> None:
    """The node takes no more jobs, and finishes this one."""
    node = work.running()["NodeList"]
    work.scheduler.say("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")


def snakemake_killed(work: Work) -> None:
    """Snakemake is killed with -9 while its job goes on, and started again."""
    work.started[0].kill()
    work.started.pop(0).wait()
    work.start()


def two_snakemakes(work: Work) -> None:
    """A second snakemake is started beside the first."""
    work.start()


def controller_down(work: Work) -> None:
    """The controller is away for a while."""
    work.scheduler.stop("slurmctld", how=signal.SIGKILL)
    time.sleep(8)
    work.scheduler.start("slurmctld")
    work.scheduler.until(work.scheduler.answers, 60)


FAULTS = [killed, warned, requeued, node_down, node_drained, snakemake_killed, two_snakemakes, controller_down]
QUICK_FAULTS = [warned]


@pytest.mark.parametrize(
    "fault",
    [pytest.param(f, id=f.__name__, marks=[] if f in QUICK_FAULTS else pytest.mark.faults) for f in FAULTS],
)
def test_a_disturbed_training_ends_as_if_nothing_had_happened(scheduler, undisturbed, tmp_path, fault, record):
    finished, run = undisturbed
    root = tmp_path / "project"
    subprocess.run(["cp", "-a", str(finished), str(root)], check=True)
    shutil.rmtree(root / run.folder)
    (root / "results" / "logs" / "phantom" / "segmenter" / f"{run.id}.log").unlink(missing_ok=True)
    work = Work(scheduler, root, run)
    began = time.monotonic()
    # The row of a fault that is not survived stands in the record as well.
    row = record[fault.__name__] = {"what": fault.__doc__, "same weights and predictions": False}
    work.start()
    try:
        work.until_state()
        fault(work)
        codes = [process.wait(240) for process in work.started]
        assert codes == [0] * len(codes), work.said()[-4000:]
        assert sums(root, run) == sums(finished, run)
        scheduler.until(lambda: all(job["JobState"] in slurm.ENDED for job in work.jobs()), 60)
        # Taken up, not begun again; and nobody did it a second time.
        log = work.log()
        assert log.count("going on from step") <= 1 and log.count("the other process") <= 1
        assert len(re.findall(rf"{run.id}: \d+ steps in", log)) == 1
        if fault not in (node_drained, controller_down, snakemake_killed, two_snakemakes):
            assert "going on from step" in log
        row["same weights and predictions"] = True
    finally:
        row["seconds"] = round(time.monotonic() - began, 1)
        if "slurmctld" not in scheduler.daemons:
            scheduler.start("slurmctld")
            scheduler.until(scheduler.answers, 60)
        row["jobs"] = [f"{job['JobState']}, {job['Restarts']} restarts, on {job['NodeList']}" for job in work.jobs()]
        for process in work.started:
            process.poll() is None and process.kill()
        scheduler.clear()


def test_a_controller_that_does_not_answer_stops_the_run_before_any_job(scheduler, project):
    scheduler.stop("slurmctld")
    try:
        began = time.monotonic()
        done = command(project, *WORKFLOW, *QUICK, check=False)
        assert done.returncode != 0
        [sentence] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert "slurm" in sentence.lower() and "sinfo" in sentence
        assert not (project / "results" / "runs").exists()
        assert time.monotonic() - began < 60
    finally:
        scheduler.start("slurmctld")
        scheduler.until(scheduler.idle, 60)


def test_a_misspelt_profile_or_executor_stops_the_run(project):
    done = command(project, "snakemake", "--profile", "profiles/slrum", "-n", check=False)
    assert done.returncode != 0 and "profiles/slrum" in done.stderr
    done = command(project, "snakemake", "--executor", "slrum", "-n", check=False)
    assert done.returncode != 0 and "slrum" in done.stderr
