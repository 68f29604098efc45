"""The paper's preset beside `stedm-base`, both from scratch for the same time, at reduced width. See README.md here."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from judge import build_judge, draw, measure

from stedm import seeds
from stedm.config import Config, GeneratorConfig, SyntheticConfig, load_config
from stedm.device import use_device
from stedm.generator.data import TrainingBatches
from stedm.generator.denoiser import denoising_loss
from stedm.generator.model import Generator, load_generator
from stedm.generator.train import GeneratorTraining, train_generator
from stedm.provenance import Product, environment, write_text
from stedm.runs import Plan
from stedm.synthetic.draw import Drawer, Setting
from stedm.tiles.store import TileStore

RATES = (1e-5, 1e-4, 4e-4, 1e-3)
RAW = 1.6e-6
"""The paper's learning rate, meant for a U-Net that starts from the landscape checkpoint."""
NARROWER = 4
"""How many times narrower than the preset's both U-Nets are."""
REDUCED = {"batch": 8, "accumulate": 1, "precision": "32-true", "checkpoint_every": 10**6}
"""Of both presets alike. The paper's steps of 64 samples would be fewer than 100 in the time given."""
TIMED_STEPS, CHECK_BATCHES = 12, 32
SHARE = 0.2
"""Training time of a run that chooses the learning rate, as a share of the final one's."""


@dataclass(frozen=True)
class Job:
    """One training, in plain values, for a process of its own."""

    config: Path
    preset: str
    lr: float
    steps: int
    folder: Path
    judged: int = 0
    """Images drawn in the styles of each group of patients; 0 measures the loss on validation patients instead."""


