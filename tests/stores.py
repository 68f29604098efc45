"""A small tile store that is drawn in a moment: bright squares, which are the foreground, on a coloured ground."""

from pathlib import Path

import numpy as np

from stedm.tiles.store import StoredSlide, StoreWriter, TileStore

TILE, TILES = 32, 3


def squares(folder: Path, patients: str = "abv") -> TileStore:
    """Patients by their letters, one slide each of 3 × 3 tiles of 32 pixels, split `train` but for `v`."""
    writer = StoreWriter(folder, tile=TILE, classes=["square"], foreground=["square"])
    side = TILE * TILES
    for number, patient in enumerate(patients):
        random = np.random.default_rng(number)
        image = np.empty((side, side, 3), np.uint8)
        image[:] = random.integers(40, 160, 3)
        label = np.zeros((side, side), np.uint8)
        for x, y in random.integers(0, side - 10, (18, 2)):
            image[y : y + 10, x : x + 10] = random.integers(120, 255, 3)
            label[y : y + 10, x : x + 10] = 1
        tiles, labels, rows = [], [], []
        for y in range(0, side, TILE):
            for x in range(0, side, TILE):
                tiles.append(image[y : y + TILE, x : x + TILE])
                labels.append(label[y : y + TILE, x : x + TILE])
                rows.append({"x": x, "y": y, "tissue": 1.0, "foreground": float(labels[-1].mean())})
        split = "validation" if patient == "v" else "train"
        writer.add(
            StoredSlide(patient, patient, "g", split, side, side, 1.0, 1.0), np.stack(tiles), np.stack(labels), rows
        )
    writer.finish()
    return TileStore(folder)
