"""Counting predicted pixels by slide and annotated class: the only numbers that are stored.

Intersection over union, Dice and everything else is derived from these counts. No torch here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stedm.errors import UserError
from stedm.tiles.store import UNKNOWN, TileStore

UNANNOTATED = "unannotated"
SCORES = "scores.parquet"

COLUMNS = pa.schema(
    [
        ("cohort", pa.string()),
        ("arm", pa.string()),
        ("budget", pa.int64()),  # null where all training patients are labelled
        ("seed", pa.int64()),
        ("segmenter", pa.string()),
        ("checkpoint", pa.string()),
        ("slide", pa.string()),
        ("patient", pa.string()),
        ("group", pa.string()),
        ("annotated", pa.string()),
        ("foreground", pa.bool_()),
        ("predicted_foreground", pa.int64()),
        ("predicted_background", pa.int64()),
    ]
)


def count_predictions(predictions: Path, store: TileStore, facts: dict[str, object], out: Path) -> None:
    """Count, for each checkpoint, slide and annotated class, the pixels predicted as fore- and background.

    Only pixels of stored tiles inside the slide, and inside the regions that were annotated, count.

    Parameters
    ----------
    predictions
        A segmenter's ``predictions.parquet``.
    store
        The tile store with the labels.
    facts
        cohort, arm, budget, seed and segmenter, copied into each row.
    out
        Parquet file to write.

    Raises
    ------
    UserError
        If a predicted tile is not in the store.
    """
    table = pq.read_table(predictions)
    names = [UNANNOTATED, *store.classes]
    foreground = [name in store.foreground for name in names]
    where = {
        key: row
        for row, key in enumerate(zip(store.column("slide"), store.column("x"), store.column("y"), strict=True))
    }
    tiles = list(zip(*(table[c].to_pylist() for c in ("slide", "x", "y")), strict=True))
    if missing := [tile for tile in tiles if tile not in where]:
        raise UserError(f"{predictions}: tile {missing[0]} is not in the tile store; predict again.")
    rows = []
    for checkpoint in (c for c in table.column_names if c not in ("slide", "x", "y")):
        counts: dict[str, np.ndarray] = {}
        for tile, packed in zip(tiles, table[checkpoint].to_pylist(), strict=True):
            label = store.tile_at(where[tile])[1].ravel()
            predicted = np.unpackbits(np.frombuffer(packed, np.uint8))[: label.size]
            counted = label < UNKNOWN
            joint = np.bincount(2 * label[counted].astype(np.int64) + predicted[counted], minlength=2 * len(names))
            counts[tile[0]] = counts.get(tile[0], 0) + joint.reshape(len(names), 2)
        for slide, joint in sorted(counts.items()):
            known = store.slides[slide]
            for number, name in enumerate(names):
                rows.append(
                    {
                        **facts,
                        "checkpoint": checkpoint,
                        "slide": slide,
                        "patient": known.patient,
                        "group": known.group,
                        "annotated": name,
                        "foreground": foreground[number],
                        "predicted_foreground": int(joint[number, 1]),
                        "predicted_background": int(joint[number, 0]),
                    }
                )
    pq.write_table(pa.Table.from_pylist(rows, COLUMNS), out)
