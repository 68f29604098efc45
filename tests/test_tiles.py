"""Cutting slides into the tile store, in one process or several, and what stops it."""

import json
import shutil
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import box, save, scene, whole

from stedm.cohort.base import Slide
from stedm.config import TilesConfig
from stedm.errors import UserError
from stedm.tiles import cut as cutting
from stedm.tiles import slide as slide_module
from stedm.tiles.backends import open_slide
from stedm.tiles.cut import cut_cohort, cut_files
from stedm.tiles.layout import rasterise
from stedm.tiles.slide import cut_slide
from stedm.tiles.store import EMPTY, OUTSIDE, TileStore, split_records


@dataclass
class FakeCohort:
    """Slides in a folder, each with two polygons."""

    data: Path

    def slide_path(self, slide):
        return self.data / f"{slide.slide}.tif"

    def mpp(self, slide):
        return None

    def annotation(self, slide):
        return [box(150, 100, 330, 300, "tumour", holes=[(200, 150, 240, 200)]), box(210, 160, 230, 190, "other")]


CONFIG = TilesConfig(downsample=2, tile=32, classes=["tumour", "other"], foreground=["tumour"])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for n in range(5):
        save(folder / f"s{n}.tif", scene(517 - 10 * n, 389, seed=n), pyramid=True, compression="jpeg")
    return FakeCohort(folder)


def cut(reader, annotation, config, plan=None):
    """Return images, labels and rows of a whole slide."""
    pieces = list(cut_slide(reader, annotation, config, plan or slide_module.plan_slide(reader, config)))
    images, labels = split_records(np.concatenate([records for records, _ in pieces]), config.tile)
    return images, labels, [row for _, rows in pieces for row in rows]


SLIDES = [Slide(f"s{n}", f"p{n}", "ab"[n % 2], "train") for n in range(5)]


def content(folder):
    names = ["index.parquet", "slides.parquet", "store.json", "shard-000.bin"]
    assert not (folder / "journal.jsonl").exists()
    return {name: md5((folder / name).read_bytes()).hexdigest() for name in names}


