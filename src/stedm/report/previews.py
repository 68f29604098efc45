"""Reads what the stages left in `preview/`: curves, image grids, overviews; None where missing or unreadable."""

from __future__ import annotations

import io
import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

log = logging.getLogger(__name__)

_GRID = ("layouts", "layout_images", "styles", "images", "style_names", "layout_names")
_STYLES = ("vectors", "patient", "group", "role")
_EXAMPLES = ("images", "truths", "predictions", "names")


@dataclass(frozen=True)
class SlideOverview:
    """A whole slide, reduced, and what a segmenter predicted for it."""

    name: str
    picture: np.ndarray
    """uint8 (h, w, 3), RGB."""
    tissue: np.ndarray
    """bool (h, w), as are the next two."""
    layout: np.ndarray
    predicted: np.ndarray
    tiles: np.ndarray
    """(m, 4): left, top, right and bottom of each stored tile in pixels of the picture."""
    mpp: float
    """µm per pixel of the picture, NaN where unknown."""
    iou: float
    """Of layout and prediction at full resolution, NaN where both are empty."""


def folder(run: dict) -> Path | None:
    """Return a run's preview folder, or None where it has none."""
    path = Path(run["folder"]) / "preview" if run.get("folder") else None
    return path if path is not None and path.is_dir() else None


def _arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        log.warning("%s is left out: %s", path, error)
        return None
    lacking = [name for name in names if name not in arrays]
    if lacking:
        log.warning("%s is left out: it lacks %s", path, ", ".join(lacking))
        return None
    return arrays


def curves(run: dict) -> pd.DataFrame | None:
    """Read `curves.csv`: columns step, loss and, from a segmenter, validation_loss (NaN where not measured)."""
    base = folder(run)
    if base is None or not (base / "curves.csv").is_file():
        return None
    try:
        frame = pd.read_csv(base / "curves.csv")
    except (OSError, ValueError) as error:
        log.warning("%s is left out: %s", base / "curves.csv", error)
        return None
    return frame if {"step", "loss"} <= set(frame.columns) and len(frame) else None


def grid(run: dict) -> dict[str, np.ndarray] | None:
    """Read `grid.npz` of a synthetic run.

    Returns
    -------
    `layouts` (L, h, w) 0/1; `layout_images` (L, h, w, 3), `styles` (S, n, h, w, 3) and `images` (L, S, h, w, 3)
    uint8 RGB; `style_names` (S,), `layout_names` (L,); `null_images` (L, h, w, 3) where drawn.
    """
    base = folder(run)
    return _arrays(base / "grid.npz", _GRID) if base is not None and (base / "grid.npz").is_file() else None


def styles(run: dict) -> dict[str, np.ndarray] | None:
    """Read `styles.npz` of a generator: `vectors` (n, dim) of style sets, `patient`, `group`, `role` (n,)."""
    base = folder(run)
    return _arrays(base / "styles.npz", _STYLES) if base is not None and (base / "styles.npz").is_file() else None


def examples(run: dict) -> dict[str, np.ndarray] | None:
    """Read `examples.npz` of a segmenter: `images` (n, h, w, 3), `truths`, `predictions` (n, h, w), `names` (n,)."""
    base = folder(run)
    return _arrays(base / "examples.npz", _EXAMPLES) if base is not None and (base / "examples.npz").is_file() else None


def slides(run: dict) -> list[SlideOverview]:
    """Read `slides.npz` of a scores run; empty where there is none."""
    base = folder(run)
    found = _arrays(base / "slides.npz", ("names",)) if base is not None and (base / "slides.npz").is_file() else None
    read = []
    try:
        for number, name in enumerate([] if found is None else found["names"]):
            with Image.open(io.BytesIO(found[f"picture-{number}"].tobytes())) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            planes = {key: found[f"{key}-{number}"] for key in ("tissue", "layout", "predicted", "tiles")}
            mpp, iou = map(float, found[f"facts-{number}"])
            read.append(SlideOverview(str(name), pixels, **planes, mpp=mpp, iou=iou))
    except (KeyError, OSError, ValueError) as error:
        log.warning("%s is left out: %s", base / "slides.npz", error)
        return []
    return read


def overviews(run: dict) -> list[tuple[str, bytes]]:
    """Read a tiles run's slide overviews as (slide, PNG bytes), by name."""
    base = folder(run)
    return [(path.stem, path.read_bytes()) for path in sorted(base.glob("*.png"))] if base is not None else []