def reduced(preset: str, config: Config, lr: float, steps: int) -> GeneratorConfig:
    """Return the generator of a preset at reduced width, for the tiles and first stage of a configuration."""
    values = yaml.safe_load(Path("config", "presets", f"{preset}.yaml").read_text())["generator"]
    values |= REDUCED | {"lr": lr, "steps": steps, "first_stage": config.generator.first_stage.model_dump()}
    values["unet"] |= {"path": None, "channels": [width // NARROWER for width in values["unet"]["channels"]]}
    # Style images show half a tile's resolution, as the paper preset's 256 of 512 pixels. Swin-V2-T, which cannot be
    # narrowed, would take seven eighths of the paper preset's time here, and a tenth at 512 pixels: both get our CNN.
    style = config.generator.style
    values["style"] |= {"path": None, "size": config.tiles.tile // 2, "encoder": "conv", "channels": style.channels}
    return GeneratorConfig.model_validate(values)


def sampling(preset: str, config: Config, count: int) -> SyntheticConfig:
    """Return how a preset draws: its guidance, and one sampler for both, since trainings are compared here."""
    values = yaml.safe_load(Path("config", "presets", f"{preset}.yaml").read_text())["synthetic"]
    values |= {"sampler": "dpm++2m", "steps": 20, "count": count, "micro_batch": config.synthetic.micro_batch}
    return SyntheticConfig.model_validate(values)


def groups(plan: Plan) -> tuple[list[str], list[str], list[str]]:
    """Return the labelled patients, the unlabelled ones that train generators, and those that none has seen."""
    labelled = plan.labelled(plan.config.budgets[0], plan.config.seeds[0])
    unlabelled = plan.unlabelled(labelled)
    return labelled, unlabelled[::2], unlabelled[1::2]


def seconds_per_step(job: Job) -> float:
    """Measure the processor time of a training step, the reading of its batch included."""
    plan = Plan(load_config(job.config))
    use_device("cpu", 1)
    config = reduced(job.preset, plan.config, job.lr, job.steps)
    labelled, seen, _ = groups(plan)
    batches = TrainingBatches(TileStore(plan.tiles.folder), labelled, seen, config, 0)
    model = Generator(config)
    model.fit_first_stage(batches[0]["images"])
    model.unet.to(memory_format=torch.channels_last)
    module = GeneratorTraining(model, config, 0)
    optimiser = module.configure_optimizers()
    spent = []
    for number in range(TIMED_STEPS):
        began = time.process_time()
        optimiser.zero_grad()
        module.loss(batches[number], number).backward()
        optimiser.step()
        module.stepped()
        spent.append(time.process_time() - began)
    return float(np.median(spent))


@torch.no_grad()
def validation_loss(folder: Path, plan: Plan) -> float:
    """Return the denoising loss on tiles of the validation patients, with layouts and styles, at fixed noise."""
    model = load_generator(folder, torch.device("cpu"))
    update = {"unlabelled": False, "drop_style": 0.0, "drop_layout": 0.0, "colour_jitter": 0.0}
    config = model.config.model_copy(update=update)
    batches = TrainingBatches(TileStore(plan.tiles.folder), plan.patients("validation"), [], config, 1)
    losses = []
    for number in range(CHECK_BATCHES):
        batch, random = batches[number], torch.Generator().manual_seed(seeds.derive(1, "presets", number))
        clean = model.first_stage.encode(batch["images"])
        sigma = model.way.draw(len(clean), random)
        noise = torch.randn(clean.shape, generator=random)
        style = model.style_vectors(batch["styles"], batch["has_style"])
        network = model.bind(style, batch["layouts"], batch["has_layout"])
        losses.append(float(denoising_loss(model.way, network, clean, sigma, noise, model.deviation)))
    return float(np.mean(losses))


def train(job: Job) -> dict[str, Any]:
    """Train, and measure the validation loss or the images."""
    plan = Plan(load_config(job.config))
    config = reduced(job.preset, plan.config, job.lr, job.steps)
    labelled, seen, unseen = groups(plan)
    store = TileStore(plan.tiles.folder)
    job.folder.mkdir(parents=True)
    making = Product(job.folder)
    train_generator(making, store=store, labelled=labelled, unlabelled=seen, config=config, seed=0, device="cpu")
    row = {"preset": job.preset, "lr": job.lr, "steps": job.steps, "parameters": making.facts["parameters"]}
    if not job.judged:
        return row | {"loss": validation_loss(job.folder, plan)}
    for name, patients in (("seen", seen), ("unseen", unseen)):
        judge = build_judge(plan, store, patients, job.judged)
        setting = Setting(
            store=plan.tiles.folder,
            generator=job.folder,
            labelled=tuple(labelled),
            unlabelled=tuple(patients),
            sampling=config.style.sampling,
            seed=0,
            config=sampling(job.preset, plan.config, job.judged),
        )
        samples, images = draw(Drawer(setting, torch.device("cpu")))
        row |= {f"{name}_{key}": value for key, value in measure(judge, store, samples, images).items()}
    return row


def over(jobs: Iterable[Job], workers: int) -> list[dict[str, Any]]:
    """Train jobs in processes, and return their rows in order."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(train, jobs))


def show(rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    """Print rows as a table."""
    print("".join(f"{name:>20}" for name in columns))
    for row in rows:
        print("".join(f"{row[name]:>20{form}}" for name, form in columns.items()), flush=True)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="configuration of a finished run, such as config/demo.yaml")
    parser.add_argument("--presets", nargs="+", default=["paper", "stedm-base"], help="presets (default: both)")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="learning rates; one is not searched for")
    parser.add_argument("--seconds", type=float, default=300, help="processor time of a training (default 300)")
    parser.add_argument("--count", type=int, default=128, help="images of each group of patients (default 128)")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time (default 2)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place, presets = Path(folder), options.presets
        cost = {name: seconds_per_step(Job(options.config, name, 1e-4, TIMED_STEPS, place)) for name in presets}
        steps = {name: max(1, int(options.seconds / seconds)) for name, seconds in cost.items()}
        print(", ".join(f"{name}: {cost[name]:.3f} s a step, {steps[name]} steps" for name in presets), end="\n\n")
        searched: list[dict[str, Any]] = []
        best = dict.fromkeys(presets, options.rates[0])
        if len(options.rates) > 1:
            short = [
                Job(options.config, name, lr, max(1, int(SHARE * steps[name])), place / f"{name}-{lr}")
                for lr in options.rates
                for name in presets
            ]
            searched = sorted(over(short, options.workers), key=lambda row: row["preset"])
            show(searched, {"preset": "", "lr": ".0e", "steps": "d", "loss": ".4f"})
            for name in presets:
                own = [row for row in searched if row["preset"] == name]
                best[name] = min(own, key=lambda row: row["loss"])["lr"]
        wanted = list(best.items()) + ([("paper", RAW)] if "paper" in presets else [])
        final = [
            Job(options.config, name, lr, steps[name], place / f"final-{name}-{lr}", options.count)
            for name, lr in wanted
        ]
        rows = over(final, options.workers)
    report(rows)
    if options.json:
        facts = {"config": str(options.config), "seconds": options.seconds, "count": options.count}
        facts |= {"seconds_per_step": cost, "search": searched, "rows": rows, "made_by": environment()}
        write_text(options.json, json.dumps(facts, indent=1) + "\n")


def report(rows: list[dict[str, Any]]) -> None:
    """Print the final rows and what they say."""
    show(rows, {"preset": "", "lr": ".1e", "steps": "d", "parameters": "d"})
    measured = [key for key in rows[0] if key.startswith(("seen_", "unseen_")) and not key.endswith("_fd")]
    for group in ("seen", "unseen"):
        show(rows, {"preset": "", **{key: ".3f" for key in measured if key.startswith(f"{group}_")}})
    ours = next((row for row in rows if row["preset"] == "stedm-base"), None)
    others = [row for row in rows if row["preset"] == "paper"]
    for group in ("seen", "unseen") if ours and others else ():
        layout = ours[f"{group}_layout_iou"] > max(row[f"{group}_layout_iou"] for row in others)
        style = ours[f"{group}_style_ratio"] < min(row[f"{group}_style_ratio"] for row in others)
        print(f"{group} patients: layout {'better' if layout else 'NOT BETTER'}, "
              f"style {'better' if style else 'NOT BETTER'}")  # fmt: skip
    if ours:
        nearer = ours["unseen_own_nearer"]
        print(
            f"unseen, nearer to their own style: {nearer:.1%}, at least 90 %: {'met' if nearer >= 0.9 else 'NOT MET'}"
        )


if __name__ == "__main__":
    main()
