"""Predicting whole slides in windows with context, and predictions on disk.

``predictions.parquet`` has one row a tile of the predicted slides: ``slide``, ``x``, ``y`` (as in the tile
store's index) and for each checkpoint a column of ``tile × tile`` bits, row by row, 1 for foreground.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from stedm.augment import to_tensor
from stedm.tiles.store import TileStore

PREDICTIONS = "predictions.parquet"
CHECKPOINTS = ("last", "best")
BATCH_PIXELS = 2**18
"""Pixels predicted at once."""


@torch.no_grad()
def predict_slide(
    network: nn.Module, store: TileStore, slide: str, *, window: int, margin: int, device: torch.device
) -> np.ndarray:
    """Predict a slide.

    The slide is cut into windows that overlap by twice the margin; of each only what lies inside its rim
    is kept, so that every pixel is predicted with context, except beyond the slide's own edge.

    Returns
    -------
    np.ndarray
        bool (height, width): foreground.
    """
    size = store.slides[slide]
    keep = window - 2 * margin
    out = np.zeros((size.height, size.width), bool)
    corners = [(x, y) for y in range(0, size.height, keep) for x in range(0, size.width, keep)]
    at_once = max(1, BATCH_PIXELS // window**2)
    for start in range(0, len(corners), at_once):
        chosen = corners[start : start + at_once]
        images = [store.window(slide, x - margin, y - margin, window, window)[0] for x, y in chosen]
        logits = network(to_tensor(images).to(device))
        foreground = (logits[:, 1] > logits[:, 0]).cpu().numpy()
        for (x, y), mask in zip(chosen, foreground, strict=True):
            inner = mask[margin : margin + keep, margin : margin + keep]
            target = out[y : y + keep, x : x + keep]
            target[:] = inner[: target.shape[0], : target.shape[1]]
    return out


def write_predictions(
    path: Path,
    networks: dict[str, nn.Module],
    store: TileStore,
    patients: Collection[str],
    *,
    window: int,
    margin: int,
    device: torch.device,
    shown: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Predict all slides of some patients with each checkpoint's network; return the `last` predictions of `shown`."""
    kept: dict[str, np.ndarray] = {}
    side, slides = store.tile, slides_of(store, patients)
    index_slide, index_x, index_y = (store.column(name) for name in ("slide", "x", "y"))
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(index_slide):
        rows_of.setdefault(name, []).append(row)
    columns: dict[str, list] = {"slide": [], "x": [], "y": [], **{name: [] for name in networks}}
    for slide in slides:
        rows = rows_of.get(slide, [])
        columns["slide"] += [slide] * len(rows)
        columns["x"] += [int(index_x[row]) for row in rows]
        columns["y"] += [int(index_y[row]) for row in rows]
        masks: dict[int, np.ndarray] = {}
        for name, network in networks.items():
            if id(network) not in masks:
                masks[id(network)] = predict_slide(network, store, slide, window=window, margin=margin, device=device)
            mask = masks[id(network)]
            if name == "last" and slide in shown:
                kept[slide] = mask
            padded = np.pad(mask, ((0, -mask.shape[0] % side), (0, -mask.shape[1] % side)))
            for row in rows:
                x, y = index_x[row], index_y[row]
                columns[name].append(np.packbits(padded[y : y + side, x : x + side]).tobytes())
    types = {"slide": pa.string(), "x": pa.int32(), "y": pa.int32()}
    fields = [(name, types.get(name, pa.binary())) for name in columns]
    pq.write_table(pa.table(columns, pa.schema(fields)), path, compression="zstd")
    return kept


def slides_of(store: TileStore, patients: Collection[str]) -> list[str]:
    """Return the slides of some patients, by name."""
    return sorted(name for name, slide in store.slides.items() if slide.patient in patients)
