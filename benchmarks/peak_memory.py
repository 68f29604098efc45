"""Peak memory of cutting a phantom slide into tiles, at working resolution and at level 0. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from stedm.config import TilesConfig
from stedm.phantom import draw_slide, layout_polygons, patient_style, write_geojson
from stedm.provenance import environment, peak_mb, write_text
from stedm.tiles.cut import cut_files

LIMIT_MB = 1000


def draw(path: Path, size: int) -> None:
    draw_slide(path, size=size, mpp=0.25, style=patient_style(7, 1, 2), seed=3)
    write_geojson(path.with_suffix(".geojson"), layout_polygons(size=size, seed=3))


def cut(path: Path, downsample: int, tile: int) -> float:
    out = path.with_suffix(f".{downsample}")
    config = TilesConfig(downsample=downsample, tile=tile)
    cut_files([path], out, config, annotations=path.with_suffix(".geojson"))
    return peak_mb()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=40_000, help="side of the slide in pixels (default 40000)")
    parser.add_argument("--folder", type=Path, help="where slide and tiles are written, about 6 bytes a pixel")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "slide.tiff"
        # Each step has a process of its own, as memory that was once taken counts to the end of a process.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
            pool.submit(draw, path, options.size).result()
            for downsample, tile in ((4, 64), (2, 512), (1, 512)):
                found[f"downsample {downsample}, tile {tile}"] = pool.submit(cut, path, downsample, tile).result()
    for name, peak in found.items():
        print(f"{name:28}{peak:8.0f} MB  at most {LIMIT_MB}: {'met' if peak <= LIMIT_MB else 'NOT MET'}")
    if options.json:
        facts = {"size": options.size, "peak_mb": found, "made_by": environment()}
        write_text(options.json, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
