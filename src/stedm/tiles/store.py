"""The tile store: the one format in which later stages read pixels and layouts.

A store is a folder of

- ``shard-000.bin``, …: records of one tile each, ``tile × tile × 3`` bytes of RGB followed by
  ``tile × tile`` bytes of label (0 is no annotated class, 1… the annotated classes in their order,
  254 beyond the regions that somebody annotated, 255 beyond the slide's edge);
- ``index.parquet``: one row a tile (see :data:`COLUMNS`), sorted by slide, y, x;
- ``slides.parquet``: one row a slide, with its size and resolution at working pixels;
- ``store.json``: format version, tile side, classes.

Tiles lie on a grid without overlap; a window of any position and size is put together from the tiles that
it touches. Nothing here is copied when label budgets or styles choose among tiles.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stedm.errors import UserError
from stedm.provenance import write_text

VERSION = 1
OUTSIDE = 255
"""Label of pixels beyond the slide's edge."""
UNKNOWN = 254
"""Label of pixels beyond the regions that somebody annotated; neither counts in losses and scores."""
EMPTY = 255
"""Grey level shown where a window touches a tile that holds no tissue and was not stored."""
SHARD_BYTES = 256 * 2**20
COPY_BYTES = 16 * 2**20

COLUMNS = pa.schema(
    [
        ("slide", pa.string()),
        ("patient", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("x", pa.int32()),  # left edge in working pixels
        ("y", pa.int32()),  # upper edge in working pixels
        ("mpp", pa.float64()),  # µm per working pixel, null where unknown
        ("tissue", pa.float32()),  # fraction of the tile that is tissue
        ("foreground", pa.float32()),  # fraction of its known labels; null where less than half are known
        ("shard", pa.int32()),
        ("record", pa.int64()),  # position in the shard, in records
        ("origin", pa.string()),  # real | synthetic | transferred
        # The rest is null for real tiles.
        ("layout_slide", pa.string()),
        ("layout_x", pa.int32()),
        ("layout_y", pa.int32()),
        ("layout_transform", pa.string()),  # JSON of the transform applied to the layout
        ("style_patient", pa.string()),
        ("style_slide", pa.string()),
        ("style_windows", pa.string()),  # JSON list of [x, y] in working pixels of style_slide
        ("style_sampling", pa.string()),
        ("seed", pa.int64()),
        ("guidance", pa.float64()),
        ("generator", pa.string()),
    ]
)

SLIDE_COLUMNS = pa.schema(
    [
        ("slide", pa.string()),
        ("patient", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("width", pa.int32()),  # working pixels
        ("height", pa.int32()),
        ("mpp", pa.float64()),
        ("downsample", pa.float64()),  # level-0 pixels to a working pixel
    ]
)


@dataclass(frozen=True)
class StoredSlide:
    """A slide of a store, measured in working pixels."""

    slide: str
    patient: str
    group: str
    split: str
    width: int
    height: int
    mpp: float | None
    downsample: float


class TileStore:
    """Read access to one or several stores as one.

    Parameters
    ----------
    folders
        Store folders with the same tile side and classes; slides must differ.

    Raises
    ------
    UserError
        If a folder is no store of this version, or the stores do not fit together.
    """

    def __init__(self, *folders: Path) -> None:
        if not folders:
            raise ValueError("at least one folder")
        heads = [_read_head(Path(folder)) for folder in folders]
        self.tile: int = heads[0]["tile"]
        self.classes: list[str] = heads[0]["classes"]
        self.foreground: list[str] = heads[0]["foreground"]
        self._is_foreground = np.isin(np.arange(256), [1 + self.classes.index(name) for name in self.foreground])
        self._shards: list[np.ndarray] = []
        tables, slide_tables = [], []
        for folder, head in zip(map(Path, folders), heads, strict=True):
            if any(head[key] != heads[0][key] for key in ("tile", "classes", "foreground")):
                raise UserError(f"{folder}: differs from {folders[0]} in tile side or classes; cut both alike.")
            table = pq.read_table(folder / "index.parquet")
            offset = len(self._shards)
            shard = pa.array(table["shard"].to_numpy() + offset, pa.int32())
            tables.append(table.set_column(table.schema.get_field_index("shard"), "shard", shard))
            slide_tables.append(pq.read_table(folder / "slides.parquet"))
            self._shards += [self._map(folder / f"shard-{n:03d}.bin") for n in range(head["shards"])]
        self.index: pa.Table = pa.concat_tables(tables)
        self.slides: dict[str, StoredSlide] = {
            row["slide"]: StoredSlide(**row) for row in pa.concat_tables(slide_tables).to_pylist()
        }
        self._shard = self.index["shard"].to_numpy()
        self._record = self.index["record"].to_numpy()
        for number in np.unique(self._shard):
            if self._record[self._shard == number].max() >= len(self._shards[number]):
                raise UserError(f"{folders[0]}: a shard of the tile store was cut short; cut the tiles again.")
        slide, x, y = (self.index[c].to_pylist() for c in ("slide", "x", "y"))
        self._rows = {key: row for row, key in enumerate(zip(slide, x, y, strict=True))}
        if len(self._rows) != len(self.index):
            raise UserError(f"{', '.join(map(str, folders))}: a slide stands in two of these stores.")

    def _map(self, path: Path) -> np.ndarray:
        size = 4 * self.tile**2
        try:
            length = path.stat().st_size
        except OSError:
            raise UserError(f"{path}: this shard of the tile store is missing; cut the tiles again.") from None
        if length % size:
            raise UserError(f"{path}: {length} bytes are no whole number of tiles; cut the tiles again.")
        if length == 0:
            return np.zeros((0, size), np.uint8)
        # Views of the class memmap take longer to make than most reads.
        return np.asarray(np.memmap(path, np.uint8, "r")).reshape(-1, size)

    def __len__(self) -> int:
        return len(self.index)

    def column(self, name: str) -> np.ndarray:
        """Return a column of the index, one value a tile; texts as objects."""
        return self.index[name].to_numpy()

    def tile_at(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the tile of an index row: RGB uint8 (tile, tile, 3) and label uint8 (tile, tile)."""
        record = self._shards[self._shard[row]][self._record[row]]
        side, split = self.tile, 3 * self.tile**2
        return record[:split].reshape(side, side, 3), record[split:].reshape(side, side)

    def window(self, slide: str, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Read a window at any position of a slide.

        Parameters
        ----------
        slide
            A slide of the store.
        x, y
            Left and upper edge in working pixels; may lie outside the slide.
        width, height
            Size in working pixels.

        Returns
        -------
        image
            uint8 (height, width, 3); :data:`EMPTY` where no tile is stored.
        label
            uint8 (height, width); :data:`OUTSIDE` where no tile is stored or beyond the slide.
        """
        image = np.full((height, width, 3), EMPTY, np.uint8)
        label = np.full((height, width), OUTSIDE, np.uint8)
        side = self.tile
        for ty in range(y // side * side, y + height, side):
            for tx in range(x // side * side, x + width, side):
                row = self._rows.get((slide, tx, ty))
                if row is None:
                    continue
                pixels, labels = self.tile_at(row)
                x0, x1 = max(x, tx), min(x + width, tx + side)
                y0, y1 = max(y, ty), min(y + height, ty + side)
                there = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
                here = (slice(y0 - ty, y1 - ty), slice(x0 - tx, x1 - tx))
                image[there], label[there] = pixels[here], labels[here]
        return image, label

    def layout(self, label: np.ndarray) -> np.ndarray:
        """Return which labels, uint8, are foreground, as a bool array of the same shape."""
        return self._is_foreground[label]


def _read_head(folder: Path) -> dict[str, Any]:
    path = folder / "store.json"
    try:
        head = json.loads(path.read_text())
    except (OSError, ValueError):
        raise UserError(f"{path}: not a readable tile store; cut the tiles again.") from None
    if head.get("version") != VERSION:
        raise UserError(f"{path}: tile store version {head.get('version')}, this is {VERSION}; cut the tiles again.")
    return head


def split_records(records: np.ndarray, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Return views of the images, uint8 (n, tile, tile, 3), and labels, uint8 (n, tile, tile), of records."""
    pixels = tile * tile
    return records[:, : 3 * pixels].reshape(-1, tile, tile, 3), records[:, 3 * pixels :].reshape(-1, tile, tile)


class StoreWriter:
    """Writes a store slide by slide; what a killed process left is taken up again.

    ``journal.jsonl`` holds one line for each finished slide; bytes behind the last journalled slide are cut
    off, so that a half-written slide is never taken for a whole one.

    Parameters
    ----------
    folder
        Where to write.
    tile
        Side of a tile in pixels.
    classes, foreground
        Annotated classes in the order of their labels, and those that are foreground.
    """

    def __init__(self, folder: Path, *, tile: int, classes: list[str], foreground: list[str]) -> None:
        self.folder, self.tile = Path(folder), tile
        self.head = {"version": VERSION, "tile": tile, "classes": classes, "foreground": foreground}
        self._journal = self.folder / "journal.jsonl"
        self._done: list[dict[str, Any]] = []
        if self._journal.exists():
            complete = self._journal.read_text().rpartition("\n")[0]
            for line in complete.splitlines():
                entry = json.loads(line)
                path = self._shard_path(entry["shard"])
                if not path.exists() or path.stat().st_size < entry["end"]:
                    # A machine that stopped may keep the journal and lose the pixels.
                    break
                self._done.append(entry)
        self._sizes: dict[int, int] = {0: 0}
        for entry in self._done:
            self._sizes[entry["shard"]] = entry["end"]
        for shard, size in self._sizes.items():
            path = self._shard_path(shard)
            path.touch()
            with path.open("r+b") as file:
                file.truncate(size)
        for path in self.folder.glob("shard-*.bin"):
            if int(path.stem.removeprefix("shard-")) not in self._sizes:
                path.unlink()
        self._write_journal()

    def _write_journal(self) -> None:
        write_text(self._journal, "".join(json.dumps(entry) + "\n" for entry in self._done))

    def _shard_path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:03d}.bin"

    @property
    def done(self) -> set[str]:
        """Slides that are already in the store."""
        return {entry["slide"]["slide"] for entry in self._done}

    def add(self, slide: StoredSlide, images: np.ndarray, labels: np.ndarray, rows: list[dict[str, Any]]) -> None:
        """Append a slide.

        Parameters
        ----------
        slide
            The slide's facts.
        images
            uint8 (n, tile, tile, 3).
        labels
            uint8 (n, tile, tile).
        rows
            For each tile its columns of the index but those that the slide, shard and record give.
        """
        n, side = len(rows), self.tile
        if images.shape != (n, side, side, 3) or labels.shape != (n, side, side):
            raise ValueError(f"{n} rows, images {images.shape}, labels {labels.shape}")
        records = np.concatenate([images.reshape(n, -1), labels.reshape(n, -1)], axis=1)
        shard = self._open_shard()
        with self._shard_path(shard).open("ab") as file:
            file.write(records.tobytes())
        self._enter(slide, shard, rows)

    def adopt(self, slide: StoredSlide, records: Path, rows: list[dict[str, Any]]) -> None:
        """Append a slide whose records lie in a file, which is used up.

        Parameters
        ----------
        slide, rows
            As for :meth:`add`.
        records
            The file, on the store's own disk.
        """
        shard = self._open_shard()
        if self._sizes[shard] == 0:
            records.replace(self._shard_path(shard))
        else:
            with records.open("rb") as source, self._shard_path(shard).open("ab") as file:
                shutil.copyfileobj(source, file, COPY_BYTES)
            records.unlink()
        self._enter(slide, shard, rows)

    def _open_shard(self) -> int:
        shard = max(self._sizes)
        if self._sizes[shard] >= SHARD_BYTES:
            shard += 1
            self._sizes[shard] = 0
        return shard

    def _enter(self, slide: StoredSlide, shard: int, rows: list[dict[str, Any]]) -> None:
        size = 4 * self.tile**2
        first = self._sizes[shard] // size
        self._sizes[shard] += len(rows) * size
        entry = {"slide": vars(slide), "shard": shard, "first": first, "end": self._sizes[shard], "rows": rows}
        with self._journal.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self._done.append(entry)

    def finish(self) -> None:
        """Write the index; the folder is a store from here on."""
        rows = []
        for entry in self._done:
            facts = {key: entry["slide"][key] for key in ("slide", "patient", "group", "split", "mpp")}
            for number, row in enumerate(entry["rows"]):
                where = {"shard": entry["shard"], "record": entry["first"] + number}
                rows.append({"origin": "real", **facts, **where, **row})
        rows.sort(key=lambda row: (row["slide"], row["y"], row["x"]))
        slides = sorted((entry["slide"] for entry in self._done), key=lambda slide: slide["slide"])
        pq.write_table(pa.Table.from_pylist(rows, COLUMNS), self.folder / "index.parquet")
        pq.write_table(pa.Table.from_pylist(slides, SLIDE_COLUMNS), self.folder / "slides.parquet")
        head = {**self.head, "shards": len(self._sizes)}
        (self.folder / "store.json").write_text(json.dumps(head, indent=1) + "\n")
        self._journal.unlink()
