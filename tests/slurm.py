"""A real Slurm on this machine, of Debian's packages: a controller and two nodes with a GPU each that is none.

Everything lies in one folder, and the daemons are children of this process, ended by their process ids. Only
``/etc/slurm/slurm.conf`` is outside, a link that is removed: Snakemake's executor takes the environment's
``SLURM_*`` away from jobs, so that a configuration can be found nowhere else.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = Path("/etc/slurm/slurm.conf")
NODES = ("n1", "n2")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")

CONF = """\
ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=30
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldPort=16817
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
MinJobAge=600
SlurmctldTimeout=30
SlurmdTimeout=30
InactiveLimit=0
KillWait=10
GresTypes=gpu
{nodes}
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def missing() -> str | None:
    """Return why there can be no Slurm here, or None."""
    for program in ("slurmctld", "slurmd", "sbatch", "munged"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    if os.path.lexists(CONFIGURATION) and not _left_over():
        return f"{CONFIGURATION}: this machine has a Slurm of its own"
    return None


def _left_over() -> bool:
    """Whether the configuration is a link of a killed test, whose controller is gone."""
    if not CONFIGURATION.is_symlink():
        return False
    number = CONFIGURATION.readlink().with_name("slurmctld.pid")
    return not number.is_file() or not Path("/proc", number.read_text().strip()).exists()


class Slurm:
    """A cluster: start, stop, and what its scheduler says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.daemons = folder, {}
        for name in ("state", "spool", "log"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        host = socket.gethostname().split(".")[0]
        node = "NodeName={0} NodeHostname={1} NodeAddr=127.0.0.1 Port={2} CPUs=2 CoresPerSocket=2"
        node += " RealMemory=8000 Gres=gpu:1"
        nodes = "\n".join(node.format(name, host, 17001 + n) for n, name in enumerate(NODES))
        (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, nodes=nodes))
        gpus = []
        for name in NODES:
            gpu = folder / f"gpu-{name}"
            if not gpu.exists():
                os.mknod(gpu, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            gpus.append(f"NodeName={name} Name=gpu File={gpu}\n")
        (folder / "gres.conf").write_text("".join(gpus))
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)

    def start(self, *names: str) -> None:
        """Start daemons: ``munged``, ``slurmctld`` and nodes by their names."""
        here = self.folder
        for name in names:
            files = [f"--{what}={here}/munge.{what.split('-')[0]}" for what in ("key-file", "pid-file", "socket")]
            command = {
                "munged": ["munged", "--foreground", "--force", *files, f"--seed-file={here}/munge.seed"],
                "slurmctld": ["slurmctld", "-D", "-f", f"{here}/slurm.conf"],
            }.get(name, ["slurmd", "-D", "-N", name, "-f", f"{here}/slurm.conf"])
            with (here / "log" / f"{name}.log").open("a") as log:
                self.daemons[name] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            if name == "munged":
                self.until((here / "munge.socket").exists, 10)

    def stop(self, *names: str, how: int = signal.SIGTERM) -> None:
        """End daemons."""
        for name in names:
            process = self.daemons.pop(name)
            process.send_signal(how)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def say(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands and return what it prints."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def until(self, holds, seconds: float) -> None:
        """Wait until something holds.

        Raises
        ------
        TimeoutError
            If it does not.
        """
        end = time.monotonic() + seconds
        while not holds():
            for name, daemon in self.daemons.items():
                assert daemon.poll() is None, (self.folder / "log" / f"{name}.log").read_text()[-2000:]
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:.0f} s; {self.say('squeue', '--noheader', check=False)}")
            time.sleep(0.2)

    def answers(self) -> bool:
        """Tell whether the controller answers."""
        return "up" in self.say("sinfo", "-h", "-o", "%a", check=False)

    def idle(self) -> bool:
        """Tell whether every node waits for work."""
        return self.say("sinfo", "-h", "-N", "-o", "%t", check=False).split() == ["idle"] * len(NODES)

    def jobs(self) -> list[dict[str, str]]:
        """Return the controller's record of each job of the last ten minutes, oldest first.

        Beside Slurm's own fields, ``rule`` is the workflow's rule, and ``gpus`` how many GPUs were allocated.
        """
        found = []
        for line in self.say("scontrol", "show", "job", "-d", "-o").splitlines():
            record = dict(re.findall(r"(\w+)=(\S*)", line))
            if "JobId" not in record:
                continue
            record["rule"] = re.sub(r"^rule_([a-z]+).*", r"\1", record.get("Comment", ""))
            record["gpus"] = sum(map(int, re.findall(r"gpu:(?:\w+:)?(\d+)", record.get("JOB_GRES", ""))))
            found.append(record)
        return sorted(found, key=lambda record: int(record["JobId"]))

    def clear(self) -> None:
        """End every job and wait for the nodes."""
        for record in self.jobs():
            if record["JobState"] not in ENDED:
                self.say("scancel", record["JobId"], check=False)
        for node in NODES:
            self.say("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        self.until(self.idle, 60)


@contextmanager
def cluster(folder: Path) -> Iterator[Slurm]:
    """Run a cluster; its logs stay in ``folder/log``."""
    slurm = Slurm(folder)
    CONFIGURATION.parent.mkdir(exist_ok=True)
    links = [CONFIGURATION, CONFIGURATION.with_name("gres.conf")]
    for link in links:
        link.unlink(missing_ok=True)
        link.symlink_to(folder / link.name)
    try:
        slurm.start("munged", "slurmctld", *NODES)
        slurm.until(slurm.idle, 60)
        yield slurm
    finally:
        if "slurmctld" in slurm.daemons:
            slurm.say("scancel", "--user=root", check=False)
            time.sleep(1)
        slurm.stop(*reversed(slurm.daemons))
        for link in links:
            link.unlink()
