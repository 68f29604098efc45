"""Training and generation against the authors' implementation. See benchmarks/README.md.

What is fair: the method as released against a preset as it is, whose product is the same (a batch trained, an image
drawn), is what a user pays. Beside it stand rows that change one thing at a time. `paper, styles as theirs` has the
authors' U-Net, encoder, number and size of style images, so that only the code differs. `stedm-base, their size` has
our architecture at the parameters of their U-Net, so that only architecture, encoder and sampler differ. All rows have
the same first stage, images, latents and batch; none counts the reading of data.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch
from authors_code import Authors, check_checkout
from ours import Ours
from torch import nn

from stedm.device import use_device
from stedm.errors import UserError
from stedm.provenance import environment, peak_mb, write_text

THEIRS = "authors, as released"
ROWS: dict[str, dict[str, Any]] = {
    THEIRS: {},
    "paper, styles as theirs": {"preset": "paper", "style_images_as_theirs": True},
    "paper": {"preset": "paper"},
    "stedm-base": {"preset": "stedm-base"},
    "stedm-base, their size": {"preset": "stedm-base", "as_large": True},
}
TARGETS = {"training": 3.0, "generation": 15.0}
"""Times the authors' rate that the row `stedm-base` is to reach, on a GPU at full size."""
PIXELS, DIVISOR = 512, 1
"""Full size."""


class Side(Protocol):
    """One implementation, prepared for training or for generation."""

    unet: nn.Module
    style: nn.Module
    latent: tuple[int, int, int]
    styles: str
    precision: str
    accumulate: int

    def train_batch(self) -> None: ...
    def step(self) -> None: ...
    def encode(self) -> None: ...
    def generate(self, folder: Path, steps: int | None = None) -> None: ...
    def decode(self) -> None: ...


