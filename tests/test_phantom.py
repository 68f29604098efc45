"""The phantom cohort: the same bytes everywhere, layouts that match the picture, slides that readers open."""

import json
import os
import subprocess
import sys
from dataclasses import fields

import cv2
import numpy as np
import openslide
import pytest
import pyvips

from stedm.errors import UserError
from stedm.phantom import (
    Painter,
    draw_slide,
    layout_mask,
    layout_polygons,
    patient_style,
    write_geojson,
)
from stedm.phantom.fixed import exp_table, sine_table
from stedm.phantom.pyramid import halve, level_sizes, write_pyramid
from stedm.phantom.trace import trace

SIZE = 1100  # no multiple of a tile, block or level

DIGEST = """
import hashlib, pathlib, sys
import cv2, numpy
cv2.setNumThreads(int(sys.argv[2]))
from stedm.phantom import draw_slide, patient_style
path = pathlib.Path(sys.argv[1])
draw_slide(path, size=1100, mpp=0.25, style=patient_style(3, 5, 2), seed=11)
print(hashlib.md5(path.read_bytes()).hexdigest())
for name in sys.argv[3:]:
    assert not numpy._core._multiarray_umath.__cpu_features__[name], name
"""

PEAK = """
import pathlib, resource, sys
from stedm.phantom import draw_slide, patient_style
path, style = pathlib.Path(sys.argv[1]), patient_style(3, 5, 2)
peaks = []
for size in (1024, 3072):
    draw_slide(path, size=size, mpp=0.25, style=style, seed=11)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] - peaks[0])
"""


def python(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def style():
    return patient_style(3, 5, 2)


@pytest.fixture(scope="module")
def slide(tmp_path_factory, style):
    path = tmp_path_factory.mktemp("phantom") / "slide.tiff"
    draw_slide(path, size=SIZE, mpp=0.2533, style=style, seed=11)
    return path


@pytest.fixture(scope="module")
def painted(style):
    return Painter(size=SIZE, style=style, seed=11).window(0, 0, SIZE, SIZE)


def test_bytes_do_not_depend_on_the_processor(tmp_path):
    module = np._core._multiarray_umath
    dispatched = [name for name in module.__cpu_dispatch__ if module.__cpu_features__.get(name)]
    runs = [
        python(DIGEST, tmp_path / "plain.tiff", 2, OMP_NUM_THREADS="2"),
        python(DIGEST, tmp_path / "single.tiff", 1, OMP_NUM_THREADS="1"),
        python(DIGEST, tmp_path / "scalar jpeg.tiff", 1, JSIMD_FORCENONE="1"),
    ]
    if dispatched:
        disabled = {"NPY_DISABLE_CPU_FEATURES": " ".join(dispatched)}
        runs.append(python(DIGEST, tmp_path / "baseline.tiff", 1, *dispatched, **disabled))
    assert set(runs) == {"59e21754975ce29c06eaf080d544655e"}


def test_pixels_do_not_depend_on_the_window(style, painted):
    painter = Painter(size=SIZE, style=style, seed=11)
    whole = painted[:700, :901]
    for height, width in ((700, 901), (233, 128), (64, 301)):
        for top in range(0, 700, height):
            for left in range(0, 901, width):
                high, wide = min(height, 700 - top), min(width, 901 - left)
                block = painter.window(left, top, wide, high)
                np.testing.assert_array_equal(block, whole[top : top + high, left : left + wide])


def test_another_seed_or_style_paints_another_picture(style, painted):
    window = (300, 300, 200, 200)
    same = painted[300:500, 300:500]
    other_seed = Painter(size=SIZE, style=style, seed=12).window(*window)
    other_style = Painter(size=SIZE, style=patient_style(3, 6, 2), seed=11).window(*window)
    assert (other_seed != same).mean() > 0.5
    assert (other_style != same).mean() > 0.5


def test_openslide_reads_levels_resolution_and_colours(slide, painted):
    with openslide.OpenSlide(slide) as image:
        assert image.properties["openslide.vendor"] == "generic-tiff"
        assert image.level_dimensions == ((1100, 1100), (550, 550), (275, 275))
        assert image.level_downsamples == (1.0, 2.0, 4.0)
        assert float(image.properties["openslide.mpp-x"]) == pytest.approx(0.2533, rel=1e-6)
        assert float(image.properties["openslide.mpp-y"]) == pytest.approx(0.2533, rel=1e-6)
        assert not {"tiff.DateTime", "tiff.Software"} & set(image.properties)
        expected = painted
        for level, size in enumerate(level_sizes(SIZE)):
            read = np.asarray(image.read_region((0, 0), level, (size, size)))[..., :3].astype(int)
            assert np.abs(read - expected).mean() < 4
            assert np.abs((read - expected).mean(axis=(0, 1))).max() < 0.5
            expected = halve(expected)


def test_libvips_reads_the_same_levels(slide, painted):
    expected = painted
    for page, size in enumerate(level_sizes(SIZE)):
        read = pyvips.Image.tiffload(str(slide), page=page).numpy()
        assert read.shape == (size, size, 3)
        assert np.abs(read.astype(int) - expected).mean() < 4
        expected = halve(expected)


def test_big_tiff_is_read_too(tmp_path, monkeypatch, style):
    plain, big = tmp_path / "plain.tiff", tmp_path / "big.tiff"
    draw_slide(plain, size=600, mpp=0.25, style=style, seed=1)
    monkeypatch.setattr("stedm.phantom.pyramid._MOST_BYTES", 1 << 32)
    draw_slide(big, size=600, mpp=0.25, style=style, seed=1)
    assert big.read_bytes()[:4] == b"II\x2b\x00"
    with openslide.OpenSlide(plain) as one, openslide.OpenSlide(big) as two:
        assert two.level_dimensions == ((600, 600), (300, 300))
        assert float(two.properties["openslide.mpp-x"]) == 0.25
        a, b = (np.asarray(image.read_region((0, 0), 0, (600, 600))) for image in (one, two))
        np.testing.assert_array_equal(a, b)


def test_halving_is_a_rounded_mean():
    strip = np.array([[0, 1, 255, 255, 9], [1, 0, 255, 254, 9]], np.uint8)[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(halve(strip)[..., 0], [[1, 255]])


@pytest.mark.parametrize("seed", range(4))
def test_polygons_match_the_painted_layout(seed):
    size = 2048
    mask = layout_mask(size=size, seed=seed, x=0, y=0, w=size, h=size)
    drawn = np.zeros((size, size), np.uint8)
    for name, rings in layout_polygons(size=size, seed=seed):
        assert name == "tumour"
        assert all(0 <= c <= size for ring in rings for point in ring for c in point)
        cv2.fillPoly(drawn, [np.array(ring, np.int32) for ring in rings], 1)
    wrong = (drawn != mask).astype(np.uint8)
    # Two level-0 pixels: half a working pixel.
    near_border = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))
    assert not (wrong & ~near_border & 1).any()
    assert wrong.mean() < 0.01


