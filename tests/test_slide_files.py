"""Slides as real files are: odd, damaged, without facts; and JPEG tiles decoded without libvips."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips
import simplejpeg
import tifffile

from stedm.config import TilesConfig
from stedm.errors import UserError
from stedm.tiles.backends import open_slide
from stedm.tiles.cut import cut_files

FILES = Path("/proc/self/fd")

PEAK = """
import pathlib, re, sys
import stedm.tiles.slide
from stedm.config import TilesConfig
from stedm.tiles.cut import cut_files
stedm.tiles.slide.WHOLE_PIXELS = 0
peaks = []
for name in sys.argv[2:]:
    out = pathlib.Path(sys.argv[1]) / f"{pathlib.Path(name).stem}-store"
    cut_files([pathlib.Path(name)], out, TilesConfig(downsample=1, tile=64))
    # The peak in getrusage is that of the process that started this one.
    peaks.append(int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]))
print((peaks[1] - peaks[0]) / 1024)
"""


def tissue(width, height, seed=0):
    """Noise in the colours of tissue, too fine for chroma subsampling to keep."""
    return np.random.default_rng(seed).integers(60, 220, (height, width, 3), dtype=np.uint8)


def jpeg_tiff(path, image, **options):
    picture = pyvips.Image.new_from_array(image, interpretation="srgb")
    picture.tiffsave(str(path), compression="jpeg", tile=True, tile_width=64, tile_height=48, **options)
    return path


def whole(path, downsample=1):
    with open_slide(path) as reader:
        return reader.read(0, 0, *reader.working_size(downsample), downsample)


def alter(path, change, tile):
    """Change the bytes of one tile of level 0."""
    with tifffile.TiffFile(path) as tiff:
        place, length = tiff.pages[0].dataoffsets[tile], tiff.pages[0].databytecounts[tile]
    data = bytearray(path.read_bytes())
    data[place : place + length] = change(bytes(data[place : place + length]))
    path.write_bytes(data)


# JPEG tiles


@pytest.mark.parametrize("options", [{"Q": 75}, {"Q": 95}, {"Q": 80, "rgbjpeg": True}, {"Q": 80, "bigtiff": True}])
def test_jpeg_tiles_are_what_libvips_decodes(tmp_path, options):
    """`rgbjpeg` stores red, green and blue without a marker that says so, as Aperio's scanners do."""
    path = jpeg_tiff(tmp_path / "a.tif", tissue(301, 203), pyramid=True, **options)
    for level in range(2):
        expected = pyvips.Image.tiffload(str(path), page=level).numpy()
        with open_slide(path) as reader:
            assert reader._jpeg.levels[level] is not None
            np.testing.assert_array_equal(reader._fetch(level, 0, 0, *expected.shape[1::-1]), expected)
            np.testing.assert_array_equal(reader._fetch(level, 33, 17, 101, 77), expected[17:94, 33:134])


def test_what_is_no_rgb_jpeg_is_left_to_libvips(tmp_path):
    grey = jpeg_tiff(tmp_path / "grey.tif", tissue(100, 80)[..., 0])
    with open_slide(grey) as reader:
        assert reader._jpeg.levels == [None]
        expected = pyvips.Image.tiffload(str(grey)).numpy()
        np.testing.assert_array_equal(reader.read(0, 0, 100, 80), np.repeat(expected[..., None], 3, axis=2))


def test_tiles_that_two_readings_share_are_decoded_once(tmp_path, monkeypatch):
    path = jpeg_tiff(tmp_path / "a.tif", tissue(320, 240))
    expected, decoded = whole(path), []
    original = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: decoded.append(1) or original(*a, **k))
    with open_slide(path) as reader:
        strips = [reader.read(0, y, 320, 30) for y in range(0, 240, 30)]
        np.testing.assert_array_equal(np.vstack(strips), expected)
        assert len(decoded) == 5 * 5
        assert not reader._jpeg.levels[0]._kept


def flipped(data):
    half = len(data) // 2
    return data[:half] + bytes(byte ^ 0xFF for byte in data[half:])


def zeroed(data):
    return bytes(len(data))


def ended_early(data):
    half = len(data) // 2
    return data[:half] + b"\xff\xd9" + bytes(len(data) - half - 2)


@pytest.mark.parametrize("change", [flipped, zeroed, ended_early])
def test_one_corrupt_tile_is_named_and_the_rest_is_read(tmp_path, change):
    path = jpeg_tiff(tmp_path / "broken.tif", tissue(320, 240))
    alter(path, change, tile=7)  # the third of the second row
    with open_slide(path) as reader:
        reader.read(0, 0, 320, 48)
        reader.read(0, 96, 320, 144)
        with pytest.raises(UserError, match=r"broken\.tif: unreadable in the region from x 128, y 48 of level 0"):
            reader.read(0, 0, 320, 240)
    with pytest.raises(UserError, match=r"broken\.tif"):
        cut_files([path], tmp_path / "store", TilesConfig(downsample=1, tile=32))
    assert not (tmp_path / "store").exists()


