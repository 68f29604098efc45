"""The workflow through profiles/slurm on a real scheduler: `make test-slurm`, and its faults: `make test-faults`."""

import contextlib
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
from conftest import MINI, command, small_disk, write_config
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
        write_text(
            Path(path), json.dumps({"slurm": version, **environment(), "faults": list(rows.values())}, indent=1) + "\n"
        )


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
        self.more: list[str] = []
        """Further arguments of snakemake."""
        self.around = contextlib.ExitStack()
        """What holds until the end, whatever happens."""

    def start(self) -> subprocess.Popen:
        env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        target = str(self.run.folder / "SHA256SUMS")
        arguments = [*WORKFLOW[:-1], "config/long.yaml", *QUICK, *self.more, "--", target]
        log = (self.root / f"snakemake-{len(list(self.root.glob('snakemake-*.log')))}.log").open("w")
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

    def processes(self) -> list[tuple[int, list[bytes]]]:
        """Return every process that works in the project, with its command."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (entry / "cwd").resolve() == self.root:
                    found.append((int(entry.name), (entry / "cmdline").read_bytes().split(b"\0")))
        return found

    def training(self) -> list[int]:
        """Return the processes of the training itself."""
        return [number for number, command in self.processes() if self.run.id.encode() in command]

    def process(self) -> int:
        """Return the only one."""
        [number] = self.training()
        return number

    def over(self) -> bool:
        """Tell whether no job is left, and no process of one: Snakemake has ended."""
        return all(job["JobState"] in slurm.ENDED for job in self.jobs()) and not self.processes()


def killed(work: Work) -> None:
    """The training is killed with -9."""
    os.kill(work.process(), signal.SIGKILL)


def warned(work: Work) -> None:
    """The scheduler's warning: SIGTERM to all processes of the job's step, as --signal=TERM@ sends it."""
    work.scheduler.say("scancel", "--signal=TERM", work.running()["JobId"])


def time_limit_near(work: Work) -> None:
    """The time limit comes near: the scheduler itself sends the warning that the profile asks for."""
    # It looks at limits twice a minute; until then the training stands still. With its signal it wakes what stands.
    process = work.process()
    os.kill(process, signal.SIGSTOP)
    work.scheduler.say("scontrol", "update", f"jobid={work.running()['JobId']}", "timelimit=2")
    work.scheduler.until(lambda: process not in work.training(), 110)


def without_warning(work: Work) -> None:
    work.more = ["--set-resources", "segmenter:slurm_extra='--nice=0'"]


def time_limit(work: Work) -> None:
    """The time limit is reached, and nobody asked for a warning."""
    job = work.running()["JobId"]
    os.kill(work.process(), signal.SIGSTOP)
    work.scheduler.say("scontrol", "update", f"jobid={job}", "timelimit=1")
    work.scheduler.until(lambda: ("TIMEOUT", job) in [(one["JobState"], one["JobId"]) for one in work.jobs()], 180)


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


def little_room(work: Work) -> None:
    work.around.enter_context(small_disk(work.root / work.run.folder.parent, 8))


def disk_full(work: Work) -> None:
    """The disk is full when a state is written, as often as the job comes back; then room is made and all is rerun."""
    ballast = work.root / work.run.folder.with_name("ballast")
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    process = work.started.pop()
    assert process.wait(240) != 0
    assert "the disk is full" in work.said() and "Traceback" not in work.log()
    assert not (work.root / work.run.folder).exists()
    ballast.unlink()
    work.start()


def own_scratch(work: Work) -> None:
    (work.root / "scratch").mkdir()
    work.more = ["--config", "execution=" + json.dumps({"scratch": str(work.root / "scratch")})]


def scratch_gone(work: Work) -> None:
    """The node's scratch folder, from which the training reads, vanishes."""
    assert list((work.root / "scratch").rglob("*.bin"))
    shutil.rmtree(work.root / "scratch")


FAULTS = [
    *(killed, warned, time_limit_near, time_limit, requeued, node_down, node_drained),
    *(snakemake_killed, two_snakemakes, controller_down, disk_full, scratch_gone),
]
BEFORE = {time_limit: without_warning, disk_full: little_room, scratch_gone: own_scratch}
"""What a fault needs before the start."""
QUICK_FAULTS = [warned]
UNHARMED = [node_drained, controller_down, snakemake_killed, two_snakemakes, scratch_gone]
"""Faults that the training itself does not notice; after all others it goes on from a state."""


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
    row = record[fault.__name__] = {"what happens": fault.__doc__, "passed": False}
    try:
        BEFORE.get(fault, lambda _: None)(work)
        work.start()
        work.until_state()
        fault(work)
        codes = [process.wait(240) for process in work.started]
        assert codes == [0] * len(codes), work.said()[-4000:]
        row["seconds"] = round(time.monotonic() - began)
        row["same weights and predictions"] = sums(root, run) == sums(finished, run)
        assert row["same weights and predictions"]
        scheduler.until(work.over, 60)
        row["left running"] = len(work.processes())
        # Taken up, not begun again; and nobody did it a second time.
        log = work.log()
        row["taken up from a state"] = log.count("going on from step")
        row["trained to the end"] = len(re.findall(rf"{run.id}: \d+ steps in", log))
        assert row["trained to the end"] == 1 and log.count("the other process") <= 1
        if fault is not disk_full:
            assert row["taken up from a state"] == (0 if fault in UNHARMED else 1), log[-4000:]
        row["passed"] = True
    finally:
        if "slurmctld" not in scheduler.daemons:
            scheduler.start("slurmctld")
            scheduler.until(scheduler.answers, 60)
        row["jobs"] = "; ".join(
            f"{job['JobState'].lower()} on {job['NodeList']}, restarts {job['Restarts']}" for job in work.jobs()
        )
        for process in work.started:
            process.poll() is None and process.kill()
        scheduler.clear()
        work.around.close()


def test_a_controller_that_does_not_answer_stops_the_run_before_any_job(scheduler, project, record):
    scheduler.stop("slurmctld")
    began = time.monotonic()
    what = "The controller is down at the start: an error names it before any job."
    row = record["controller_absent"] = {"what happens": what, "passed": False}
    try:
        done = command(project, *WORKFLOW, *QUICK, check=False)
        assert done.returncode != 0
        [sentence] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert "slurm" in sentence.lower() and "sinfo" in sentence
        assert not (project / "results" / "runs").exists()
        assert time.monotonic() - began < 60
        row |= {"seconds": round(time.monotonic() - began), "passed": True}
    finally:
        scheduler.start("slurmctld")
        scheduler.until(scheduler.idle, 60)


def test_a_misspelt_profile_or_executor_stops_the_run(project):
    done = command(project, "snakemake", "--profile", "profiles/slrum", "-n", check=False)
    assert done.returncode != 0 and "profiles/slrum" in done.stderr
    done = command(project, "snakemake", "--executor", "slrum", "-n", check=False)
    assert done.returncode != 0 and "slrum" in done.stderr
