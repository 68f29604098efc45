"""Quality of synthetic images against network evaluations, on a finished run. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from judge import build_judge, draw, measure

from stedm.config import SyntheticConfig, load_config
from stedm.device import use_device
from stedm.generator.denoiser import EDM, Epsilon
from stedm.provenance import environment, write_text
from stedm.runs import Plan
from stedm.synthetic.draw import Drawer, Setting, guidance_of
from stedm.tiles.store import TileStore

REFERENCE = ("ddim", 128)
"""The paper's sampler and steps; with guidance 256 evaluations."""
OURS = (("dpm++2m", 4), ("dpm++2m", 6), ("dpm++2m", 8), ("dpm++2m", 12), ("dpm++2m", 16), ("heun", 8), ("ddim", 16))
LIMIT = 32
"""Evaluations at which the reference is to be matched."""
COLUMNS = {
    "sampler": ("sampler", ""),
    "evaluations": ("evaluations", ""),
    "s / image": ("seconds", ".3f"),
    "FD": ("fd", ".3f"),
    "KID · 10³": ("kid", ".2f"),
    "layout IoU": ("layout_iou", ".3f"),
    "style ratio": ("style_ratio", ".3f"),
    "own nearer": ("own_nearer", ".3f"),
}


def settings(config: SyntheticConfig) -> Iterator[SyntheticConfig]:
    """Yield the reference and ours."""
    for sampler, steps in (REFERENCE, *OURS):
        yield config.model_copy(update={"sampler": sampler, "steps": steps})


def evaluations(config: SyntheticConfig, way: EDM | Epsilon) -> int:
    """Return the network evaluations that an image takes."""
    sigmas = way.sigmas(config.steps)
    plain = guidance_of(config).evaluations(sigmas)
    # Heun's method looks again at the lower level of every step but the last.
    return plain + guidance_of(config).evaluations(sigmas[1:]) if config.sampler == "heun" else plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="configuration of a finished run, such as config/demo.yaml")
    parser.add_argument("--count", type=int, default=256, help="images a setting (default 256)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    plan = Plan(load_config(options.config))
    device = use_device("cpu", 2)
    budget, seed = plan.config.budgets[0], plan.config.seeds[0]
    store = TileStore(plan.tiles.folder)
    labelled = plan.labelled(budget, seed)
    unlabelled = plan.unlabelled(labelled)
    judge = build_judge(plan, store, unlabelled, options.count)
    setting = Setting(
        store=plan.tiles.folder,
        generator=plan.generator(budget, seed).folder,
        labelled=tuple(labelled),
        unlabelled=tuple(unlabelled),
        sampling=plan.config.generator.style.sampling,
        seed=plan.draw(seed),
        config=plan.config.synthetic.model_copy(update={"count": options.count}),
    )
    rows = []
    print("".join(f"{name:>14}" for name in COLUMNS))
    for config in settings(setting.config):
        drawer = Drawer(replace(setting, config=config), device)
        began = time.perf_counter()
        samples, images = draw(drawer)
        cost = (time.perf_counter() - began) / len(images)
        row = {"sampler": config.sampler, "evaluations": evaluations(config, drawer.model.way), "seconds": cost}
        row |= measure(judge, store, samples, images)
        rows.append(row)
        print("".join(f"{row[key]:>14{form}}" for key, form in COLUMNS.values()), flush=True)
    reference, cheap = rows[0], [row for row in rows[1:] if row["evaluations"] <= LIMIT]
    matched = [row for row in cheap if row["fd"] <= reference["fd"] and row["kid"] <= reference["kid"]]
    names = ", ".join(f"{row['evaluations']} ({row['sampler']})" for row in matched)
    print(f"\nmatched by FD and KID within {LIMIT} evaluations: {names or 'NOT MET'}")
    if options.json:
        facts = {"config": str(options.config), "count": options.count, "rows": rows, "made_by": environment()}
        write_text(options.json, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
