"""Reading slides: exact area means, any backend, no silent damage; and finding tissue."""

import cv2
import numpy as np
import pytest
import pyvips
from conftest import shared
from pictures import save, scene, whole

from stedm.config import TilesConfig
from stedm.errors import UserError
from stedm.tiles.backends import open_slide
from stedm.tiles.reader import working_downsample
from stedm.tiles.tissue import tissue_fractions, tissue_mask


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
