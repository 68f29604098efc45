"""One job, one GPU: real processes that overlap, and GPUs that are numbers only."""

import argparse
import fcntl
import logging
import os
import select
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import MINI, one_sentence, write_config

from stedm.cli import _run_stage
from stedm.config import ExecutionConfig, load_config, parse_config
from stedm.errors import UserError
from stedm.runs import Plan
from stedm.tools import gpus

JOB = """
import os, sys
from pathlib import Path
from stedm.tools.gpus import held
with held(sys.argv[2].split(","), int(sys.argv[3]), Path(sys.argv[1])):
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.readline()
"""


class Job:
    def __init__(self, folder: Path, among: str, count: int = 1) -> None:
        command = [sys.executable, "-c", JOB, str(folder), among, str(count)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def holds(self) -> str:
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate("\n", timeout=30)


def test_jobs_at_once_hold_different_gpus_and_let_go_however_they_end(tmp_path):
    first, second = Job(tmp_path, "0,3"), Job(tmp_path, "0,3")
    one, other = first.holds(), second.holds()
    assert {one, other} == {"0", "3"}
    third = Job(tmp_path, "0,3")
    ready, _, _ = select.select([third.process.stdout], [], [], 1)
    assert not ready, "a GPU was given to two jobs"
    second.process.kill()
    assert third.holds() == other
    second.process.communicate()
    # Two that want both wait for both, one after the other.
    both = [Job(tmp_path, "0,3", 2) for _ in range(2)]
    first.end(), third.end()
    for job in both:
        job.process.stdin.write("\n")
        job.process.stdin.flush()
    for job in both:
        out, _ = job.process.communicate(timeout=30)
        assert sorted(out.strip().split(",")) == ["0", "3"]


def test_a_gpu_that_is_named_twice_serves_two_jobs_after_all_others(tmp_path):
    with gpus.held(["0", "0", "1"], 1, tmp_path) as a, gpus.held(["0", "0", "1"], 1, tmp_path) as b:
        assert (a, b) == (["0"], ["1"])
        with gpus.held(["0", "0", "1"], 1, tmp_path) as c:
            assert c == ["0"] and os.environ[gpus.VISIBLE] == "0"
        with pytest.raises(UserError, match="there are 2 GPUs") as error, gpus.held(["0", "0", "1"], 3, tmp_path):
            pass
        one_sentence(error)


def test_the_environment_is_as_before_afterwards(tmp_path, monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "5,7")
    with gpus.held(["5", "7"], 1, tmp_path):
        assert os.environ[gpus.VISIBLE] == "5"
    assert os.environ[gpus.VISIBLE] == "5,7"
    with gpus.held([], 1, tmp_path / "none") as chosen:
        assert chosen == [] and os.environ[gpus.VISIBLE] == "5,7" and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("settings", "environment", "among"),
    [
        ({"gpus": [0, 1]}, {}, ["0", "1"]),
        ({"gpus": [2]}, {}, ["2"]),
        ({"gpus": [0, 1], "device": "cpu"}, {}, []),
        ({"gpus": [0, 1]}, {"SLURM_JOB_ID": "4"}, []),
        ({"gpus": [0, 1]}, {"LOCAL_RANK": "1"}, []),
        ({}, {"CUDA_VISIBLE_DEVICES": "2,GPU-5f"}, ["2", "GPU-5f"]),
        ({}, {"CUDA_VISIBLE_DEVICES": "2"}, []),
        ({}, {"CUDA_VISIBLE_DEVICES": ""}, []),
    ],
)
def test_where_there_is_no_choice_none_is_made(monkeypatch, settings, environment, among):
    for name in (gpus.VISIBLE, *gpus.CHOSEN_ALREADY):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert gpus.numbers(ExecutionConfig(**settings)) == among


def test_jobs_take_as_many_as_they_use(template):
    values = MINI | {"arms": ["real", "synthetic", "transferred"], "execution": {"devices": 2}}
    plan = Plan(parse_config(values), template)
    runs = [run for stage in plan.all.values() for run in stage.values()]
    found = {run.facts.get("sampling", run.stage): gpus.needed(plan.config.execution, run) for run in runs}
    without = dict.fromkeys(("cohort", "tiles", "scores", "transferred"), 0)
    assert found == without | {"generator": 2, plan.config.generator.style.sampling: 1, "segmenter": 1}


def test_a_stage_says_which_gpu_it_holds(finished, tmp_path, monkeypatch, caplog):
    """Here torch sees no GPU whatever the numbers, and computes on the processor."""
    execution = MINI["execution"] | {"device": "auto", "gpus": [8, 9]}
    path = write_config(finished, MINI | {"execution": execution})
    [run] = Plan(load_config(path), finished).all["synthetic"].values()
    monkeypatch.chdir(finished)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(logging.getLogger("stedm"), "propagate", True)
    caplog.set_level(logging.INFO, "stedm")
    with gpus.held(["8", "9"], 1):
        _run_stage(argparse.Namespace(stage="synthetic", config=path, id=run.id, part=0))
    assert "GPU 9 of 8,9" in caplog.messages


def test_jobs_that_want_several_do_not_keep_what_the_other_waits_for(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "WAIT", 0.01)
    served: list[list[str]] = []

    def job() -> None:
        with ExitStack() as locks:
            served.append(gpus._choose(["0", "1"], 2, tmp_path, locks))

    # Who is first is a matter of chance, which a single round might not show.
    for count in range(2, 22, 2):
        taken = [(tmp_path / f"{name}.0").open("w") for name in "01"]
        for lock in taken:
            fcntl.flock(lock, fcntl.LOCK_EX)
        jobs = [threading.Thread(target=job, daemon=True) for _ in range(2)]
        for one in jobs:
            one.start()
        for lock in taken:
            time.sleep(0.05)
            lock.close()
        for one in jobs:
            one.join(5)
        assert len(served) == count
