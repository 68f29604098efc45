"""Which GPU a job takes where jobs share a machine: one job, one device.

Snakemake counts GPUs and hands out no numbers, so that all jobs would take the first. Here each GPU is a lock file,
which the system releases with the process, be it by ``kill -9``. Where a scheduler or a leading process has chosen
already, nothing is chosen again.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stedm.config import ExecutionConfig
from stedm.errors import UserError
from stedm.runs import TRANSFERRED, Run

log = logging.getLogger("stedm")

VISIBLE = "CUDA_VISIBLE_DEVICES"
CHOSEN_ALREADY = ("SLURM_JOB_ID", "LOCAL_RANK")
"""Variables of the environment that tell of a scheduler or a leading process, which chose the devices."""
WAIT = 0.5
"""Seconds between two looks for a free GPU."""


def needed(execution: ExecutionConfig, run: Run) -> int:
    """Return how many GPUs the job of a run uses, if it finds some."""
    if run.stage == "generator":
        return execution.devices
    return int(run.stage in ("autoencoder", "synthetic", "segmenter") and run.facts.get("sampling") != TRANSFERRED)


def numbers(execution: ExecutionConfig) -> list[str]:
    """Return the GPUs among which a job on this machine is to choose; none where there is no choice."""
    if execution.device == "cpu" or any(name in os.environ for name in CHOSEN_ALREADY):
        return []
    if execution.gpus is not None:
        return list(map(str, execution.gpus))
    if VISIBLE in os.environ:
        found = [name for name in os.environ[VISIBLE].split(",") if name]
    else:
        found = [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    # A single GPU leaves no choice, and may well serve two commands that somebody starts by hand.
    return found if len(found) > 1 else []


@contextmanager
def held(among: Sequence[str], count: int, folder: Path | None = None) -> Iterator[list[str]]:
    """Hold GPUs that no other job of this user on this machine holds, and show this process only these.

    Parameters
    ----------
    among
        GPUs as CUDA_VISIBLE_DEVICES names them; one that stands twice serves two jobs. Empty: nothing is chosen.
    count
        How many to hold.
    folder
        Of the lock files; by default in the machine's folder for temporary files.

    Raises
    ------
    UserError
        If there are fewer than `count`.
    """
    if not among or not count:
        yield []
        return
    if count > len(set(among)):
        raise UserError(
            f"execution.devices is {count} and there are {len(set(among))} GPUs ({','.join(among)}); lower it, or name "
            "more in execution.gpus."
        )
    folder = folder or Path(tempfile.gettempdir()) / f"stedm-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = os.environ.get(VISIBLE)
    with ExitStack() as locks:
        chosen = _choose(list(among), count, folder, locks)
        log.info("GPU %s of %s", ",".join(chosen), ",".join(among))
        os.environ[VISIBLE] = ",".join(chosen)
        try:
            yield chosen
        finally:
            os.environ.pop(VISIBLE)
            os.environ.update({} if before is None else {VISIBLE: before})


def _choose(among: list[str], count: int, folder: Path, locks: ExitStack) -> list[str]:
    slots = [(name, among[:place].count(name)) for place, name in enumerate(among)]
    chosen: list[str] = []
    told = False
    # One job chooses at a time: two that want several would each keep what the other waits for.
    with (folder / "choosing").open("w") as choosing:
        fcntl.flock(choosing, fcntl.LOCK_EX)
        while True:
            for name, place in sorted(slots, key=lambda slot: slot[1]):
                if name in chosen:
                    continue
                lock = (folder / f"{name.replace('/', '-')}.{place}").open("w")
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    lock.close()
                    continue
                locks.enter_context(lock)
                chosen.append(name)
                if len(chosen) == count:
                    return chosen
            if not told:
                log.info("the GPUs %s are taken by other jobs; waiting", ",".join(among))
                told = True
            time.sleep(WAIT)