def test_a_damaged_tile_stays_damaged(tmp_path):
    """libvips shows a tile as blank when it is read again."""
    path = tmp_path / "a.tif"
    picture = pyvips.Image.new_from_array(tissue(128, 96), interpretation="srgb")
    picture.tiffsave(str(path), compression="deflate", tile=True, tile_width=64, tile_height=48)
    alter(path, zeroed, tile=0)
    with open_slide(path) as reader:
        for _ in range(2):
            with pytest.raises(UserError, match=r"a\.tif: unreadable in the region from x 0, y 0"):
                reader.read(0, 0, 64, 48)


def test_a_tile_of_another_size_is_refused(tmp_path):
    path = jpeg_tiff(tmp_path / "broken.tif", tissue(128, 96))
    small = simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8))
    alter(path, lambda data: small + bytes(len(data) - len(small)), tile=1)
    with pytest.raises(UserError, match=r"x 64, y 0 .*16 × 16"):
        whole(path)


# Odd files


def test_a_file_without_resolution_asks_for_it(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, tissue(64, 64), tile=(32, 32), photometric="rgb", resolutionunit="NONE", metadata=None)
    with open_slide(path) as reader:
        assert reader.mpp is None
    with pytest.raises(UserError, match=r"a\.tif: the file does not state its resolution.*--slide-mpp"):
        cut_files([path], tmp_path / "store", TilesConfig(mpp=1.0, tile=32))
    assert cut_files([path], tmp_path / "store", TilesConfig(mpp=1.0, tile=32), mpp=0.5)["tiles"] == 1


def test_print_resolutions_are_none_of_a_scan(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", tissue(64, 64), tile=(32, 32), photometric="rgb", resolution=(72, 72))
    with open_slide(tmp_path / "a.tif") as reader:
        assert reader.mpp is None


def ramp(width, height, factor=1.0):
    """A picture whose every pixel says where it lies."""
    x, y = (np.arange(width) + 0.5) * factor, (np.arange(height) + 0.5) * factor
    return np.stack(np.broadcast_arrays(x[None] / 4, y[:, None] / 4, 100.0), axis=2)


def test_a_level_of_no_whole_downsample_does_not_drift(tmp_path):
    """403 pixels to 200 are 2.015, near enough to 2 to be read for it, and three pixels off at the far edge."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        options = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
        tiff.write(ramp(403, 403).round().astype(np.uint8), **options)
        tiff.write(ramp(200, 200, 2.015).round().astype(np.uint8), subfiletype=1, **options)
    with open_slide(path) as reader:
        assert reader.level_downsamples == [1, pytest.approx(2.015)]
        assert reader.best_level(2) == 1
        found = reader.read(0, 0, *reader.working_size(2), 2)
    # Half a grey level each for the stored level and for what is read.
    assert np.abs(found - ramp(201, 201, 2)).max() <= 1 + 1e-6


@pytest.mark.parametrize("label_first", [False, True])
def test_labels_and_macro_images_are_no_levels(tmp_path, label_first):
    image, path = tissue(320, 256), tmp_path / "a.tif"
    half = image.reshape(128, 2, 160, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    options = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        if label_first:
            tiff.write(tissue(40, 32), rowsperstrip=8, **options)
        tiff.write(image, tile=(64, 64), **options)
        tiff.write(tissue(80, 64), rowsperstrip=8, **options)  # a thumbnail, of the slide's shape
        tiff.write(half, tile=(64, 64), **options)
        tiff.write(tissue(100, 40), tile=(64, 64), **options)  # a macro image
    with open_slide(path, backend="pyvips") as reader:
        assert (reader.size, reader.level_downsamples) == ((320, 256), [1, 2])
        np.testing.assert_array_equal(reader.read(0, 0, 320, 256, 1), image)
        np.testing.assert_array_equal(reader.read(0, 0, 160, 128, 2), half)


# What a reader holds


@pytest.mark.skipif(not FILES.is_dir(), reason="counts open files in /proc")
@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
@pytest.mark.parametrize("backend", ["pyvips", "openslide"])
def test_closed_slides_hold_no_file(tmp_path, backend, compression):
    picture = pyvips.Image.new_from_array(tissue(200, 160), interpretation="srgb")

    def opened():
        return len(list(FILES.iterdir()))

    held = []
    for n in range(4):
        path = tmp_path / f"{n}.tif"
        picture.tiffsave(str(path), compression=compression, tile=True, tile_width=64, tile_height=64, pyramid=True)
        with open_slide(path, backend=backend) as reader:
            reader.read(0, 0, 50, 50, 1)
        held.append(opened())
    assert held[-1] == held[0]


@pytest.mark.skipif(not FILES.is_dir(), reason="reads its memory in /proc")
def test_memory_does_not_grow_with_the_slide(tmp_path):
    paths = [jpeg_tiff(tmp_path / f"{n}.tif", tissue(512, n)) for n in (512, 24_576)]
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Its tiles are 50 MB.
    assert float(done.stdout) < 20
