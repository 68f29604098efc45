"""Several processes that train one network together: which one this is, and who started it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stedm.errors import UserError

if TYPE_CHECKING:
    from pytorch_lightning.plugins.environments import ClusterEnvironment


@dataclass(frozen=True)
class Team:
    """The processes of a training, one a device; each runs the same command and takes its part of every batch.

    On one node the first process starts the others. On several, torchrun or srun starts all of them.
    """

    devices: int = 1
    """Processes of a node."""
    nodes: int = 1
    """Machines."""

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.devices * self.nodes

    @property
    def started_by(self) -> str | None:
        """Who started the processes from outside: ``torchrun`` or ``srun``; None where nobody did."""
        if "TORCHELASTIC_RUN_ID" in os.environ:
            return "torchrun"
        # A job step of one task, in which a workflow may run, starts nothing.
        return "srun" if os.environ.get("SLURM_STEP_NUM_TASKS") == str(self.size) else None

    @property
    def starter(self) -> str:
        """Who started the processes: ``torchrun``, ``srun``, or ``self``.

        Raises
        ------
        UserError
            If there are several nodes and nobody started processes on them.
        """
        if self.started_by is not None:
            return self.started_by
        if self.nodes > 1:
            raise UserError(
                f"execution.nodes is {self.nodes} and this process stands alone; start the command {self.size} times, "
                "by srun or torchrun."
            )
        return "self"

    @property
    def rank(self) -> int:
        """The number of this process; 0 leads: it alone writes and speaks."""
        if self.size == 1:
            return 0
        variable = {"torchrun": "RANK", "srun": "SLURM_PROCID", "self": "LOCAL_RANK"}[self.starter]
        return int(os.environ.get(variable, 0))

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    @property
    def part(self) -> tuple[int, int]:
        """The part of a batch that this process takes: which of how many."""
        return self.rank, self.size

    def environment(self) -> ClusterEnvironment:
        """Return Lightning's way to find the other processes."""
        from pytorch_lightning.plugins import environments

        starter = "self" if self.size == 1 else self.starter
        if starter == "torchrun":
            return environments.TorchElasticEnvironment()
        if starter == "srun":
            # Requeuing is the workflow's.
            return environments.SLURMEnvironment(auto_requeue=False)
        return environments.LightningEnvironment()


def part_of(count: int, part: tuple[int, int]) -> slice:
    """Return the samples of a batch of `count` that are in a part: (which, of how many)."""
    number, parts = part
    return slice(count * number // parts, count * (number + 1) // parts)
