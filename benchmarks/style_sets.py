"""What a training sample with its style set costs, and how long a training step waits for its batch.

One slide is drawn and cut; samples of an image and its style tiles are then read from the tile store, and from the
slide as the published code does, in one run. After that the demo's models train. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import openslide
import torch
from PIL import Image
from read_slide import draw, verdict
from torch.utils.data import Dataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from stedm import seeds
from stedm.config import Config, GeneratorConfig, StyleConfig, TilesConfig, load_config
from stedm.device import use_device
from stedm.generator.data import TrainingBatches, draw_style
from stedm.generator.model import Generator
from stedm.generator.train import GeneratorTraining
from stedm.phantom import draw_slide, layout_polygons, patient_style, write_geojson
from stedm.provenance import environment, write_text
from stedm.segmenter.data import TrainingBatches as SegmenterBatches
from stedm.segmenter.network import build_segmenter
from stedm.segmenter.train import SegmenterTraining
from stedm.tiles.cut import cut_files
from stedm.tiles.store import TileStore
from stedm.tiles.windows import Window, WindowPool
from stedm.training import Training, fit

TILE, STYLES = 512, 10
DOWNSAMPLES = (2, 8)
"""Those of the paper's her2 and catch."""
TARGETS = {"published way / tile store": ("at least", 20.0), "share of the time that waits": ("at most", 0.05)}
WARM_UP = 10
"""Steps that are not counted."""

Sample = list[Window]
"""The window of an image and those of its style set."""


def draw_samples(pool: WindowPool, count: int) -> list[Sample]:
    style = StyleConfig(sampling="multi-patch", count=STYLES)
    samples = []
    for number in range(count):
        random = seeds.generator(0, "benchmark", number)
        window = pool.draw(random)
        samples.append([window, *(tile.window for tile in draw_style(pool, window, style, random))])
    return samples


def published(slide: openslide.OpenSlide, sample: Sample, downsample: int) -> list[np.ndarray]:
    """Read every tile from level 0 and resize it."""
    side = TILE * downsample
    regions = (slide.read_region((w.x * downsample, w.y * downsample), 0, (side, side)) for w in sample)
    return [np.asarray(region.convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC)) for region in regions]


def best_level(slide: openslide.OpenSlide, sample: Sample, downsample: int) -> list[np.ndarray]:
    """Read every tile from the level nearest to the working resolution: what the published way might do at best."""
    level = slide.get_best_level_for_downsample(downsample + 0.01)
    rest = round(downsample / slide.level_downsamples[level])
    side = TILE * rest
    regions = (slide.read_region((w.x * downsample, w.y * downsample), level, (side, side)) for w in sample)
    return [np.asarray(region.convert("RGB").reduce(rest)) for region in regions]


def milliseconds(work: Callable[[Sample], object], samples: Sequence[Sample]) -> float:
    """Return the median processor time of a sample; the first one, read before, does not count."""
    work(samples[0])
    taken = []
    for sample in samples:
        begin = time.process_time()
        work(sample)
        taken.append(1000 * (time.process_time() - begin))
    return statistics.median(taken)


def measure_reading(path: Path, folder: Path, samples: int) -> dict[str, dict[str, float]]:
    """Return milliseconds a sample at each downsample, on one core."""
    found = {}
    cores = os.sched_getaffinity(0)
    for downsample in DOWNSAMPLES:
        out = folder / f"store-{downsample}"
        annotations = path.with_suffix(".geojson")
        cut_files([path], out, TilesConfig(downsample=downsample, tile=TILE), annotations=annotations)
        store = TileStore(out)
        pool = WindowPool(store, [path.stem])
        drawn = draw_samples(pool, 10 * samples)
        config = GeneratorConfig(batch=1, steps=len(drawn), style=StyleConfig(count=STYLES, size=256))
        batches = TrainingBatches(store, [path.stem], [], config, seed=0)
        os.sched_setaffinity(0, {min(cores)})
        numbers = iter(range(len(drawn)))
        with openslide.OpenSlide(path) as slide:
            row = {
                "tile store": milliseconds(lambda sample: [pool.read(window) for window in sample], drawn),  # noqa: B023
                "tile store, ready for the step": milliseconds(
                    lambda _: batches[next(numbers)],  # noqa: B023
                    drawn[1:],
                ),
                "OpenSlide, nearest level": milliseconds(
                    lambda sample: best_level(slide, sample, downsample),  # noqa: B023
                    drawn[:samples],
                ),
                "published way": milliseconds(
                    lambda sample: published(slide, sample, downsample),  # noqa: B023
                    drawn[:samples],
                ),
            }
        os.sched_setaffinity(0, cores)
        found[f"downsample {downsample}"] = row
    return found


@contextmanager
def waits() -> Iterator[list[tuple[float, float]]]:
    """Note when the training loop asks for each batch and when it has it, whoever prepares it."""
    noted: list[tuple[float, float]] = []
    original = _BaseDataLoaderIter.__next__

    def timed(loader: _BaseDataLoaderIter) -> object:
        begin = time.perf_counter()
        batch = original(loader)
        noted.append((begin, time.perf_counter()))
        return batch

    _BaseDataLoaderIter.__next__ = timed
    try:
        yield noted
    finally:
        _BaseDataLoaderIter.__next__ = original


