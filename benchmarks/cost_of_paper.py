"""Hours that one cell and all cells of the paper's tables take, by preset: measured rates × counts. See README.md."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from quality_per_cost import evaluations
from torch import nn

from stedm.config import Config, parse_config
from stedm.device import peaks, use_device
from stedm.generator.autoencoder import VQ_F4
from stedm.generator.denoiser import PARAMETRISATIONS
from stedm.generator.model import Generator
from stedm.generator.train import GeneratorTraining
from stedm.provenance import environment, write_text
from stedm.runs import Plan
from stedm.segmenter.loss import segmentation_loss
from stedm.segmenter.network import build_segmenter

PRESETS = ("paper", "stedm-base")
COHORTS = [Path("config") / f"{name}.yaml" for name in ("her2", "catch", "flowers")]
STAGES = ("generator", "synthetic", "segmenter")


@dataclass(frozen=True)
class Bench:
    """How the rates are measured."""

    device: torch.device
    batch: int | None
    """Samples at once; None for each preset's own."""
    divisor: int
    """All widths are divided by it."""
    repeats: int

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the median time of `work`, after one run that does not count."""
        times = []
        for _ in range(1 + self.repeats):
            began = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return median(times[1:])

    def computing(self, precision: str) -> torch.autocast:
        """Return the context in which networks of a precision are computed."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16-mixed")


def configured(preset: str, path: Path) -> Config:
    """Read a cohort's configuration with another preset, without weights, which do not change a rate."""
    values: dict[str, Any] = yaml.safe_load(path.read_text()) | {"preset": preset}
    generator = values.setdefault("generator", {})
    for section, given in (("first_stage", "none"), ("unet", None), ("style", None)):
        generator[section] = {**generator.get(section, {}), "path": given}
    values["segmenter"] = {**values.get("segmenter", {}), "path": None}
    return parse_config(values, str(path))


