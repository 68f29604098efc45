"""How fast slides are read and cut: ours, a bare JPEG decoder, OpenSlide and other libraries, in one run.

One slide is drawn by code: JPEG tiles of 256 pixels at quality 80, levels 1, 4 and 16 as Aperio's scanners write
them, so that downsample 2 has to be read from level 0. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from peers import DOWNSAMPLE, PEERS, TILE, corners, seconds

from stedm.config import TilesConfig
from stedm.phantom import Painter, patient_style
from stedm.phantom.pyramid import encode_row
from stedm.phantom.tiff import TiffWriter
from stedm.provenance import environment, peak_mb, write_text
from stedm.tiles.backends import open_slide
from stedm.tiles.cut import cut_files
from stedm.tiles.reader import reduce_integer

JPEG_TILE, QUALITY = 256, 80
PEER_CODE = Path(__file__).with_name("peers.py")
TARGETS = {
    "read / bare decode": ("at most", 1.7),
    "cut and write / bare decode": ("at most", 3.0),
    "OpenSlide + PIL / read": ("at least", 4.0),
    "one worker / two workers, read": ("at least", 1.7),
    "off the exact area mean": ("at most", 1.0),
}


def draw(path: Path, size: int) -> None:
    """Draw a slide with the levels 1, 4 and 16; `size` is a multiple of 16."""
    painter = Painter(size=size, style=patient_style(7, 1, 2), seed=3)
    quarter = np.empty((size // 4, size // 4, 3), np.uint8)

    def strips() -> Iterator[np.ndarray]:
        for top in range(0, size, JPEG_TILE):
            high = min(JPEG_TILE, size - top)
            lefts = range(0, size, JPEG_TILE)
            strip = np.hstack([painter.window(left, top, min(JPEG_TILE, size - left), high) for left in lefts])
            quarter[top // 4 : (top + high) // 4] = reduce_integer(strip, 4)
            yield strip

    def level(factor: int) -> Iterator[np.ndarray]:
        if factor == 1:
            yield from strips()
        else:
            image = reduce_integer(quarter, factor // 4)
            yield from (image[top : top + JPEG_TILE] for top in range(0, len(image), JPEG_TILE))

    with path.open("wb") as file:
        writer = TiffWriter(file, big=False)
        for factor in (1, 4, 16):
            tiles = (tile for strip in level(factor) for tile in encode_row(strip, QUALITY))
            writer.level(tiles, side=size // factor, tile=JPEG_TILE, resolution=Fraction(40_000, factor))
        writer.finish()


def tiles_of(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield column, row and bytes of each JPEG tile of level 0."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        columns = -(-page.imagewidth // page.tilewidth)
        for number, (place, length) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
            tiff.filehandle.seek(place)
            yield number % columns, number // columns, tiff.filehandle.read(length)


def bare(path: Path) -> None:
    for _, _, data in tiles_of(path):
        simplejpeg.decode_jpeg(data)


def ours(path: Path) -> None:
    with open_slide(path) as reader:
        width, height = reader.working_size(DOWNSAMPLE)
        for y in range(0, height, TILE):
            reader.read(0, y, width, min(TILE, height - y), DOWNSAMPLE)


def openslide_pil(path: Path) -> None:
    import openslide

    with openslide.OpenSlide(path) as slide:
        for x, y, width, height in corners(slide.dimensions):
            slide.read_region((x, y), 0, (width, height)).convert("RGB").reduce(DOWNSAMPLE)


def cut(paths: list[Path], folder: Path, workers: int = 0) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        cut_files(paths, Path(out) / "store", TilesConfig(downsample=DOWNSAMPLE, tile=TILE), workers=workers)


def read_by(workers: int, paths: list[Path]) -> tuple[float, float]:
    """Return the seconds in which workers that have started read slides."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        list(pool.map(ours, paths[: 2 * workers]))
        return seconds(lambda: list(pool.map(ours, paths)))


def worst_error(path: Path) -> float:
    """Return the largest difference in grey levels between what we read and the exact area mean."""
    worst, side = 0.0, JPEG_TILE // DOWNSAMPLE
    with open_slide(path) as reader:
        width, height = reader.working_size(DOWNSAMPLE)
        for column, row, data in tiles_of(path):
            x, y = column * side, row * side
            across, down = min(side, width - x), min(side, height - y)
            exact = simplejpeg.decode_jpeg(data)[: down * DOWNSAMPLE, : across * DOWNSAMPLE].astype(np.float64)
            exact = exact.reshape(down, DOWNSAMPLE, across, DOWNSAMPLE, 3).mean(axis=(1, 3))
            worst = max(worst, float(np.abs(reader.read(x, y, across, down, DOWNSAMPLE) - exact).max()))
    return worst


def peers_of(interpreters: Sequence[Path]) -> dict[str, tuple[Path, str]]:
    """Return the interpreter and version of each peer that one of them has installed."""
    found = {}
    for python in interpreters:
        for name in PEERS:
            done = subprocess.run([python, PEER_CODE, name], capture_output=True, text=True)
            if done.returncode == 0:
                found.setdefault(name, (python, done.stdout.split()[-1]))
    return found


