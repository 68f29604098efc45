"""Overviews of slides: what scores keep of them, and the figure that the report draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stedm.report import plates, previews
from stedm.scores import overviews
from stedm.tiles.store import OUTSIDE, UNKNOWN, StoredSlide, StoreWriter, TileStore

TILE = 32


def make(folder: Path, groups: dict[str, str]) -> tuple[TileStore, Path]:
    """Store slides of 80 × 64 pixels without their lower middle tile; predict the left half of each tile."""
    (folder / "store").mkdir(parents=True)
    writer = StoreWriter(folder / "store", tile=TILE, classes=["tumour", "necrosis"], foreground=["tumour"])
    predicted = []
    bits = np.zeros((TILE, TILE), bool)
    bits[:, : TILE // 2] = True
    for name, group in groups.items():
        images, labels, rows = [], [], []
        for x, y in ((0, 0), (32, 0), (64, 0), (0, 32), (64, 32)):
            image = np.full((TILE, TILE, 3), (150, 60, 120), np.uint8)
            label = np.zeros((TILE, TILE), np.uint8)
            if (x, y) == (0, 0):
                label[:, :24] = 1
                label[:8] = UNKNOWN
            if x == 64:
                label[:, 16:] = OUTSIDE
                image[:, 16:] = 255
            images.append(image)
            labels.append(label)
            rows.append({"x": x, "y": y, "tissue": 1.0, "foreground": 0.0})
            predicted.append({"slide": name, "x": x, "y": y, "last": np.packbits(bits).tobytes(), "best": b""})
        stored = StoredSlide(name, name, group, "test", 80, 64, 0.5, 1.0)
        writer.add(stored, np.stack(images), np.stack(labels), rows)
    writer.finish()
    pd.DataFrame(predicted).to_parquet(folder / "predictions.parquet")
    return TileStore(folder / "store"), folder / "predictions.parquet"


def keep(folder: Path, groups: dict[str, str]) -> list[previews.SlideOverview]:
    store, predictions = make(folder, groups)
    overviews.write_overviews(predictions, store, folder / "preview" / overviews.OVERVIEWS)
    return previews.slides({"folder": folder})


def test_a_slide_is_kept_as_it_is(tmp_path):
    (slide,) = keep(tmp_path, {"s": "a"})
    assert slide.picture.shape == (64, 80, 3)
    assert np.abs(slide.picture[:, :32].astype(int) - (150, 60, 120)).max() < 20
    assert (slide.picture[36:, 36:60] > 245).all(), "a tile that is not stored is blank"
    truth = np.zeros((64, 80), bool)
    truth[8:32, :24] = True
    assert np.array_equal(slide.layout, truth)
    found = np.zeros((64, 80), bool)
    found[:, :16] = found[:32, 32:48] = found[:, 64:80] = True
    assert np.array_equal(slide.predicted, found)
    assert slide.tissue[10, 10] and not slide.tissue[50, 48]
    assert slide.tiles.tolist()[0] == [0, 0, 32, 32] and slide.tiles.tolist()[-1] == [64, 32, 80, 64]
    assert slide.mpp == 0.5
    # 24 × 16 pixels agree; 24 × 8 are missed; of the other tiles 32 × 16 each are wrong, where labels are known.
    assert slide.iou == pytest.approx(384 / (384 + 192 + 4 * 512))


def test_a_reduced_slide_is_the_area_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(overviews, "SIDE", 20)
    (slide,) = keep(tmp_path, {"s": "a"})
    assert slide.picture.shape == (16, 20, 3)
    truth = np.zeros((16, 20), bool)
    truth[2:8, :6] = True
    assert np.array_equal(slide.layout, truth)
    assert slide.tiles.tolist()[1] == [8, 0, 16, 8] and slide.mpp == 2.0
    assert slide.iou == pytest.approx(384 / (384 + 192 + 4 * 512)), "of the pixels of the store, not of the picture"


def test_each_class_is_shown_first(tmp_path):
    groups = {"1": "a", "2": "a", "3": "a", "4": "a", "5": "b", "6": "c"}
    assert [slide.name for slide in keep(tmp_path, groups)] == ["1", "2", "5", "6"]


def test_the_figure_draws_the_arms_and_says_what_they_reach(tmp_path):
    runs = []
    for arm in ("mean-teacher", "synthetic", "real"):
        keep(tmp_path / arm, {"s": "a", "t": "b"})
        runs += [
            {"stage": "scores", "id": f"{arm}-{k}", "folder": tmp_path / arm, "arm": arm, "budget": k} for k in (1, 3)
        ]
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        (picture,), absent = plates.slide_figures(folder, runs)
        assert not absent
        contents.append(picture.content)
        assert "real on s: 0.15" in picture.alt and "mean-teacher" not in picture.alt
    assert contents[0] == contents[1]
    assert b"image/png" not in contents[0] and len(contents[0]) < 200_000
    assert {path.name for path in folder.iterdir()} == {"slides.pdf", "slides.png"}


def test_what_is_not_there_or_damaged_is_said(tmp_path, caplog):
    keep(tmp_path, {"s": "a"})
    run = {"stage": "scores", "id": "x", "folder": tmp_path, "arm": "real", "budget": 1}
    (tmp_path / "preview" / "slides.npz").write_bytes(b"PK broken")
    assert plates.slide_figures(tmp_path, [run]) == ([], ["No scores run left overviews of its slides."])
    assert "slides.npz is left out" in caplog.text