@dataclass(frozen=True)
class Case:
    """What all rows have in common."""

    authors: Path
    pixels: int
    divisor: int
    batch: int
    device: str
    threads: int
    repeats: int


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters, of tensors that two places share once."""
    return sum(p.numel() for p in module.parameters())


def build(row: str, case: Case, *, generating: bool) -> Side:
    """Prepare an implementation."""
    torch.manual_seed(0)
    device = use_device(case.device, case.threads)
    size = {"pixels": case.pixels, "divisor": case.divisor, "batch": case.batch}
    if row == THEIRS:
        return Authors(case.authors, **size, generating=generating, device=device)
    return Ours(**ROWS[row], **size, generating=generating, device=device)


def measure(row: str, case: Case, generating: bool) -> dict[str, Any]:
    """Measure one task of one implementation, in a process of its own."""
    # As the authors' scripts set it; only GPUs and what is not autocast heed it.
    torch.set_float32_matmul_precision("high" if case.device == "cuda" else "highest")
    side = build(row, case, generating=generating)
    facts = {
        "unet_parameters": count_parameters(side.unet),
        "style_parameters": count_parameters(side.style),
        "latent": list(side.latent),
        "style_images": side.styles,
        "batch": case.batch,
        "device": torch.cuda.get_device_name() if case.device == "cuda" else "cpu",
        "threads": case.threads,
    }
    with tempfile.TemporaryDirectory() as folder:
        if generating:
            facts |= _generation(side, case, Path(folder))
        else:
            facts |= _training(side, case)
    peak = torch.cuda.max_memory_allocated() / 2**20 if case.device == "cuda" else peak_mb()
    return facts | {"peak_mb": round(peak)}


def _training(side: Side, case: Case) -> dict[str, Any]:
    seconds(side.train_batch, case)
    seconds(side.step, case)
    batches, steps = [], []
    for _ in range(case.repeats):
        batches.append(seconds(side.train_batch, case))
        steps.append(seconds(side.step, case))
    batch, step = median(batches), median(steps)
    return {
        "seconds": batch + step / side.accumulate,
        "seconds_first_stage": seconds(side.encode, case),
        "seconds_optimiser": step,
        "accumulate": side.accumulate,
        "precision": side.precision,
    }


def _generation(side: Side, case: Case, folder: Path) -> dict[str, Any]:
    count = [0]
    side.unet.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    seconds(lambda: side.generate(folder, 2), case)
    count[0] = 0
    taken = seconds(lambda: side.generate(folder), case)
    return {"seconds": taken, "evaluations": count[0], "seconds_first_stage": seconds(side.decode, case)}


def seconds(function: Callable[[], None], case: Case) -> float:
    """Return the wall time of a call, to the end of what it started on the device."""
    began = time.perf_counter()
    function()
    if case.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def run(case: Case, rounds: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Measure all rows, one after the other, as often as there are rounds."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {row: {"training": [], "generation": []} for row in ROWS}
    # A process for each measurement: memory that was once taken counts to the end of a process.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for number in range(rounds):
            for row, tasks in found.items():
                for task, results in tasks.items():
                    results.append(pool.submit(measure, row, case, task == "generation").result())
                    rate = case.batch / results[-1]["seconds"]
                    print(f"round {number + 1}: {row}, {task}: {rate:.4g} / s", file=sys.stderr, flush=True)
    return found


def summarise(found: dict[str, dict[str, list[dict[str, Any]]]], batch: int) -> list[dict[str, Any]]:
    """Return a row an implementation: facts, medians over rounds, and the medians of the ratios within rounds."""
    rows = []
    for name, tasks in found.items():
        row: dict[str, Any] = {"row": name}
        for task, results in tasks.items():
            theirs = found[THEIRS][task]
            ratios = [a["seconds"] / b["seconds"] for a, b in zip(theirs, results, strict=True)]
            own = {k: v for k, v in results[0].items() if k in ("evaluations", "accumulate", "precision")}
            timed = {k: median(r[k] for r in results) for k in results[0] if k.startswith("seconds")}
            row[task] = (
                own
                | timed
                | {
                    "per_second": batch / timed["seconds"],
                    "ratio": median(ratios),
                    "peak_mb": max(r["peak_mb"] for r in results),
                }
            )
            row |= {k: v for k, v in results[0].items() if k not in {*own, *timed, "peak_mb"}}
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table that is printed."""
    heads = ("", "U-Net", "style net", "latents", "batch", "style images", "numbers", "samples / s", "×", "MB")
    heads = (*heads, "images / s", "×", "evaluations", "MB", "device, threads")
    lines = [heads]
    for row in rows:
        training, generation = row["training"], row["generation"]
        sizes = (f"{row['unet_parameters'] / 1e6:.1f} M", f"{row['style_parameters'] / 1e6:.1f} M")
        shape = " × ".join(map(str, row["latent"]))
        lines.append((row["row"], *sizes, shape, str(row["batch"]), row["style_images"], training["precision"]))
        lines[-1] += (f"{training['per_second']:.4g}", f"{training['ratio']:.2f}", str(training["peak_mb"]))
        lines[-1] += (f"{generation['per_second']:.4g}", f"{generation['ratio']:.2f}", str(generation["evaluations"]))
        lines[-1] += (str(generation["peak_mb"]), f"{row['device']}, {row['threads']}")
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def verdict(rows: list[dict[str, Any]], case: Case) -> str:
    """Say whether the targets are met, which are for a GPU at full size."""
    ours = next(row for row in rows if row["row"] == "stedm-base")
    full = case.device == "cuda" and (case.pixels, case.divisor) == (PIXELS, DIVISOR)
    said = []
    for task, target in TARGETS.items():
        ratio = ours[task]["ratio"]
        judged = ("met" if ratio >= target else "NOT MET") if full else "the target is for a GPU at full size"
        said.append(f"{task} {ratio:.2f} × theirs, at least {target:g}: {judged}")
    return "\n".join(said)


def parse() -> tuple[Case, int, Path | None]:
    """Read the command line; on a GPU the size is full, else reduced."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--authors", type=Path, required=True, help="a checkout of OettlM/STEDM")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument("--pixels", type=int, help="side of an image (default 512 on a GPU, else 256)")
    parser.add_argument("--divisor", type=int, help="what all widths are divided by (default 1 on a GPU, else 4)")
    parser.add_argument("--batch", type=int, help="images a batch (default 8 on a GPU, else 1)")
    parser.add_argument("--repeats", type=int, default=3, help="timed training batches a round (default 3)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds over all rows (default 1)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    check_checkout(options.authors)
    device = use_device(options.device, options.threads).type
    defaults = (PIXELS, DIVISOR, 8) if device == "cuda" else (256, 4, 1)
    given = (options.pixels, options.divisor, options.batch)
    pixels, divisor, batch = (
        default if value is None else value for value, default in zip(given, defaults, strict=True)
    )
    case = Case(options.authors.resolve(), pixels, divisor, batch, device, options.threads, options.repeats)
    return case, options.rounds, options.json


def main() -> None:
    try:
        case, rounds, out = parse()
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    found = run(case, rounds)
    rows = summarise(found, case.batch)
    print(f"{table(rows)}\n\n{verdict(rows, case)}")
    if out:
        command = ["git", "-C", str(case.authors), "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
        common = {k: v for k, v in asdict(case).items() if k != "authors"} | {"authors_commit": commit}
        facts = {"case": common | {"rounds": rounds}, "rows": rows, "targets": TARGETS, "made_by": environment()}
        write_text(out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