class Peer:
    """A library in an interpreter of its own, which reads the slide whenever it is told to."""

    def __init__(self, python: Path, name: str, path: Path) -> None:
        # On the same core as we; what it says on its way goes nowhere.
        self._process = subprocess.Popen(
            [python, PEER_CODE, name, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def read(self) -> tuple[float, float]:
        """Return the processor and wall seconds of one reading of the slide."""
        self._process.stdin.write("read\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("seconds "):
                return tuple(map(float, line.split()[1:]))
        raise SystemExit(f"{self._process.args[2]}: stopped; run `{' '.join(map(str, self._process.args))}` to see why")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def measure(path: Path, folder: Path, runs: int, peers: dict[str, tuple[Path, str]]) -> dict[str, object]:
    """Time everything `runs` times in turn on one core, then workers on all; return medians and ratios."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    started = {name: Peer(python, name, path) for name, (python, _) in peers.items()}
    singles: dict[str, Callable[[], tuple[float, float]]] = {
        "bare libjpeg-turbo decode": lambda: seconds(lambda: bare(path)),
        "ours, read": lambda: seconds(lambda: ours(path)),
        "ours, cut and write": lambda: seconds(lambda: cut([path], folder)),
        "OpenSlide + PIL": lambda: seconds(lambda: openslide_pil(path)),
        **{name: peer.read for name, peer in started.items()},
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in singles}
    for work in singles.values():
        work()  # imports and the disk's cache
    for _ in range(runs):
        for name, work in singles.items():
            taken[name].append(work())
    for peer in started.values():
        peer.close()
    os.sched_setaffinity(0, cores)
    copies = [path.with_name(f"copy-{n}.tiff") for n in range(4)]
    for copy in copies:
        copy.symlink_to(path)
    for workers in (1, 2):
        by = f"by {workers} worker{'s' * (workers > 1)}"
        taken[f"ours, 8 slides read {by}"] = [read_by(workers, [path] * 8) for _ in range(runs)]
        taken[f"ours, 4 slides cut {by}"] = [
            seconds(lambda workers=workers: cut(copies, folder, workers)) for _ in range(runs)
        ]
    table = {
        name: {"cpu_s": statistics.median(c for c, _ in times), "wall_s": statistics.median(w for _, w in times)}
        for name, times in taken.items()
    }
    table |= dict.fromkeys((name for name in PEERS if name not in table), None)
    cpu = {name: row["cpu_s"] for name, row in table.items() if row}
    ratios = {
        "read / bare decode": cpu["ours, read"] / cpu["bare libjpeg-turbo decode"],
        "cut and write / bare decode": cpu["ours, cut and write"] / cpu["bare libjpeg-turbo decode"],
        "OpenSlide + PIL / read": cpu["OpenSlide + PIL"] / cpu["ours, read"],
        **{f"{name} / read": cpu[name] / cpu["ours, read"] for name in PEERS if name in cpu},
        **{
            f"one worker / two workers, {what}": table[f"ours, {slides} {what} by 1 worker"]["wall_s"]
            / table[f"ours, {slides} {what} by 2 workers"]["wall_s"]
            for what, slides in (("read", "8 slides"), ("cut", "4 slides"))
        },
        "off the exact area mean": worst_error(path),
    }
    versions = {name: version for name, (_, version) in peers.items()}
    return {"times": table, "ratios": ratios, "peers": versions}


def show(result: dict) -> str:
    """Return the result as aligned text."""
    lines = [f"{'':36}{'CPU s':>8}{'wall s':>8}"]
    for name, row in result["times"].items():
        shown = f"{row['cpu_s']:8.2f}{row['wall_s']:8.2f}" if row else "   not installed"
        version = result["peers"].get(name)
        lines.append(f"{name + f' {version}' * bool(version):36}{shown}")
    lines.append("")
    for name, value in result["ratios"].items():
        lines.append(f"{name:36}{verdict(value, *TARGETS.get(name, ('at least', 1.0)))}")
    return "\n".join(lines)


def verdict(value: float, how: str, limit: float) -> str:
    """Return a number, its target (`how` is "at least" or "at most") and whether it is met."""
    met = value <= limit if how == "at most" else value >= limit
    return f"{value:8.2f}  {how} {limit:g}: {'met' if met else 'NOT MET'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=20_000, help="side of the slide in pixels (default 20000)")
    parser.add_argument("--runs", type=int, default=3, help="times that each is measured; medians count (default 3)")
    parser.add_argument(
        "--peer-python",
        type=Path,
        action="append",
        default=[Path(sys.executable)],
        metavar="PATH",
        help=f"an interpreter that has one of {', '.join(PEERS)}; can be given again",
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    if options.size % 16:
        parser.error(f"--size {options.size}: give a multiple of 16")
    for python in options.peer_python:
        if not python.is_file():
            parser.error(f"--peer-python {python}: no such interpreter")
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tiff"
        draw(path, options.size)
        result = measure(path, Path(folder), options.runs, peers_of(options.peer_python))
    print(f"{options.size} × {options.size} pixels at downsample {DOWNSAMPLE} from level 0, median of {options.runs}\n")
    print(show(result))
    if options.json:
        facts = {"size": options.size, "runs": options.runs, "peak_mb": peak_mb(), **result, "made_by": environment()}
        write_text(options.json, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
