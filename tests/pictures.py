"""Small slides and polygons that tests draw."""

import numpy as np
import pyvips

from stedm.cohort.base import Polygon
from stedm.tiles.backends import open_slide


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


def star(centre, radius, points=40, seed=0, annotated="a"):
    random = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    reach = radius * random.uniform(0.6, 1.2, points)
    ring = np.stack([centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle)], axis=1)
    return Polygon(annotated, ring)


def box(x0, y0, x1, y1, annotated="a", holes=()):
    rings = [np.array([[a, b], [c, b], [c, d], [a, d]], float) for a, b, c, d in [(x0, y0, x1, y1), *holes]]
    return Polygon(annotated, rings[0], tuple(rings[1:]))
