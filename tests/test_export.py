"""Export to GeoJSON: what is written is what was stored, read back by our reader and by others."""

import json
from uuid import UUID

import cv2
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from conftest import command

from stedm.cohort.annotations import check_polygons, read_geojson
from stedm.config import load_config
from stedm.errors import UserError
from stedm.segmenter.predict import write_predictions
from stedm.stages import make_cohort, make_tiles
from stedm.study import Study
from stedm.tiles.layout import rasterise
from stedm.tiles.store import OUTSIDE, UNKNOWN, StoredSlide, StoreWriter, TileStore
from stedm.tools.export import Exporter, export
from stedm.tools.outlines import LOSSLESS, outline

SIDE = 32


def blobs(width, height, seed=0, smooth=2.0):
    random = np.random.default_rng(seed)
    return cv2.GaussianBlur(random.random((height, width)), (0, 0), smooth) > 0.5


def inside(outlines, shape):
    """Pixels whose centres lie in a polygon, by an independent implementation."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    found = np.zeros(shape, bool)
    for rings in outlines.polygons:
        found |= shapely.contains_xy(shapely.Polygon(rings[0], rings[1:]), x, y)
    return found


CORNERS = np.array([[1, 1, 1, 0, 1], [1, 0, 0, 1, 0], [1, 0, 1, 0, 1], [1, 1, 0, 1, 1], [0, 0, 1, 1, 0]], bool)
MASKS = {
    "blobs": blobs(90, 70),
    "noise": blobs(60, 50, seed=1, smooth=0.4),
    "corners that touch": CORNERS,
    "full": np.ones((5, 7), bool),
    "empty": np.zeros((5, 7), bool),
}


@pytest.mark.parametrize("tolerance", [0, LOSSLESS])
@pytest.mark.parametrize("name", MASKS)
def test_outlines_hold_the_masks_pixels_and_no_others(name, tolerance):
    mask = MASKS[name]
    found = outline(mask, tolerance)
    np.testing.assert_array_equal(inside(found, mask.shape), mask)
    assert all(shapely.Polygon(rings[0], rings[1:]).is_valid for rings in found.polygons)
    assert found.deviation <= tolerance + 1e-9
    assert found.deviation > 0 or not tolerance or name in ("full", "empty", "corners that touch")
    if not tolerance:
        holes = sum(len(rings) - 1 for rings in found.polygons)
        assert found.area == mask.sum() - len(found.polygons) / 2 + holes / 2


@pytest.mark.parametrize("tolerance", [0.5, 1.5, 4.0])
def test_the_stated_error_is_the_error(tolerance):
    mask = blobs(200, 160, smooth=4)
    exact, found = outline(mask, 0), outline(mask, tolerance)
    assert 0.5 * tolerance < found.deviation <= tolerance + 1e-9
    shapes = [[shapely.Polygon(rings[0], rings[1:]) for rings in o.polygons] for o in (exact, found)]
    measured = max(one.boundary.hausdorff_distance(other.boundary) for one, other in zip(*shapes, strict=True))
    assert found.deviation == pytest.approx(measured)
    assert found.area == pytest.approx(sum(shape.area for shape in shapes[1]))
    corners = [sum(len(ring) for rings in o.polygons for ring in rings) for o in (exact, found)]
    assert corners[1] < 0.7 * corners[0]
    # A pixel that changed sides has its centre no farther from the outline than the tolerance.
    outlines = shapely.union_all([shape.boundary for shape in shapes[0]])
    y, x = np.nonzero(inside(found, mask.shape) != mask)
    assert len(y) and shapely.distance(outlines, shapely.points(x + 0.5, y + 0.5)).max() <= tolerance


def store_of(folder, planes, downsample, classes=("tumour", "necrosis")):
    """A store of slides with these labels, uint8 (h, w); without the tiles at the upper left."""
    folder.mkdir(parents=True)
    writer = StoreWriter(folder, tile=SIDE, classes=list(classes), foreground=[classes[0]])
    random = np.random.default_rng(0)
    for name, label in planes.items():
        height, width = label.shape
        padded = np.full((height + -height % SIDE, width + -width % SIDE), OUTSIDE, np.uint8)
        padded[:height, :width] = label
        corners = [(x, y) for y in range(0, height, SIDE) for x in range(0, width, SIDE) if x or y]
        labels = np.stack([padded[y : y + SIDE, x : x + SIDE] for x, y in corners])
        images = random.integers(0, 255, (*labels.shape, 3), dtype=np.uint8)
        rows = [{"x": x, "y": y, "tissue": 1.0, "foreground": None if y else 0.5} for x, y in corners]
        writer.add(StoredSlide(name, f"p-{name}", "a", "test", width, height, None, downsample), images, labels, rows)
    writer.finish()
    return TileStore(folder)


def labels(width=101, height=77):
    """Two classes, one of them in holes of the other."""
    label = blobs(width, height, smooth=5).astype(np.uint8)
    holes = cv2.erode(label, np.ones((9, 9))) > 0
    label[holes & blobs(width, height, seed=3)] = 2
    return label


@pytest.mark.parametrize("downsample", [1.0, 4.0, 2.5, 3.7037])
@pytest.mark.parametrize("tolerance", [0, LOSSLESS])
def test_an_exported_layout_comes_back(tmp_path, downsample, tolerance):
    expected = labels()
    expected[:SIDE, :SIDE] = 0
    store = store_of(tmp_path / "store", {"s": expected}, downsample)
    facts = Exporter(store, tmp_path / "out", tolerance).layout("s")
    polygons = read_geojson(tmp_path / "out" / facts["file"])
    # Nothing to mend, nothing beyond the slide.
    size = [int(side * downsample) for side in expected.shape[::-1]]
    checked = check_polygons(polygons, width=size[0], height=size[1], classes=store.classes, source="x")
    assert all(one is other for one, other in zip(checked, polygons, strict=True))
    found = rasterise(polygons, classes=store.classes, width=101, height=77, downsample=downsample)
    np.testing.assert_array_equal(found, expected)
    assert {polygon.annotated for polygon in polygons} == set(store.classes)
    assert any(polygon.holes for polygon in polygons)


def test_unknown_labels_are_no_class_and_do_not_count(tmp_path):
    label = labels()
    label[:, 40:] = UNKNOWN
    label[:SIDE, :SIDE] = 0
    store = store_of(tmp_path / "store", {"s": label}, 2.0, classes=[f"class {n}" for n in range(253)])
    facts = Exporter(store, tmp_path / "out", 0).layout("s")
    polygons = read_geojson(tmp_path / "out" / facts["file"])
    regions = [polygon for polygon in polygons if polygon.annotated == "Region*"]
    drawn = [polygon for polygon in polygons if polygon.annotated != "Region*"]
    found = rasterise(drawn, classes=store.classes, width=101, height=77, downsample=2)
    np.testing.assert_array_equal(found, np.where(label == UNKNOWN, 0, label))
    # What is known lies in regions; of the tile that is not stored nothing is.
    known = label != UNKNOWN
    known[:SIDE, :SIDE] = False
    found = rasterise(regions, classes=["Region*"], width=101, height=77, downsample=2)
    np.testing.assert_array_equal(found > 0, known)
    assert facts["mask_area"] == 4 * ((label > 0) & (label != UNKNOWN)).sum()


def test_a_simplified_layout_is_off_by_what_is_stated(tmp_path):
    expected = blobs(150, 120, smooth=5).astype(np.uint8)
    expected[:SIDE, :SIDE] = 0
    store = store_of(tmp_path / "store", {"s": expected}, 4.0)
    facts = Exporter(store, tmp_path / "out", 1.5).layout("s")
    polygons = read_geojson(tmp_path / "out" / facts["file"])
    found = rasterise(polygons, classes=store.classes, width=150, height=120, downsample=4)
    assert 3 < facts["deviation"] <= 6
    assert facts["mask_area"] == 16 * expected.sum()
    area = sum(shapely.Polygon(p.exterior, p.holes).area for p in polygons)
    assert facts["polygon_area"] == pytest.approx(area)
    edge = outline(expected > 0, 0)
    lines = shapely.union_all([shapely.Polygon(r[0], r[1:]).boundary for r in edge.polygons])
    y, x = np.nonzero(found != expected)
    assert len(y) and 4 * shapely.distance(lines, shapely.points(x + 0.5, y + 0.5)).max() <= facts["deviation"] + 1e-6


def test_files_are_as_qupath_writes_them(tmp_path):
    store = store_of(tmp_path / "store", {"s": labels()}, 4.0)
    exporter = Exporter(store, tmp_path / "out")
    for facts, kind in ((exporter.layout("s"), "annotation"), (exporter.tiles("s"), "tile")):
        content = json.loads((tmp_path / "out" / facts["file"]).read_text())
        assert content["type"] == "FeatureCollection"
        features = content["features"]
        assert len(features) == facts["features"] == len({UUID(f["id"]) for f in features})
        for f in features:
            assert (f["type"], f["geometry"]["type"], f["properties"]["objectType"]) == ("Feature", "Polygon", kind)
            assert all(ring[0] == ring[-1] for ring in f["geometry"]["coordinates"])
            if kind == "annotation":
                classification = f["properties"]["classification"]
                assert classification["name"] in store.classes
                assert [0 <= part <= 255 for part in classification["color"]] == [True] * 3
        # Another reader: GEOS.
        assert shapely.from_geojson(json.dumps(content)).is_valid


def test_tile_grids_cover_the_stored_tiles(tmp_path):
    store = store_of(tmp_path / "store", {"s": labels(), "t": labels(40, 33)}, 2.5)
    path = tmp_path / "out" / Exporter(store, tmp_path / "out").tiles("s")["file"]
    shapes = [(shapely.from_geojson(json.dumps(f["geometry"])), f) for f in json.loads(path.read_text())["features"]]
    whole = shapely.box(0, 0, 101 * 2.5, 77 * 2.5)
    corner = shapely.box(0, 0, SIDE * 2.5, SIDE * 2.5)
    assert shapely.union_all([shape for shape, _ in shapes]).equals(whole.difference(corner))
    assert sum(shape.area for shape, _ in shapes) == pytest.approx(whole.area - corner.area)
    measured = [f["properties"]["measurements"] for _, f in shapes]
    assert {tuple(m) for m in measured} == {("foreground", "tissue"), ("tissue",)}


def test_exported_predictions_come_back(tmp_path):
    store = store_of(tmp_path / "store", {"s": labels(), "t": labels(40, 33)}, 4.0)
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 9, padding=4), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 9, padding=4)
    )
    path = tmp_path / "predictions.parquet"
    options = {"window": 64, "margin": 8, "device": torch.device("cpu")}
    other = torch.nn.Conv2d(3, 2, 1)
    shown = write_predictions(path, {"best": other, "last": network}, store, ["p-s"], **options, shown=["s", "t"])
    table = pd.read_parquet(path)
    facts = Exporter(store, tmp_path / "out").predictions("run", table, "s", "last")
    assert facts["file"] == "predictions/run/s.geojson"
    polygons = read_geojson(tmp_path / "out" / facts["file"])
    assert {polygon.annotated for polygon in polygons} == {"tumour: predicted"}
    found = rasterise(polygons, classes=["tumour: predicted"], width=101, height=77, downsample=4)
    expected, stored = np.zeros((2, 96, 128), np.uint8)
    for row in table.itertuples():
        stored[row.y : row.y + SIDE, row.x : row.x + SIDE] = 1
        mask = np.unpackbits(np.frombuffer(row.last, np.uint8)).reshape(SIDE, SIDE)
        expected[row.y : row.y + SIDE, row.x : row.x + SIDE] = mask
    assert 0.05 < expected.mean() < 0.95
    np.testing.assert_array_equal(found, expected[:77, :101])
    assert list(shown) == ["s"]
    np.testing.assert_array_equal(shown["s"] & stored[:77, :101], expected[:77, :101])


def test_a_configuration_is_exported(project):
    [plan] = Study(load_config(project / "config" / "mini.yaml"), project).plans
    make_cohort(plan, plan.cohort)
    make_tiles(plan, plan.tiles)
    done = command(
        project, "stedm", "export", "config/mini.yaml", "--out", "out", "--slides", "phantom-01", "phantom-03"
    )
    assert "outlines deviate by at most" in done.stderr
    summary = json.loads((project / "out" / "export.json").read_text())
    assert summary["tolerance_working_pixels"] == LOSSLESS
    assert len(summary["files"]) == 4
    for file in summary["files"]:
        assert len(json.loads((project / "out" / file["file"]).read_text())["features"]) == file["features"] > 0
        assert file.get("deviation", 0) <= 4 * LOSSLESS


def test_what_is_not_there_is_named(project):
    study = Study(load_config(project / "config" / "mini.yaml"), project)
    with pytest.raises(UserError, match="cut the tiles"):
        export(study, project / "out")
    store_of(study.tiles.folder, {"s": labels()}, 4.0)
    segmenter = study.segmenters[0][1].id
    for options, message in (
        ({"slides": ["t"]}, r"no slide 't'; it has s"),
        ({"segmenters": ["real-k9"]}, r"no run 'real-k9'"),
        ({"segmenters": [segmenter]}, rf"predictions\.parquet: missing; run `stedm segmenter CONFIG {segmenter}`"),
        ({"tolerance": -1.0}, r"--tolerance: -1"),
    ):
        with pytest.raises(UserError, match=message):
            export(study, project / "out", **options)
    assert not (project / "out").exists()
