"""What is said of failed jobs (that it is said at all: test_workflow.py)."""

import logging
import sys

import pytest
from conftest import command

from stedm.tools.failures import JOBS, LINES, Failures, last_lines


@pytest.fixture
def snakemake():
    """A logger with the ears of :class:`Failures`, and what they have heard."""
    logger, failures = logging.Logger("snakemake"), Failures()
    logger.addHandler(failures)
    return logger, failures


def fail(logger, number, logs=(), shell=None):
    said = {"event": "job_error", "jobid": number, "rule_name": f"rule{number}", "log": list(logs), "shellcmd": shell}
    logger.error("Error in rule", extra=said)


def test_the_last_lines_and_the_command_of_a_failed_job(snakemake, tmp_path):
    logger, failures = snakemake
    own, scheduler = tmp_path / "own.log", tmp_path / "slurm.log"
    own.write_text("".join(f"line {n}\n" for n in range(100_000)))
    scheduler.write_bytes(b"oom-kill \xff\n")
    fail(logger, 1, [own, scheduler, tmp_path / "none.log"], "\n  stedm scores config.yaml id\n")
    assert failures.summary().splitlines() == [
        "Failed: rule1",
        f"  {own}",
        *(f"    line {n}" for n in range(100_000 - LINES, 100_000)),
        f"  {scheduler}",
        "    oom-kill \ufffd",
        f"  {tmp_path / 'none.log'} (no lines)",
        "  again, alone:",
        "    stedm scores config.yaml id",
    ]


def test_a_job_that_came_back_has_not_failed(snakemake):
    logger, failures = snakemake
    logger.info("of no interest")
    assert failures.summary() == ""
    fail(logger, 1)
    fail(logger, 2)
    logger.info("Finished", extra={"event": "job_finished", "job_id": 1})
    logger.info("Finished", extra={"event": "job_finished", "job_id": 7})
    fail(logger, 2)
    assert failures.summary() == "Failed: rule2"


def test_many_failed_jobs_are_named(snakemake):
    logger, failures = snakemake
    for number in range(JOBS + 2):
        fail(logger, number)
    assert failures.summary().count("Failed: ") == JOBS
    assert failures.summary().endswith(f"Failed, too: rule{JOBS}, rule{JOBS + 1} (see above)")


def test_a_short_log(tmp_path):
    (tmp_path / "log").write_text("one\ntwo")
    assert last_lines(tmp_path / "log") == ["one", "two"]


def test_the_events_are_snakemake_s():
    from snakemake.logging import logger
    from snakemake_interface_logger_plugins.common import LogEvent

    from stedm.tools.failures import LOGGER

    assert logger.name == LOGGER
    assert (str(LogEvent.JOB_ERROR), str(LogEvent.JOB_FINISHED)) == ("job_error", "job_finished")


def test_an_unexpected_error_stands_in_the_job_s_log(tmp_path):
    code = "from stedm import cli; cli._run_check = lambda options: 1 / 0; cli.main(['check', 'x', '--log', 'a/log'])"
    done = command(tmp_path, sys.executable, "-c", code, check=False)
    assert done.returncode == 1
    for said in (done.stderr, (tmp_path / "a" / "log").read_text()):
        assert "unexpected error" in said and said.splitlines()[-1] == "ZeroDivisionError: division by zero"