def test_polygons_are_valid_and_their_area_is_the_masks():
    shapely = pytest.importorskip("shapely")
    for seed in range(20):
        size = 1500
        regions = [shapely.Polygon(rings[0], rings[1:]) for _, rings in layout_polygons(size=size, seed=seed)]
        assert all(region.is_valid for region in regions)
        mask = layout_mask(size=size, seed=seed, x=0, y=0, w=size, h=size)
        assert shapely.unary_union(regions).area == pytest.approx(mask.sum(), rel=0.002)


def test_tracing_keeps_corner_neighbours_apart_and_nests_holes():
    mask = np.zeros((9, 9), bool)
    mask[1:6, 1:6] = True
    mask[2:5, 2:5] = False
    mask[3, 3] = True
    mask[6, 6] = True
    exteriors, holes = trace(mask)
    assert len(exteriors) == 3
    assert sorted(len(found) for found in holes) == [0, 0, 1]
    assert set(exteriors[2]) == {(12, 13), (13, 12), (14, 13), (13, 14)}


def test_layout_is_what_is_painted():
    flat = patient_style(1, 1, 3, colour=0, texture=0)
    for seed in range(2):
        image = Painter(size=1024, style=flat, seed=seed).window(0, 0, 1024, 1024).astype(int)
        mask = layout_mask(size=1024, seed=seed, x=0, y=0, w=1024, h=1024)
        brown = image[..., 0] - image[..., 2]
        inner = cv2.erode(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        outer = cv2.erode((~mask).astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        assert (brown[inner] > 40).mean() > 0.2
        assert (brown[outer] > 40).mean() < 0.001


def test_layout_windows_and_steps_agree():
    whole = layout_mask(size=1500, seed=5, x=0, y=0, w=1500, h=1500)
    part = layout_mask(size=1500, seed=5, x=301, y=77, w=640, h=333, step=4)
    np.testing.assert_array_equal(part, whole[77:410:4, 301:941:4])


def test_every_slide_has_tumour_stroma_and_glass():
    for seed in range(12):
        plain = patient_style(0, 0, 0, colour=0, texture=0)
        mask = layout_mask(size=2048, seed=seed, x=0, y=0, w=2048, h=2048, step=8)
        assert 0.25 <= mask.mean() <= 0.55
        image = Painter(size=2048, style=plain, seed=seed).window(0, 0, 2048, 256)
        white = image.min(axis=2) > 225
        assert 0.02 < white.mean() < 0.9
        tumour = layout_mask(size=2048, seed=seed, x=0, y=0, w=2048, h=256)
        assert (white & tumour).sum() < 0.05 * max(tumour.sum(), 1)


def test_styles_differ_only_as_far_as_asked():
    alike = {patient_style(1, patient, 2, colour=0, texture=0) for patient in range(5)}
    assert len(alike) == 1
    assert len({patient_style(1, patient, 2) for patient in range(20)}) == 20
    assert patient_style(1, 4, 2) == patient_style(1, 4, 2) != patient_style(2, 4, 2)

    coloured = {"haem_vector", "dab_vector", "ground_vector", "white"}
    coloured |= {"haem_strength", "dab_strength", "ground_strength"}
    for colour, texture, moving in ((100, 0, coloured), (0, 100, None)):
        styles = [patient_style(1, p, 2, colour=colour, texture=texture) for p in range(30)]
        moved = {f.name for f in fields(styles[0]) if len({getattr(s, f.name) for s in styles}) > 1}
        assert moved == (moving or {f.name for f in fields(styles[0])} - coloured - {"score"})

    spread = [np.ptp([patient_style(1, p, 2, texture=t).radius for p in range(40)]) for t in (30, 100)]
    assert spread[0] * 2 < spread[1]


def test_score_sets_the_membranes():
    strength = [patient_style(1, 0, score, colour=0, texture=0).membrane_dab for score in range(4)]
    complete = [patient_style(1, 0, score, colour=0, texture=0).completeness for score in range(4)]
    assert strength == sorted(set(strength))
    assert complete == sorted(set(complete))


def test_extreme_styles_stay_within_the_arithmetic():
    for patient in range(24):
        wild = patient_style(9, patient, patient % 4, colour=200, texture=200)
        with np.errstate(all="raise"):
            image = Painter(size=4096, style=wild, seed=patient).window(4096 - 256, 4096 - 256, 256, 256)
        # The outermost pixels are glass, and glass is the white balance: int16 must not have wrapped.
        corner = image[-4:, -4:].reshape(-1, 3).astype(int).mean(axis=0)
        np.testing.assert_allclose(corner, [w * 255 / 256 for w in wild.white], atol=6)


def test_tables_are_exact():
    assert exp_table(3, 256, 2040) == (2040, 2032, 2024)
    sine = sine_table()
    assert (sine[0], sine[128], sine[256], sine[512], sine[768]) == (0, 2896, 4096, 0, -4096)
    assert sum(sine) == 0


def test_memory_does_not_grow_with_the_slide(tmp_path):
    growth = int(python(PEAK, tmp_path / "slide.tiff"))
    assert growth * 1024 < 3072 * 3072 * 3 / 2


def test_a_failed_write_leaves_nothing(tmp_path, style):
    target = tmp_path / "slide.tiff"
    target.write_bytes(b"old")

    def strips():
        yield np.zeros((256, 600, 3), np.uint8)
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        write_pyramid(target, strips(), size=600, mpp=0.25, quality=80)
    assert [path.name for path in tmp_path.iterdir()] == ["slide.tiff"]
    assert target.read_bytes() == b"old"
    with pytest.raises(ValueError, match="do not cover"):
        write_pyramid(target, iter([np.zeros((256, 600, 3), np.uint8)]), size=600, mpp=0.25, quality=80)
    assert target.read_bytes() == b"old"


def test_geojson_is_closed_stable_and_atomic(tmp_path):
    polygons = layout_polygons(size=1024, seed=2)
    path = tmp_path / "slide.geojson"
    write_geojson(path, polygons)
    data = path.read_bytes()
    write_geojson(path, polygons)
    assert path.read_bytes() == data
    found = json.loads(data)
    assert found["type"] == "FeatureCollection"
    assert len({feature["id"] for feature in found["features"]}) == len(polygons)
    for feature, (name, rings) in zip(found["features"], polygons, strict=True):
        assert feature["geometry"]["type"] == "Polygon"
        assert feature["properties"]["objectType"] == "annotation"
        assert feature["properties"]["classification"]["name"] == name
        for ring, points in zip(feature["geometry"]["coordinates"], rings, strict=True):
            assert ring[0] == ring[-1]
            assert [tuple(point) for point in ring[:-1]] == points
    with pytest.raises(TypeError):
        write_geojson(path, [("tumour", [[(0, None)]])])
    assert [p.name for p in tmp_path.iterdir()] == ["slide.geojson"]
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("change", "word"), [({"size": 100}, "size"), ({"mpp": 0.0}, "mpp"), ({"quality": 0}, "quality")]
)
def test_settings_out_of_range_are_named(tmp_path, style, change, word):
    settings = {"size": 512, "mpp": 0.25, "style": style, "seed": 1, **change}
    with pytest.raises(UserError, match=word):
        draw_slide(tmp_path / "slide.tiff", **settings)


def test_unknown_scores_and_shares_are_named():
    with pytest.raises(UserError, match="score is 4"):
        patient_style(0, 0, 4)
    with pytest.raises(UserError, match="colour is 201"):
        patient_style(0, 0, 0, colour=201)