def share_waited(noted: list[tuple[float, float]]) -> dict[str, float]:
    """Return milliseconds a step and the share of them that waits, from the first counted step to the last."""
    steps = noted[WARM_UP:]
    whole = steps[-1][0] - steps[0][0]
    waited = sum(end - begin for begin, end in steps[:-1])
    return {"step_ms": 1000 * whole / (len(steps) - 1), "waits": waited / whole}


def demo_store(folder: Path, config: Config) -> TileStore:
    """Draw and cut five slides as the demo's are."""
    slides = folder / "slides"
    slides.mkdir()
    options = config.cohort.options
    for patient in range(5):
        path = slides / f"patient-{patient}.tiff"
        style = patient_style(options["seed"], patient, patient % 4)
        draw_slide(path, size=options["size"], mpp=0.25, style=style, seed=patient)
        write_geojson(path.with_suffix(".geojson"), layout_polygons(size=options["size"], seed=patient))
    cut_files(sorted(slides.glob("*.tiff")), folder / "demo", config.tiles, annotations=slides)
    return TileStore(folder / "demo")


def measure_waiting(folder: Path, path: Path, steps: int) -> dict[str, dict[str, float]]:
    """Train the demo's generator and segmenter with and without a worker; return times a step and shares."""
    config = load_config(path)
    store = demo_store(folder, config)
    patients = sorted(store.slides)
    labelled, others = patients[:4], patients[4:]
    generator = config.generator.model_copy(update={"steps": steps + WARM_UP, "checkpoint_every": 10**6})
    segmenter = config.segmenter.model_copy(update={"steps": steps + WARM_UP, "checkpoint_every": 10**6})
    device = use_device(config.execution.device, config.execution.threads)

    def generator_training() -> tuple[Training, Dataset]:
        batches = TrainingBatches(store, labelled, others, generator, seed=0)
        torch.manual_seed(0)
        model = Generator(generator)
        model.fit_first_stage(torch.cat([batches[number]["images"] for number in range(16)]))
        model.unet.to(memory_format=torch.channels_last)
        return GeneratorTraining(model, generator, seed=0), batches

    def segmenter_training() -> tuple[Training, Dataset]:
        # The arm with the most to prepare: colour augmentation.
        batches = SegmenterBatches(store, labelled, None, segmenter, True, seed=0)
        torch.manual_seed(0)
        network = build_segmenter(segmenter).to(memory_format=torch.channels_last)
        return SegmenterTraining(network, segmenter, store, [], seed=0), batches

    found: dict[str, dict[str, float]] = {}
    for name, make in (("generator", generator_training), ("segmenter", segmenter_training)):
        curves = []
        for workers in (0, 1):
            module, batches = make()
            out = folder / f"{name}-{workers}"
            out.mkdir()
            with waits() as noted:
                fit(module, batches, folder=out, device=device, label=name, workers=workers)
            found[f"{name}, loader_workers {workers}"] = share_waited(noted)
            curves.append(module.curve)
        if curves[0] != curves[1]:
            raise SystemExit(f"{name}: with a worker the losses are others")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=16_384, help="side of the slide in pixels (default 16384)")
    parser.add_argument("--samples", type=int, default=5, help="samples read from the slide (default 5)")
    parser.add_argument("--steps", type=int, default=200, help="training steps that are counted (default 200)")
    parser.add_argument("--config", type=Path, default=Path("config/demo.yaml"), help="a phantom's run (demo.yaml)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    if options.size % 16 or options.size < 2 * TILE * max(DOWNSAMPLES):
        parser.error(f"--size {options.size}: give a multiple of 16, at least {2 * TILE * max(DOWNSAMPLES)}")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tiff"
        draw(path, options.size)
        write_geojson(path.with_suffix(".geojson"), layout_polygons(size=options.size, seed=3))
        reading = measure_reading(path, Path(folder), options.samples)
        waiting = measure_waiting(Path(folder), options.config, options.steps)
    print(f"An image and {STYLES} style tiles of {TILE} pixels: processor ms a sample, one core\n")
    print(f"{'':36}" + "".join(f"{name:>16}" for name in reading))
    for row in next(iter(reading.values())):
        print(f"{row:36}" + "".join(f"{times[row]:16.1f}" for times in reading.values()))
    print()
    ratios = {name: times["published way"] / times["tile store"] for name, times in reading.items()}
    for name, ratio in ratios.items():
        print(f"{'published way / tile store, ' + name:44}{verdict(ratio, *TARGETS['published way / tile store'])}")
    print(f"\n{options.config}: a training step and the share of it that waits for its batch\n")
    for name, row in waiting.items():
        print(f"{name:36}{row['step_ms']:8.1f} ms{verdict(row['waits'], *TARGETS['share of the time that waits'])}")
    if options.json:
        facts = {"size": options.size, "ms": reading, "ratios": ratios, "waiting": waiting, "made_by": environment()}
        write_text(options.json, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
