import json
import os
import shutil
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path

import cv2
import numpy as np
import pytest
import pyvips
import shapely

from stedm.cohort.base import MaskImage, Polygon, Slide
from stedm.config import TilesConfig
from stedm.errors import UserError
from stedm.tiles import cut as cutting
from stedm.tiles import slide as slide_module
from stedm.tiles.backends import open_slide
from stedm.tiles.cut import cut_cohort, cut_files
from stedm.tiles.layout import PolygonLayout, label_from_mask, rasterise
from stedm.tiles.reader import working_downsample
from stedm.tiles.slide import cut_slide
from stedm.tiles.store import EMPTY, OUTSIDE, TileStore, split_records
from stedm.tiles.tissue import tissue_fractions, tissue_mask

SHARED = Path(os.environ.get("STEDM_SHARED", Path(__file__).parents[2] / "shared" / "data"))


def shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here (STEDM_SHARED names the folder)")
    return path


def scene(width=517, height=389, seed=0):
    """Glass with a disc of tissue."""
    random = np.random.default_rng(seed)
    image = np.clip(random.normal(242, 2, (height, width, 3)), 0, 255)
    y, x = np.mgrid[:height, :width]
    inside = (x - 0.45 * width) ** 2 + (y - 0.5 * height) ** 2 < (0.38 * height) ** 2
    image[inside] = np.clip(random.normal((190, 120, 170), 25, (inside.sum(), 3)), 0, 255)
    return image.astype(np.uint8)


def save(path, image, pyramid=False, mpp=0.5, compression="deflate"):
    picture = pyvips.Image.new_from_array(image, interpretation="srgb")
    options = {"xres": 1000 / mpp, "yres": 1000 / mpp} if mpp else {}
    if mpp:
        options["resunit"] = "cm"
    tile = {"tile": True, "tile_width": 128, "tile_height": 128, "compression": compression, "Q": 90}
    picture.tiffsave(str(path), pyramid=pyramid, **tile, **options)
    return path


def whole(path, downsample, **options):
    with open_slide(path, **options) as reader:
        return reader.read(0, 0, *reader.working_size(downsample), downsample)


# Reading


def test_facts_of_a_slide(tmp_path):
    with open_slide(save(tmp_path / "a.tif", scene(), pyramid=True)) as reader:
        assert (reader.backend, reader.size) == ("pyvips", (517, 389))
        assert reader.mpp == pytest.approx(0.5, rel=1e-4)
        # 517 / 258 is 2.004, yet each pixel of that level is the mean of two by two.
        assert reader.level_downsamples == [1, 2, 4, 8]
    with open_slide(tmp_path / "a.tif", mpp=0.25) as reader:
        assert reader.mpp == 0.25
    with open_slide(save(tmp_path / "b.tif", scene(), mpp=None)) as reader:
        assert reader.mpp is None


