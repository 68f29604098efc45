"""Annotations drawn as labels: polygons and mask images."""

import cv2
import numpy as np
import pytest
import shapely
from pictures import box, star

from stedm.cohort.base import MaskImage, Polygon
from stedm.errors import UserError
from stedm.tiles.layout import PolygonLayout, label_from_mask, rasterise


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
