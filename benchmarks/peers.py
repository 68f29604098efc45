"""Other libraries reading a slide, each in an environment of its own: needs nothing but one of them, and no stedm.

`python peers.py NAME` prints the version of an installed library; `python peers.py NAME SLIDE` reads the slide once for
each line of its input and prints the processor and wall seconds that it took. See benchmarks/README.md.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

DOWNSAMPLE, TILE = 2, 512


def tiatoolbox(path: Path) -> None:
    from tiatoolbox.wsicore.wsireader import WSIReader

    slide = WSIReader.open(path)
    for x, y, width, height in corners(slide.info.slide_dimensions):
        size = (width // DOWNSAMPLE, height // DOWNSAMPLE)
        slide.read_rect((x, y), size, resolution=1 / DOWNSAMPLE, units="baseline")


def histolab(path: Path) -> None:
    from histolab.slide import Slide
    from histolab.types import CoordinatePair

    slide = Slide(path, path.parent)
    for x, y, width, height in corners(slide.dimensions):
        # Its coordinates include the last pixel, and its level 0 is not reduced.
        tile = slide.extract_tile(CoordinatePair(x, y, x + width - 1, y + height - 1), (width, height), level=0)
        tile.image.convert("RGB").reduce(DOWNSAMPLE)


def wsidata(path: Path) -> None:
    import cv2
    import numpy as np
    from wsidata import open_wsi

    cv2.setNumThreads(1)
    reader = open_wsi(path).reader
    height, width = reader.properties.shape
    for x, y, across, down in corners((width, height)):
        region = np.ascontiguousarray(reader.get_region(x, y, across, down, level=0)[..., :3])
        cv2.resize(region, (across // DOWNSAMPLE, down // DOWNSAMPLE), interpolation=cv2.INTER_AREA)


PEERS = {"tiatoolbox": tiatoolbox, "histolab": histolab, "wsidata": wsidata}


def corners(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield x, y, width and height of each tile in pixels of level 0."""
    side = TILE * DOWNSAMPLE
    for y in range(0, size[1], side):
        for x in range(0, size[0], side):
            yield x, y, min(side, size[0] - x), min(side, size[1] - y)


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    """Return processor and wall seconds; workers' processor time does not count."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    name, *slide = sys.argv[1:]
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{name}: not installed")
    if not slide:
        print(version)
        return
    for _ in sys.stdin:
        print("seconds", *seconds(lambda: PEERS[name](Path(slide[0]))), flush=True)


if __name__ == "__main__":
    main()
