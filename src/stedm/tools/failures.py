"""The jobs of a workflow that failed, said when it has ended: their last lines, and the command that runs one alone."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

LOGGER = "snakemake.logging"
"""Where Snakemake logs what becomes of its jobs."""
LINES, JOBS = 10, 10
"""Last lines that are shown of a log, and jobs whose logs are shown."""
TAIL = 65_536
"""Bytes at a log's end in which its last lines are looked for."""


@dataclass(frozen=True)
class Failure:
    """A job that failed."""

    rule: str
    command: str
    logs: tuple[Path, ...]
    """The job's own log, and that of a scheduler."""


class Failures(logging.Handler):
    """Listens to Snakemake for jobs that fail; one that succeeds afterwards is forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[int, Failure] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of an event, as `snakemake_interface_logger_plugins` names them."""
        said = vars(record)
        if said.get("event") == "job_error":
            logs = tuple(map(Path, said.get("log") or ()))
            self.jobs[said["jobid"]] = Failure(said["rule_name"], (said.get("shellcmd") or "").strip(), logs)
        elif said.get("event") == "job_finished":
            self.jobs.pop(said["job_id"], None)

    def summary(self) -> str:
        """Return the failed jobs as text, empty if there are none."""
        failed = list(self.jobs.values())
        shown = [_describe(failure) for failure in failed[:JOBS]]
        if len(failed) > JOBS:
            shown.append(f"Failed, too: {', '.join(failure.rule for failure in failed[JOBS:])} (see above)")
        return "\n\n".join(shown)


def _describe(failure: Failure) -> str:
    lines = [f"Failed: {failure.rule}"]
    for path in failure.logs:
        last = last_lines(path)
        lines += [f"  {path}" + ("" if last else " (no lines)"), *(f"    {line}" for line in last)]
    if failure.command:
        lines += ["  again, alone:", f"    {failure.command}"]
    return "\n".join(lines)


def last_lines(path: Path, count: int = LINES) -> list[str]:
    """Return the last lines of a text file; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []
