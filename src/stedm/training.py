"""One training loop for generator and segmenter: seeded by step, resumable to the bit, logged.

Everything random in a step is derived from the run's seed and the step's number, so that neither a resume
nor the number of workers changes a result.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stedm import seeds
from stedm.device import peaks
from stedm.errors import Stopped, UserError
from stedm.progress import Progress, progress
from stedm.team import Team

log = logging.getLogger("stedm")

STATE = "state.ckpt"
"""File with the state from which a killed training goes on."""
CURVE = Path("preview", "curves.csv")
"""File with the training curve in a product's folder, and in its working folder while it is trained."""
CURVE_SECONDS = 15.0
"""Seconds between two writings of the curve, or a hundred times what one took where that is more."""
WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""


class Training(pl.LightningModule):
    """What is trained: networks, their loss on a batch, and optionally a look at validation data.

    Subclasses set networks and implement :meth:`loss`, and may implement :meth:`validate`.

    Parameters
    ----------
    steps
        Optimiser steps.
    lr, weight_decay
        Of AdamW; the rate rises linearly over the first steps.
    schedule
        How the rate goes on: ``cosine`` to zero, or ``constant``.
    accumulate
        Batches whose gradients are averaged for one step.
    precision
        ``32-true``, or ``bf16-mixed`` for networks computed in bfloat16 with weights in float32.
    checkpoint_every, validate_every
        Steps between two states, and between two validations (0: none).
    seed
        Seed of the run; dropout and stochastic depth of a step come from it.
    samples
        Samples of a step, for the log.
    """

    def __init__(
        self,
        *,
        steps: int,
        lr: float,
        weight_decay: float,
        checkpoint_every: int,
        validate_every: int = 0,
        seed: int = 0,
        schedule: str = "cosine",
        accumulate: int = 1,
        precision: str = "32-true",
        samples: int = 1,
    ) -> None:
        super().__init__()
        self.samples = samples
        self.seed, self.schedule, self.accumulate, self.precision = seed, schedule, accumulate, precision
        self.steps, self.lr, self.weight_decay = steps, lr, weight_decay
        self.checkpoint_every, self.validate_every = checkpoint_every, validate_every
        self.curve: list[dict[str, float]] = []
        self.losses: list[float] = []
        self.folder, self.team = Path(), Team()
        self.counter: Progress | None = None
        self._first: tuple[int, float] | None = None
        self._curve_due = time.monotonic() + CURVE_SECONDS
        self.asked_to_stop = False

    def loss(self, batch: dict[str, Tensor], number: int) -> Tensor:
        """Return the loss of a batch; random numbers come from its number, which counts the batches of all steps."""
        raise NotImplementedError

    def stepped(self) -> None:
        """Be told that the optimiser has stepped (averaged weights)."""

    def validate(self, step: int) -> float | None:
        """Return a validation loss after `step` steps."""
        return None

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, a function of the step alone."""
        warm = max(1, round(WARM_UP * self.steps))
        if step < warm:
            return self.lr * (step + 1) / warm
        if self.schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give every trainable parameter to AdamW."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(parameters, self.lr, betas=(0.9, 0.99), weight_decay=self.weight_decay)

    def training_step(self, batch: dict[str, Tensor], number: int) -> Tensor:
        """Compute the loss of this process's part; stop on one that is no number, leaving the last state in place."""
        step = self.trainer.global_step
        for group in self.optimizers().param_groups:
            group["lr"] = self.learning_rate(step)
        torch.manual_seed(seeds.derive(self.seed, "dropout", number))
        loss = self.loss(batch, number)
        # The mean over all processes, so that they stop together.
        value = float(self.trainer.strategy.reduce(loss.detach(), reduce_op="mean"))
        if not math.isfinite(value):
            self._stop(f"the loss is {value} at step {step}")
        self.losses.append(value)
        return loss

    def _stop(self, fault: str) -> None:
        if not self.team.leads:
            raise SystemExit(2)
        self.write_curve()
        raise UserError(f"{self.folder}: {fault}; the last good state is kept, lower the learning rate.")

    def on_train_start(self) -> None:
        """Answer SIGTERM, a scheduler's warning, after the step at hand; Lightning's own answer keeps no state."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask_to_stop)

    def _ask_to_stop(self, *_: Any) -> None:
        self.asked_to_stop = True

    def _must_stop(self) -> bool:
        if self.team.size == 1:
            return self.asked_to_stop
        # A warning reaches the processes at different steps, and a state is written by all of them.
        return self.trainer.strategy.reduce_boolean_decision(self.asked_to_stop, all=False)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Average weights, validate, keep a state, write the curve, say how it goes: in this order."""
        if len(self.losses) < self.accumulate:
            return
        step = self.trainer.global_step
        self._first = self._first or (step, time.monotonic())
        self.stepped()
        row = {"step": step, "loss": sum(self.losses) / self.accumulate}
        self.losses.clear()
        if self.validate_every and (step % self.validate_every == 0 or step == self.steps):
            self.eval()
            with torch.no_grad():
                value = self.validate(step)
            self.train()
            if value is not None:
                row["validation_loss"] = value
        self.curve.append(row)
        stop = step < self.steps and self._must_stop()
        if step < self.steps and (stop or step % self.checkpoint_every == 0):
            self._keep_state(step)
        if stop or time.monotonic() >= self._curve_due:
            self.write_curve()
        if stop:
            raise Stopped(f"{self.folder}: stopped after step {step} of {self.steps}, state kept")
        if self.counter is not None:
            speed = self.speed()
            memory = ", ".join(f"{value / 1000:.1f} GB {what}" for what, value in peaks(self.device).items())
            self.counter.advance(1, f"loss {row['loss']:.3f}, {speed:.1f} samples/s, at most {memory}")

    def speed(self) -> float:
        """Return samples a second since the first step of this process, which starts and compiles what it needs."""
        if self._first is None:
            return 0.0
        step, began = self._first
        return self.samples * (self.curve[-1]["step"] - step) / max(time.monotonic() - began, 1e-9)

    def _keep_state(self, step: int) -> None:
        self._check_weights(step)
        beside = self.folder / f".{STATE}.partial"
        self.trainer.save_checkpoint(beside)
        if self.team.leads:
            beside.replace(self.folder / STATE)

    def write_curve(self) -> None:
        """Write the curve so far as CSV, whole: step, loss, validation_loss (empty where there is none)."""
        if not self.team.leads:
            return
        began = time.monotonic()
        path = self.folder / CURVE
        path.parent.mkdir(parents=True, exist_ok=True)
        # Always under one name, so that the next writing takes what a killed one left.
        beside = path.with_name(f".{path.name}.partial")
        with beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, ("step", "loss", "validation_loss"), lineterminator="\n")
            writer.writeheader()
            writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in self.curve)
        beside.replace(path)
        self._curve_due = began + max(CURVE_SECONDS, 100 * (time.monotonic() - began))

    def on_train_end(self) -> None:
        """Look at the weights that are to be kept."""
        self._check_weights(self.trainer.global_step)

    def _check_weights(self, step: int) -> None:
        # A finite loss can have gradients that are not, which the next loss would show: too late for this state.
        for name, weight in self.named_parameters():
            if not torch.isfinite(weight).all():
                self._stop(f"the weights {name} are not finite after step {step}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the curve with the state."""
        checkpoint["curve"] = self.curve

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the curve."""
        self.curve = checkpoint["curve"]


def moving_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """Return an exponential moving average whose decay rises to `decay`, so that the first weights are forgotten."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        steps = float(count)
        weight = 1 - min(decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(averaged, current, weight)

    return update


class _Numbers(Sampler[int]):
    """The numbers of the batches that are left; its length counts all of them, as Lightning does."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.count))

    def __len__(self) -> int:
        return self.count


def fit(
    module: Training,
    batches: Dataset,
    *,
    folder: Path,
    device: torch.device,
    label: str,
    workers: int = 0,
    team: Team | None = None,
) -> dict[str, Any]:
    """Train, and write the curve; go on from ``folder/state.ckpt`` where an earlier process left one.

    Parameters
    ----------
    module
        What is trained; afterwards on the CPU.
    batches
        Map from a batch's number to it, or to this process's part of it; a step takes ``module.accumulate`` of them.
    folder
        Where states are kept, and the curve, which can be read while it grows.
    device
        Where to train.
    label
        Name in the progress line.
    workers
        Processes that prepare batches.
    team
        The processes that train together; by default this one alone.

    Returns
    -------
    dict
        For the provenance: processes, samples a second, and the GPU memory that was taken at most.

    Raises
    ------
    UserError
        If loss or weights are no longer finite, or there are fewer GPUs than asked for.
    Stopped
        On SIGTERM, after the step at hand, with the state kept.
    """
    team = team or Team()
    if device.type == "cuda" and team.devices > torch.cuda.device_count():
        raise UserError(
            f"execution.devices is {team.devices} and torch sees {torch.cuda.device_count()} GPUs; lower it."
        )
    state = folder / STATE
    first = 0
    if state.exists():
        first = torch.load(state, map_location="cpu", weights_only=True)["global_step"]
        log.info("%s: going on from step %d", label, first)
    numbers = _Numbers(first * module.accumulate, module.steps * module.accumulate)
    loader = DataLoader(batches, batch_size=None, sampler=numbers, num_workers=workers, worker_init_fn=_stay)
    module.folder, module.team = folder, team
    shown = progress(label, module.steps, done=first) if team.leads else contextlib.nullcontext()
    with warnings.catch_warnings(), shown as counter, _quiet():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
        warnings.filterwarnings("ignore", message=".*(num_workers|litlogger|LeafSpec).*")
        module.counter = counter
        trainer = pl.Trainer(
            max_steps=module.steps,
            accumulate_grad_batches=module.accumulate,
            precision=module.precision,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=team.devices,
            num_nodes=team.nodes,
            strategy=DDPStrategy(broadcast_buffers=False) if team.size > 1 else "auto",
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=[team.environment()],
        )
        with _together(trainer):
            trainer.fit(module, loader, ckpt_path=state if first else None, weights_only=True)
        module.counter = None
    module.write_curve()
    facts: dict[str, Any] = {"processes": team.size}
    if team.leads:
        facts["samples_per_second"] = round(module.speed(), 2)
        log.info("%s: %.1f samples a second", label, facts["samples_per_second"])
    if device.type == "cuda":
        facts["peak_gpu_mb"] = peaks(device)["of the GPU"]
    module.to("cpu").eval()
    return facts


@contextlib.contextmanager
def _together(trainer: pl.Trainer) -> Iterator[None]:
    """End the processes that this one started, if it fails: they would wait for it."""
    try:
        yield
    except BaseException:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)
        raise


def _stay(_: int) -> None:
    # A scheduler signals every process of a job; the step at hand still needs its batches.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    names = ("pytorch_lightning", "lightning_fabric", "pytorch_lightning.utilities.rank_zero")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