@pytest.mark.parametrize("downsample", [1, 2, 3, 7])
def test_integer_reduction_is_the_rounded_area_mean(tmp_path, downsample):
    image = scene()
    found = whole(save(tmp_path / "a.tif", image), downsample)
    height, width = found.shape[:2]
    assert (width, height) == (517 // downsample, 389 // downsample)
    blocks = image[: height * downsample, : width * downsample].astype(float)
    mean = blocks.reshape(height, downsample, width, downsample, 3).mean(axis=(1, 3))
    assert np.abs(found - mean).max() <= 0.5 + 1e-6
    # Of the sums of four values every fourth is a half, which goes up.
    assert abs((found - mean).mean()) < (0.15 if downsample == 2 else 0.1)


@pytest.mark.parametrize("downsample", [1.5, 2.004, 3.3])
def test_fractional_reduction_is_the_rounded_area_mean(tmp_path, downsample):
    image = scene(120, 90)
    found = whole(save(tmp_path / "a.tif", image), downsample)
    fine = np.repeat(np.repeat(image, 20, 0), 20, 1).astype(float)
    for y, x in [(0, 0), (5, 9), (20, 30), (found.shape[0] - 1, found.shape[1] - 1)]:
        rows, columns = (slice(round(n * downsample * 20), round((n + 1) * downsample * 20)) for n in (y, x))
        np.testing.assert_allclose(found[y, x], fine[rows, columns].mean(axis=(0, 1)), atol=2.5)  # coarse edges
    inside = fine[: round(found.shape[0] * downsample * 20), : round(found.shape[1] * downsample * 20)]
    assert abs(found.mean() - inside.mean()) < 0.1


@pytest.mark.parametrize("downsample", [1, 2, 2.5, 4, 5.7])
def test_blocks_equal_the_whole(tmp_path, downsample):
    path = save(tmp_path / "a.tif", scene(), pyramid=True)
    expected = whole(path, downsample)
    height, width = expected.shape[:2]
    found = np.zeros_like(expected)
    with open_slide(path) as reader:
        for y in range(0, height, 23):
            for x in range(0, width, 41):
                size = (min(41, width - x), min(23, height - y))
                found[y : y + size[1], x : x + size[0]] = reader.read(x, y, *size, downsample)
    difference = np.abs(found.astype(int) - expected).max()
    assert difference == 0 if float(downsample).is_integer() else difference <= 1


def test_large_reads_go_in_pieces(tmp_path, monkeypatch):
    path = save(tmp_path / "a.tif", scene())
    expected = whole(path, 3)
    monkeypatch.setattr("stedm.tiles.reader.FETCH_PIXELS", 5000)
    np.testing.assert_array_equal(whole(path, 3), expected)


def test_transparent_scans_are_white(tmp_path):
    image = np.dstack([np.full((64, 64, 3), 100, np.uint8), np.zeros((64, 64), np.uint8)])
    image[:, 32:, 3] = 255
    pyvips.Image.new_from_array(image, interpretation="srgb").pngsave(str(tmp_path / "a.png"))
    found = whole(tmp_path / "a.png", 1)
    assert (found[:, :32] == 255).all()
    assert (found[:, 32:] == 100).all()


@pytest.mark.parametrize(
    ("name", "downsample", "regions"),
    [
        ("CMU-1-Small-Region.svs", 1, [(0, 0, 300, 200), (37, 55, 400, 300), (1501, 203, 301, 333)]),
        ("CMU-1-Small-Region.svs", 4, [(0, 0, 555, 741), (37, 55, 400, 300), (150, 203, 301, 333)]),
        # OpenSlide takes 2.0003 for this level's downsample, so far from the corner it reads between pixels.
        ("cmu1_pyramid.tiff", 2, [(0, 0, 1110, 1483), (3, 5, 64, 64)]),
        ("cmu1_pyramid.tiff", 4, [(0, 0, 555, 741), (3, 5, 64, 64)]),
    ],
)
def test_backends_agree_on_real_slides(name, downsample, regions):
    path = shared(f"slides/{name}")
    with open_slide(path) as one, open_slide(path, backend="openslide") as other:
        assert (one.backend, other.backend) == ("pyvips", "openslide")
        assert one.mpp == pytest.approx(other.mpp, rel=1e-4)
        assert one.size == other.size
        assert one.level_downsamples == other.level_downsamples
        for region in regions:
            pixels = [reader.read(*region, downsample).astype(int) for reader in (one, other)]
            assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_working_resolution(tmp_path):
    path = save(tmp_path / "a.tif", scene(), mpp=0.499)
    with open_slide(path) as reader:
        # Within 1 % of a whole number it is that number.
        assert working_downsample(reader, TilesConfig(mpp=1.0)) == 2
        assert working_downsample(reader, TilesConfig(mpp=0.495)) == 1
        assert working_downsample(reader, TilesConfig(mpp=1.2475)) == pytest.approx(2.5, rel=1e-4)
        assert working_downsample(reader, TilesConfig(downsample=3.7)) == 3.7
        with pytest.raises(UserError, match=r"a\.tif: scanned at 0\.499"):
            working_downsample(reader, TilesConfig(mpp=0.25))


def test_missing_mpp_asks_for_it(tmp_path):
    path = save(tmp_path / "a.tif", scene(), mpp=None)
    with open_slide(path) as reader, pytest.raises(UserError, match=r"a\.tif.*--slide-mpp"):
        working_downsample(reader, TilesConfig(mpp=1.0))


def damaged(path, how):
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        place, length = page.dataoffsets[6], page.databytecounts[6]
    data = bytearray(path.read_bytes())
    if how == "cut short":
        data = data[: place + length // 2]
    elif how == "zeroed":
        data[place : place + length] = bytes(length)
    else:
        rest = length - length // 2
        data[place + length // 2 : place + length] = b"\xff\xd9" + bytes(rest - 2)  # JPEG's end of image
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("how", ["cut short", "zeroed", "half a tile"])
@pytest.mark.parametrize("backend", ["pyvips", "openslide"])
def test_damaged_slides_are_errors_never_blank(tmp_path, how, backend):
    path = damaged(save(tmp_path / "broken.tif", scene(), compression="jpeg"), how)
    with pytest.raises(UserError, match=r"broken\.tif") as error:
        whole(path, 1, backend=backend)
    if how != "cut short":
        assert "of level 0" in str(error.value)


def test_a_slide_cut_short_names_itself(tmp_path):
    source = save(tmp_path / "a.tif", scene(), compression="jpeg").read_bytes()
    for share in (0.3, 0.6, 0.95):
        (tmp_path / "short.tif").write_bytes(source[: int(len(source) * share)])
        with pytest.raises(UserError, match=r"short\.tif"):
            whole(tmp_path / "short.tif", 1)
    cv2.imwrite(str(tmp_path / "a.jpg"), scene())
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"a\.jpg"):
        whole(tmp_path / "a.jpg", 1)
    with pytest.raises(UserError, match=r"b\.svs"):
        open_slide(tmp_path / "b.svs")
    (tmp_path / "c.mrxs").write_text("no slide")
    with pytest.raises(UserError, match=r"c\.mrxs"):
        open_slide(tmp_path / "c.mrxs")


# Tissue


@pytest.mark.parametrize("colour", [(200, 150, 190), (150, 110, 80), (222, 222, 230), (235, 205, 222)])
def test_tissue_is_found_in_any_stain(colour):
    random = np.random.default_rng(1)
    image = np.clip(random.normal(242, 2.5, (200, 300, 3)), 0, 255)
    y, x = np.mgrid[:200, :300]
    disc = (y - 100) ** 2 + (x - 150) ** 2 < 60**2
    image[disc] = np.clip(random.normal(colour, 4, (disc.sum(), 3)), 0, 255)
    found = tissue_mask(image.astype(np.uint8))
    assert (found & disc).sum() / (found | disc).sum() > 0.95


def test_glass_black_and_all_tissue():
    random = np.random.default_rng(2)
    glass = np.clip(random.normal((240, 241, 238), 2.5, (150, 200, 3)), 0, 255).astype(np.uint8)
    assert not tissue_mask(glass).any()
    assert tissue_mask(np.clip(random.normal((190, 130, 180), 30, (139, 88, 3)), 0, 255).astype(np.uint8)).all()
    glass[:50] = 0
    assert tissue_mask(glass).mean() < 0.02


def test_tissue_of_edge_tiles_counts_what_lies_inside():
    mask = np.zeros((10, 25), bool)
    mask[:, 20:] = True
    found = tissue_fractions(mask, tile=40, width=100, height=40)
    np.testing.assert_allclose(found, [[0, 0, 1]], atol=1e-6)


# Layouts


def star(centre, radius, points=40, seed=0, annotated="a"):
    random = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    reach = radius * random.uniform(0.6, 1.2, points)
    ring = np.stack([centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle)], axis=1)
    return Polygon(annotated, ring)


def box(x0, y0, x1, y1, annotated="a", holes=()):
    rings = [np.array([[a, b], [c, b], [c, d], [a, d]], float) for a, b, c, d in [(x0, y0, x1, y1), *holes]]
    return Polygon(annotated, rings[0], tuple(rings[1:]))


@pytest.mark.parametrize("downsample", [1, 2, 3.7])
def test_polygons_are_drawn_by_pixel_centres(downsample):
    shape = star((150.3, 120.8), 90)
    hole = star((150.3, 120.8), 30, seed=3).exterior
    shape = Polygon("a", np.vstack([shape.exterior, shape.exterior[:1]]), (hole,))
    width, height = int(300 / downsample), int(260 / downsample)
    found = rasterise([shape], classes=["a"], width=width, height=height, downsample=downsample)
    y, x = np.mgrid[:height, :width]
    area = shapely.Polygon(shape.exterior, shape.holes)
    expected = shapely.contains_xy(area, (x + 0.5) * downsample, (y + 0.5) * downsample)
    assert expected.sum() > 100
    np.testing.assert_array_equal(found == 1, expected)


def test_windows_of_a_layout_equal_the_whole():
    shapes = [star((40 * n, 30 * n), 35, seed=n) for n in range(1, 6)]
    layout = PolygonLayout(shapes, ["a"])
    expected = layout.draw(0, 0, 120, 90, 2)
    found = np.vstack(
        [np.hstack([layout.draw(x, y, 17, 9, 2) for x in range(0, 120, 17)])[:, :120] for y in range(0, 90, 9)]
    )
    np.testing.assert_array_equal(found, expected)


def test_smaller_lies_on_top_and_holes_show_what_is_below():
    large, small = box(0, 0, 40, 40, "a"), box(10, 10, 20, 20, "b")
    ring = box(4, 4, 36, 36, "c", holes=[(8, 8, 30, 30)])
    expected = np.full((40, 40), 1)
    expected[4:36, 4:36] = 3
    expected[8:30, 8:30] = 1
    expected[10:20, 10:20] = 2
    for order in ([large, small, ring], [ring, small, large], [small, large, ring]):
        found = rasterise(order, classes=["a", "b", "c"], width=40, height=40, downsample=1)
        np.testing.assert_array_equal(found, expected)


def test_of_equally_large_polygons_the_later_lies_on_top():
    shapes = [box(0, 0, 10, 10, "a"), box(5, 0, 15, 10, "b")]
    for order, label in ((shapes, 2), (shapes[::-1], 1)):
        found = rasterise(order, classes=["a", "b"], width=20, height=10, downsample=1)
        assert (found[:, 5:10] == label).all()


def test_mask_images(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    marked = (cv2.GaussianBlur(random.random((90, 121)), (0, 0), 4) > 0.5).astype(np.uint8) * 255
    cv2.imwrite(str(tmp_path / "m.png"), marked)
    mask, common = MaskImage(tmp_path / "m.png", "b"), {"classes": ["a", "b"], "size": (121, 90)}
    found = label_from_mask(mask, width=60, height=45, downsample=2, **common)
    share = (marked[:90, :120] / 255).reshape(45, 2, 60, 2).mean(axis=(1, 3))
    np.testing.assert_array_equal(found, np.where(share >= 0.5, 2, 0))
    window = label_from_mask(mask, width=13, height=11, downsample=2, origin=(7, 5), **common)
    np.testing.assert_array_equal(window, found[5:16, 7:20])
    monkeypatch.setattr("stedm.tiles.layout.FETCH_PIXELS", 200)
    np.testing.assert_array_equal(label_from_mask(mask, width=60, height=45, downsample=2, **common), found)
    fractional = label_from_mask(mask, width=48, height=36, downsample=2.5, **common)
    assert abs((fractional > 0).mean() - (marked > 0).mean()) < 0.03
    with pytest.raises(UserError, match=r"m\.png: the mask is 121 × 90 pixels, its slide 120 × 90"):
        label_from_mask(mask, classes=["b"], size=(120, 90), width=60, height=45, downsample=2)
    with pytest.raises(UserError, match=r"class 'b'"):
        label_from_mask(mask, classes=["a"], size=(121, 90), width=60, height=45, downsample=2)


# Cutting


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
