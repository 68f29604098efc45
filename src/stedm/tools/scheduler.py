"""Whether a scheduler answers, asked before any job is submitted."""

from __future__ import annotations

import shutil
import subprocess

from stedm.errors import UserError

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
