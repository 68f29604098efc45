"""Schedulers: does one answer, what do its jobs find, and how does one job spread over nodes?"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from stedm.config import ExecutionConfig
from stedm.errors import UserError
from stedm.team import Team

log = logging.getLogger("stedm")

COMMANDS = {"slurm": ("sinfo", "--noheader")}
"""A command that succeeds where the scheduler of an executor answers."""


def check_scheduler(executor: str, timeout: float = 30.0) -> None:
    """Ask the scheduler that an executor of Snakemake submits to for a sign of life.

    Parameters
    ----------
    executor
        Name of the executor; those without a scheduler that is known here always pass.
    timeout
        Seconds to wait for an answer.

    Raises
    ------
    UserError
        If its commands are not on this machine, or it does not answer.
    """
    command = COMMANDS.get(executor)
    if command is None:
        return
    said = " ".join(command)
    if shutil.which(command[0]) is None:
        raise UserError(
            f"--executor {executor}: there is no {command[0]!r} here; start Snakemake on a login node of the cluster, "
            "or take --profile profiles/local."
        )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        problem = done.stderr.strip().splitlines()[-1:] if done.returncode else None
    except subprocess.TimeoutExpired:
        problem = [f"no answer in {timeout:.0f} s"]
    if problem is not None:
        why = problem[0] if problem else f"exit code {done.returncode}"
        raise UserError(
            f"--executor {executor}: the scheduler does not answer ({said!r}: {why}); "
            "no job was submitted, run the same command again when it does."
        )


def find_commands() -> None:
    """Let what this process starts find the commands of its environment.

    A scheduler may start jobs in a login shell, which forgets the environment that the workflow was started in.
    """
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def start_on_all_nodes(execution: ExecutionConfig) -> None:
    """In a job of Slurm, become the `srun` that starts this command once a process of a training on several nodes.

    Where one node is all, where the processes have been started already, or outside of Slurm, this returns.

    Parameters
    ----------
    execution
        How many nodes and processes train together.

    Raises
    ------
    UserError
        If there is no `srun` on this node.
    """
    team = Team(execution.devices, execution.nodes)
    if team.nodes == 1 or "SLURM_JOB_ID" not in os.environ or team.started_by is not None:
        return
    # One that fails ends the others, which would wait for it.
    options = [f"--nodes={team.nodes}", f"--ntasks={team.size}", f"--ntasks-per-node={team.devices}"]
    options += [f"--cpus-per-task={execution.threads}", "--kill-on-bad-exit=1"]
    log.info("srun starts %d processes on %d nodes", team.size, team.nodes)
    try:
        os.execvp("srun", ["srun", *options, sys.executable, *sys.argv])
    except FileNotFoundError:
        raise UserError(
            f"execution.nodes is {team.nodes} and there is no 'srun' on this node to start the processes; install it, "
            "or start the command by torchrun."
        ) from None