def narrowed(config: Config, divisor: int) -> Config:
    """Divide the widths of the generator's networks."""
    generator = config.generator
    unet = generator.unet.model_copy(update={"channels": [width // divisor for width in generator.unet.channels]})
    return config.model_copy(update={"generator": generator.model_copy(update={"unet": unet})})


def stepped(network: nn.Module, bench: Bench, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Return an optimiser step on a loss."""
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-6)

    def step() -> None:
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    return step


def generator_rates(config: Config, bench: Bench) -> dict[str, float]:
    """Measure the size of the U-Net, and seconds of a training sample, of a drawn image and of their parts."""
    settings, tile = config.generator, config.tiles.tile
    shape = replace(VQ_F4, widths=tuple(width // bench.divisor for width in VQ_F4.widths))
    model = Generator(settings, pretrained=False, shape=shape)
    model.unet.to(memory_format=torch.channels_last)
    module = GeneratorTraining(model, settings, 0).to(bench.device)
    batch = bench.batch or settings.batch
    yes = torch.ones(batch, dtype=torch.bool, device=bench.device)
    side = settings.style.size
    given = {
        "images": torch.rand(batch, 3, tile, tile, device=bench.device) * 2 - 1,
        "layouts": (torch.rand(batch, 1, tile, tile, device=bench.device) > 0.5).float(),
        "has_layout": yes,
        "has_style": yes,
        "styles": torch.rand(batch, settings.style.count, 3, side, side, device=bench.device) * 2 - 1,
    }

    def loss() -> torch.Tensor:
        with bench.computing(settings.precision):
            return module.loss(given, 0)

    step = stepped(model, bench, loss)

    def train() -> None:
        step()
        module.averaged.update_parameters(model)

    found = {"unet_parameters": sum(p.numel() for p in model.unet.parameters())}
    found["train"] = bench.seconds(train) / batch
    with torch.no_grad():
        found["encode"] = bench.seconds(lambda: model.first_stage.encode(given["images"])) / batch
        model.eval()
        drawn = bench.batch or config.synthetic.micro_batch
        given = {key: value[:1].expand(drawn, *value.shape[1:]) for key, value in given.items()}
        latent = torch.randn(drawn, model.first_stage.channels, *[tile // model.first_stage.factor] * 2)
        latent, sigma = latent.to(bench.device), torch.full((drawn,), 3.0, device=bench.device)
        style = model.style(given["styles"])
        conditions = (style, given["layouts"], torch.ones(drawn, dtype=torch.bool, device=bench.device))
        found["style"] = bench.seconds(lambda: model.style(given["styles"])) / drawn
        found["evaluation"] = bench.seconds(lambda: model.denoise(latent, sigma, *conditions)) / drawn
        found["decode"] = bench.seconds(lambda: model.first_stage.decode(latent)) / drawn
    return found


def segmenter_rate(config: Config, bench: Bench) -> float:
    """Measure the seconds of a training sample of the segmenter."""
    network, tile = (
        build_segmenter(config.segmenter).to(bench.device, memory_format=torch.channels_last),
        config.tiles.tile,
    )
    batch = bench.batch or config.segmenter.batch
    images = torch.rand(batch, 3, tile, tile, device=bench.device)
    targets = (torch.rand(batch, tile, tile, device=bench.device) > 0.5).long()
    return bench.seconds(stepped(network, bench, lambda: segmentation_loss(network(images), targets))) / batch


def hours(config: Config, rates: dict[str, float]) -> dict[str, float]:
    """Return the hours of one run of each stage: rates × counts."""
    generator, synthetic, segmenter = config.generator, config.synthetic, config.segmenter
    image = rates["style"] + rates["evaluations"] * rates["evaluation"] + rates["decode"]
    seconds = {
        "generator": rates["train"] * generator.steps * generator.batch * generator.accumulate,
        "synthetic": image * synthetic.count,
        "segmenter": rates["segmenter"] * segmenter.steps * segmenter.batch,
    }
    return {stage: value / 3600 for stage, value in seconds.items()}


def planned(plan: Plan) -> dict[str, int]:
    """Count the runs of each stage that a configuration compares, each once."""
    synthetic = [run.inputs["synthetic"] for run in plan.segmenters if "synthetic" in run.inputs]
    found = {"generator": [run.inputs["generator"] for run in synthetic], "synthetic": synthetic}
    found["segmenter"] = plan.segmenters
    return {stage: len({run.id for run in found[stage]}) for stage in STAGES}


def measured(preset: str, bench: Bench, cohorts: list[Path]) -> dict[str, Any]:
    """Measure a preset and count the runs of the cohorts' configurations."""
    config = narrowed(configured(preset, cohorts[0]), bench.divisor)
    rates = generator_rates(config, bench)
    rates["evaluations"] = evaluations(config.synthetic, PARAMETRISATIONS[config.generator.diffusion])
    rates["segmenter"] = segmenter_rate(config, bench)
    cell, runs, total = hours(config, rates), {}, 0.0
    for path in cohorts:
        own = configured(preset, path)
        runs[path.stem] = planned(Plan(own))
        total += sum(hours(own, rates)[stage] * runs[path.stem][stage] for stage in STAGES)
    return {
        "preset": preset,
        "rates": rates,
        "hours": {**cell, "cell": sum(cell.values()), "all": total},
        "runs": runs,
    }


def show(rows: list[dict[str, Any]], bench: Bench, name: str) -> None:
    """Print the table."""
    what = "one GPU" if bench.device.type == "cuda" else "CPU"
    print(f"{name}: hours of {what}; batches of {bench.batch or 'each preset'}; widths divided by {bench.divisor}")
    if bench.divisor > 1 or bench.device.type == "cpu":
        print(
            "At full width on a GPU these would be the paper's hours; here only the ratio of the presets can be read."
        )
    names = {
        "U-Net, million parameters": lambda row: row["rates"]["unet_parameters"] / 1e6,
        "train, s / sample": lambda row: row["rates"]["train"],
        "of it first stage, s / sample": lambda row: row["rates"]["encode"],
        "evaluation, s / image": lambda row: row["rates"]["evaluation"],
        "evaluations / image": lambda row: row["rates"]["evaluations"],
        "segmenter, s / sample": lambda row: row["rates"]["segmenter"],
        **{f"{stage}, h": lambda row, stage=stage: row["hours"][stage] for stage in (*STAGES, "cell", "all")},
    }
    print(f"{'':32}" + "".join(f"{row['preset']:>14}" for row in rows) + f"{'ratio':>10}")
    for label, value in names.items():
        values = [value(row) for row in rows]
        print(f"{label:32}" + "".join(f"{one:>14.4g}" for one in values) + f"{values[0] / values[-1]:>10.2f}")
    for cohort, counts in rows[0]["runs"].items():
        print(f"  all: {cohort}: " + ", ".join(f"{count} {stage} runs" for stage, count in counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where (default auto)")
    parser.add_argument("--threads", type=int, default=2, help="threads on the CPU (default 2)")
    parser.add_argument("--batch", type=int, help="samples at once (default: each preset's own on a GPU, 1 on a CPU)")
    parser.add_argument("--divisor", type=int, default=1, choices=(1, 2, 4), help="divide all widths (default 1)")
    parser.add_argument("--repeats", type=int, default=3, help="measured repeats, whose median counts (default 3)")
    parser.add_argument("--cohorts", nargs="+", type=Path, default=COHORTS, metavar="CONFIG", help="what `all` counts")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    device = use_device(options.device, options.threads)
    batch = options.batch or (1 if device.type == "cpu" else None)
    bench = Bench(device, batch, options.divisor, options.repeats)
    made = environment()
    name = torch.cuda.get_device_name() if device.type == "cuda" else made["cpu"]
    torch.manual_seed(0)
    rows = [measured(preset, bench, options.cohorts) for preset in PRESETS]
    show(rows, bench, name)
    if options.json:
        facts = {"device": name, "batch": batch, "divisor": options.divisor, "repeats": options.repeats}
        facts |= {"threads": options.threads, "peak_mb": peaks(device), "rows": rows, "made_by": made}
        write_text(options.json, json.dumps(facts, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