@pytest.fixture(scope="module")
def reference(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    facts = cut_cohort(cohort, SLIDES, CONFIG, folder)
    return folder, facts


def test_facts_and_previews(reference):
    folder, facts = reference
    store = TileStore(folder)
    assert facts["slides"] == 5
    assert facts["tiles"] == len(store) > 100
    assert facts["bytes"] == (folder / "shard-000.bin").stat().st_size
    assert 0 < facts["labelled_tiles"] < facts["tiles"]
    assert facts["without_tissue"] == []
    # The first of each class, then the next in the manifest's order.
    pictures = sorted((folder / "preview").iterdir())
    assert [p.stem for p in pictures] == ["s0", "s1", "s2", "s3"]
    assert all(p.stat().st_size <= 150_000 for p in pictures)


@pytest.mark.parametrize("corner", [(0, 0), (-9, -5), (45, 51), (150, 90), (240, 181)])
def test_windows_equal_the_slide(cohort, reference, corner):
    store = TileStore(reference[0])
    with open_slide(cohort.slide_path(SLIDES[0])) as reader:
        size = reader.working_size(2)
        pixels = reader.read(0, 0, *size, 2)
    label = rasterise(cohort.annotation(None), classes=CONFIG.classes, width=size[0], height=size[1], downsample=2)
    image, found = store.window("s0", *corner, 77, 59)
    stored = {(x, y) for s, x, y in zip(*(store.column(c) for c in ("slide", "x", "y")), strict=True) if s == "s0"}
    for v in range(59):
        for u in range(77):
            x, y = corner[0] + u, corner[1] + v
            if (x // 32 * 32, y // 32 * 32) not in stored:
                assert (image[v, u] == EMPTY).all()
                assert found[v, u] == OUTSIDE
            elif x >= size[0] or y >= size[1]:
                assert found[v, u] == OUTSIDE
            else:
                assert (image[v, u] == pixels[y, x]).all()
                assert found[v, u] == label[y, x]


def test_stored_tiles_are_those_with_tissue(cohort, reference):
    store = TileStore(reference[0])
    assert store.column("tissue").min() >= CONFIG.min_tissue
    for row in range(0, len(store), 7):
        label = store.tile_at(row)[1]
        inside = label != OUTSIDE
        assert store.column("foreground")[row] == pytest.approx((label[inside] == 1).mean(), abs=1e-5)
    with open_slide(cohort.slide_path(SLIDES[0])) as reader:
        images, labels, rows = cut(reader, None, CONFIG.model_copy(update={"min_tissue": 0.0}))
    assert len(rows) == 9 * 7
    assert rows[0]["foreground"] is None
    last = labels[-1]
    assert (last[2:] == OUTSIDE).all()
    assert (last[:, 2:] == OUTSIDE).all()
    assert (last[:2, :2] == 0).all()
    # Beyond the edge the picture goes on mirrored.
    picture = images[-1]
    np.testing.assert_array_equal(picture[2:4, :2], picture[1::-1, :2])
    np.testing.assert_array_equal(picture[:2, 2:4], picture[:2, 1::-1])


def test_strips_equal_the_slide_read_whole(cohort, reference, monkeypatch):
    with open_slide(cohort.slide_path(SLIDES[0])) as reader:
        plan = slide_module.plan_slide(reader, CONFIG)
        one = cut(reader, cohort.annotation(None), CONFIG, plan)
        assert plan.pixels is not None
        monkeypatch.setattr(slide_module, "WHOLE_PIXELS", 0)
        strips = slide_module.plan_slide(reader, CONFIG)
        assert strips.pixels is None
        strips = slide_module.Plan(**{**vars(strips), "fractions": plan.fractions})
        other = cut(reader, cohort.annotation(None), CONFIG, strips)
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    assert one[2] == other[2]


def test_workers_make_the_same_store(cohort, reference, tmp_path):
    facts = cut_cohort(cohort, SLIDES, CONFIG, tmp_path, workers=2)
    assert facts == reference[1]
    assert content(tmp_path) == content(reference[0])
    for path in (reference[0] / "preview").iterdir():
        assert (tmp_path / "preview" / path.name).read_bytes() == path.read_bytes()


class Stopped(Exception):
    pass


@pytest.mark.parametrize("damage", ["none", "garbage", "half a line", "lost pixels"])
def test_an_interrupted_cut_goes_on(cohort, reference, tmp_path, monkeypatch, damage):
    original, seen = cutting._cut, []

    def failing(task):
        seen.append(task.slide.slide)
        if task.slide.slide == "s3":
            raise Stopped
        return original(task)

    monkeypatch.setattr(cutting, "_cut", failing)
    with pytest.raises(Stopped):
        cut_cohort(cohort, SLIDES, CONFIG, tmp_path)
    shard, journal = tmp_path / "shard-000.bin", tmp_path / "journal.jsonl"
    if damage == "garbage":
        with shard.open("ab") as file:
            file.write(b"x" * 12345)
    elif damage == "half a line":
        with journal.open("a") as file:
            file.write(journal.read_text().splitlines()[0][:100])
    elif damage == "lost pixels":
        with shard.open("r+b") as file:
            file.truncate(shard.stat().st_size - 1)
    monkeypatch.setattr(cutting, "_cut", lambda task: seen.append(task.slide.slide) or original(task))
    del seen[:]
    facts = cut_cohort(cohort, SLIDES, CONFIG, tmp_path)
    assert seen == (["s2", "s3", "s4"] if damage == "lost pixels" else ["s3", "s4"])
    assert facts == reference[1]
    assert content(tmp_path) == content(reference[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_changed_slide_is_refused(cohort, tmp_path, workers):
    with pytest.raises(UserError, match=r"s1\.tif: its MD5 is .*stedm cohort CONFIG --repair"):
        cut_cohort(cohort, SLIDES, CONFIG, tmp_path, workers, checksums={"s1": "0" * 32})
    right = {s.slide: md5(cohort.slide_path(s).read_bytes()).hexdigest() for s in SLIDES}
    assert cut_cohort(cohort, SLIDES, CONFIG, tmp_path, checksums=right)["slides"] == 5


def test_a_damaged_slide_stops_the_cut(cohort, tmp_path):
    for slide in SLIDES:
        shutil.copy(cohort.slide_path(slide), tmp_path)
    data = (tmp_path / "s2.tif").read_bytes()
    (tmp_path / "s2.tif").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"s2\.tif"):
        cut_cohort(FakeCohort(tmp_path), SLIDES, CONFIG, tmp_path / "store")
    assert not (tmp_path / "store" / "store.json").exists()


@pytest.mark.parametrize(
    ("shape", "message"),
    [(box(0, 0, 600, 50, "tumour"), "beyond the slide"), (box(0, 0, 50, 50, "tumor"), "unknown class")],
)
def test_annotations_that_do_not_fit_are_refused(cohort, shape, message):
    with open_slide(cohort.slide_path(SLIDES[0])) as reader, pytest.raises(UserError, match=message) as error:
        cut(reader, [shape], CONFIG)
    assert "s0.tif" in str(error.value)


def test_a_full_disk_is_said_before_work_begins(cohort, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10 * 2**20)
    monkeypatch.setattr(cutting.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"need about .* MB and 10 MB are free"):
        cut_cohort(cohort, SLIDES, CONFIG, tmp_path)
    assert not (tmp_path / "shard-000.bin").stat().st_size


def test_a_slide_of_glass_is_counted_not_lost(tmp_path, caplog):
    glass = np.full((200, 200, 3), 240, np.uint8)
    save(tmp_path / "s0.tif", glass, mpp=None)
    with caplog.at_level("WARNING", "stedm"):
        facts = cut_files([tmp_path / "s0.tif"], tmp_path / "out", CONFIG)
    assert (facts["tiles"], facts["without_tissue"]) == (0, ["s0"])
    assert "s0: no tile has enough tissue" in caplog.text


def test_small_images_alone(tmp_path):
    random = np.random.default_rng(0)
    image = np.clip(random.normal((190, 130, 180), 30, (139, 88, 3)), 0, 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "small.jpg"), image[..., ::-1])
    ring = [[10, 10], [60, 10], [60, 100], [10, 100], [10, 10]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": "Tumour"}}}
    (tmp_path / "small.geojson").write_text(json.dumps(feature))
    config = TilesConfig(mpp=0.5, tile=64)
    facts = cut_files(
        [tmp_path / "small.jpg"], tmp_path / "out", config, mpp=0.25, annotations=tmp_path / "small.geojson"
    )
    store = TileStore(tmp_path / "out")
    stored = store.slides["small"]
    assert (stored.width, stored.height, stored.mpp, stored.split) == (44, 69, 0.5, "test")
    assert facts["tiles"] == 2
    image, label = store.window("small", 0, 0, 44, 69)
    np.testing.assert_array_equal(image, whole(tmp_path / "small.jpg", 2))
    assert (label == 1).sum() == 25 * 45
    assert (tmp_path / "out" / "preview" / "small.png").stat().st_size < 150_000
    assert (tmp_path / "out" / "provenance.json").is_file()
    with pytest.raises(UserError, match="--slide-mpp"):
        cut_files([tmp_path / "small.jpg"], tmp_path / "other", config)
    assert not (tmp_path / "other").exists()


def test_files_that_cannot_be_told_apart_are_refused(tmp_path):
    (tmp_path / "b").mkdir()
    paths = [save(tmp_path / "a.tif", scene(64, 64)), save(tmp_path / "b" / "a.tif", scene(64, 64))]
    with pytest.raises(UserError, match="same name"):
        cut_files(paths, tmp_path / "out", CONFIG)
    with pytest.raises(UserError, match=r"absent\.tif"):
        cut_files([tmp_path / "absent.tif"], tmp_path / "out", CONFIG)
    with pytest.raises(UserError, match=r"a\.geojson: missing"):
        cut_files(paths[:1], tmp_path / "out", CONFIG, annotations=tmp_path)


def test_a_shard_cut_short_is_noticed(reference, tmp_path):
    shutil.copytree(reference[0], tmp_path / "store")
    shard = tmp_path / "store" / "shard-000.bin"
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 4 * 32 * 32)
    with pytest.raises(UserError, match="cut short"):
        TileStore(tmp_path / "store")


def test_shards_roll_over(cohort, reference, tmp_path, monkeypatch):
    monkeypatch.setattr("stedm.tiles.store.SHARD_BYTES", 1)
    cut_cohort(cohort, SLIDES[:3], CONFIG, tmp_path)
    assert len(list(tmp_path.glob("shard-*.bin"))) == 3
    one, other = TileStore(tmp_path), TileStore(reference[0])
    for slide in ("s0", "s2"):
        for found, expected in zip(one.window(slide, 40, 40, 99, 99), other.window(slide, 40, 40, 99, 99), strict=True):
            np.testing.assert_array_equal(found, expected)
