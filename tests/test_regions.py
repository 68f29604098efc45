"""Labels that are known in regions alone, and labels on which several people voted."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import torch

from stedm.cohort.base import IGNORED, REGION, Consensus, Polygon, Slide
from stedm.config import GeneratorConfig, SegmenterConfig, TilesConfig
from stedm.generator.data import TrainingBatches as TrainingPairs
from stedm.scores.count import count_predictions
from stedm.segmenter.data import TrainingBatches, validation_batches
from stedm.segmenter.loss import IGNORE
from stedm.tiles.backends import open_slide
from stedm.tiles.cut import cut_cohort
from stedm.tiles.slide import open_layout
from stedm.tiles.store import UNKNOWN, TileStore
from stedm.tiles.windows import WindowPool

CLASSES = ["low", "high", "necrosis"]
CONFIG = TilesConfig(downsample=2, tile=32, classes=CLASSES, foreground=["low", "high"])
SIZE = (640, 384)
# Not square, and off the grid of the tiles.
REGIONS = [((70, 40), (330, 150)), ((400, 100), (450, 330))]


def box(name, corner, end):
    (x0, y0), (x1, y1) = corner, end
    return Polygon(name, np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float))


def disc(name, x, y, radius):
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    return Polygon(name, np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1))


class Two:
    """Two annotated slides, one with regions, and one that nobody annotated."""

    def __init__(self, folder):
        self.folder = folder

    def slide_path(self, slide):
        return self.folder / f"{slide.slide}.tiff"

    def mpp(self, slide):
        return None

    def annotation(self, slide):
        if slide.split == "unlabelled":
            return None
        return [*(box(REGION, *r) for r in REGIONS), disc("low", 200, 100, 60), disc("high", 600, 300, 30)]


SLIDES = [
    Slide("a", "pa", "g", "train"),
    Slide("b", "pb", "g", "unlabelled"),
    Slide("c", "pc", "g", "validation"),
]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    random = np.random.default_rng(0)
    for slide in SLIDES:
        pixels = random.normal((190, 120, 170), 20, (SIZE[1], SIZE[0], 3)).clip(0, 255).astype(np.uint8)
        x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
        # Green where nobody looked, so that a picture tells where it was cut.
        pixels[~within(x, y)] = (60, 200, 60)
        tifffile.imwrite(folder / f"{slide.slide}.tiff", pixels, tile=(128, 128), photometric="rgb")
    return Two(folder)


@pytest.fixture(scope="module")
def store(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    cut_cohort(cohort, SLIDES, CONFIG, folder)
    return TileStore(folder)


def centres():
    y, x = np.mgrid[: SIZE[1] // 2, : SIZE[0] // 2]
    return 2 * x + 1, 2 * y + 1


def within(x, y):
    return np.any([(x >= x0) & (x < x1) & (y >= y0) & (y < y1) for (x0, y0), (x1, y1) in REGIONS], axis=0)


def inside_regions():
    return within(*centres())


def test_labels_are_known_inside_regions_alone(store):
    _, label = store.window("a", 0, 0, SIZE[0] // 2, SIZE[1] // 2)
    np.testing.assert_array_equal(label != UNKNOWN, inside_regions())
    x, y = centres()
    clear = np.abs(np.hypot(x - 200, y - 100) - 60) > 2
    expected = (np.hypot(x - 200, y - 100) < 60) & inside_regions()
    np.testing.assert_array_equal((label == 1)[clear], expected[clear])
    assert not (label == 2).any()


@pytest.mark.parametrize("regions", [REGIONS, []])
def test_what_is_ignored_is_unknown_whoever_drew_it(cohort, regions):
    drawn = (*(box(REGION, *r) for r in regions), disc("low", 200, 100, 60))
    ignored = box(IGNORED, (180, 20), (260, 120))
    expected = inside_regions() if regions else np.ones((SIZE[1] // 2, SIZE[0] // 2), bool)
    x, y = centres()
    expected &= ~((x >= 180) & (x < 260) & (y >= 20) & (y < 120))
    with open_slide(cohort.slide_path(SLIDES[0])) as reader:
        for annotation in ([*drawn, ignored], Consensus((drawn, (ignored,)))):
            with open_layout(annotation, reader, CONFIG) as layout:
                label = layout.draw(0, 0, SIZE[0] // 2, SIZE[1] // 2, 2)
            np.testing.assert_array_equal(label != UNKNOWN, expected)
            assert (label == 1).any()


def test_a_vote_of_nobody_is_no_annotation(cohort):
    with open_slide(cohort.slide_path(SLIDES[0])) as reader, open_layout(Consensus(()), reader, CONFIG) as layout:
        assert not layout.draw(0, 0, 32, 32, 2).any()


def test_a_share_is_of_what_is_known(store):
    known = inside_regions()
    for row in range(len(store)):
        slide, x, y = (store.column(c)[row] for c in ("slide", "x", "y"))
        label, share = store.tile_at(row)[1], store.column("foreground")[row]
        if slide == "b" or known[y : y + 32, x : x + 32].mean() < 0.5:
            assert np.isnan(share)
        else:
            assert share == pytest.approx((label == 1).sum() / (label != UNKNOWN).sum(), abs=1e-5)


def test_labelled_windows_lie_where_labels_are_known_and_styles_anywhere(store):
    random = np.random.default_rng(0)
    pool = WindowPool(store, ["pa"], known=True)
    for _ in range(200):
        window = pool.draw(random, foreground_share=0.3)
        assert (pool.read(window)[1] != UNKNOWN).mean() >= 0.5
    drawn = {(w.x, w.y) for w in (pool.draw_like(random, window) for _ in range(300))}
    assert max(x for x, _ in drawn) > 260
    assert len(WindowPool(store, ["pb"]).patients) == 1


def test_unknown_labels_count_in_no_loss_and_no_validation(store):
    config = SegmenterConfig(steps=3, batch=8)
    batches = TrainingBatches(store, ["pa"], None, config, False, 0)
    targets = torch.cat([batches[step]["targets"] for step in range(3)])
    assert (targets == IGNORE).any() and (targets == 1).any() and (targets == 0).any()
    [(name, rows)] = validation_batches(store, ["pc"])
    assert name == "c" and not np.isnan(store.column("foreground")[rows]).any()


def test_a_layout_is_shown_to_the_generator_where_all_of_it_is_known(store):
    style = {"sampling": "none", "size": 16}
    config = GeneratorConfig(steps=6, batch=8, drop_layout=0, unlabelled=False, colour_jitter=0, style=style)
    batches = TrainingPairs(store, ["pa"], [], config, 0)
    shown = torch.cat([batches[step]["has_layout"] for step in range(6)])
    images = torch.cat([batches[step]["images"] for step in range(6)])
    unknown = (images[:, 0] < -0.4).flatten(1).any(1)
    assert (shown == ~unknown).all() and shown.any() and unknown.any()


def test_unknown_pixels_are_not_scored(store, tmp_path):
    rows = [row for row in range(len(store)) if store.column("slide")[row] == "a"]
    bits = np.packbits(np.ones(32 * 32, bool)).tobytes()
    columns = {name: [store.column(name)[row] for row in rows] for name in ("slide", "x", "y")}
    pq.write_table(pa.table({**columns, "last": [bits] * len(rows)}), tmp_path / "p.parquet")
    facts = {"cohort": "c", "arm": "real", "budget": 1, "seed": 0, "segmenter": "s"}
    count_predictions(tmp_path / "p.parquet", store, facts, tmp_path / "scores.parquet")
    table = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    counted = dict(zip(table["annotated"], table["predicted_foreground"], strict=True))
    _, label = store.window("a", 0, 0, SIZE[0] // 2, SIZE[1] // 2)
    assert counted["low"] == (label == 1).sum() and sum(counted.values()) == inside_regions().sum()


def vote(labels, foreground=(1, 2)):
    """The rule in words, pixel by pixel, slowly."""
    marked = [label in foreground for label in labels]
    agreed = 2 * sum(marked) >= len(labels)
    side = [label for label, own in zip(labels, marked, strict=True) if own == agreed]
    return max(set(side), key=lambda value: (side.count(value), value))


@pytest.mark.parametrize("people", [2, 3, 4])
def test_a_consensus_is_the_vote_at_each_pixel(cohort, people):
    random = np.random.default_rng(people)
    names = [*CLASSES, "low", "high"]
    drawn = [
        tuple(disc(names[n % 5], *random.uniform((60, 40), (580, 340)), random.uniform(10, 40)) for n in range(25))
        for _ in range(people)
    ]
    region = box(REGION, (100, 60), (500, 320))
    with open_slide(cohort.slide_path(SLIDES[0])) as reader:
        single = []
        for own in drawn:
            with open_layout(list(own), reader, CONFIG) as layout:
                single.append(layout.draw(10, 20, 250, 160, 2))
        with open_layout(Consensus(tuple(drawn)), reader, CONFIG) as layout:
            found = layout.draw(10, 20, 250, 160, 2)
        shared = Consensus((drawn[0] + (region,), *drawn[1:]))
        with open_layout(shared, reader, CONFIG) as layout:
            bounded = layout.draw(10, 20, 250, 160, 2)
    votes = np.stack(single).reshape(people, -1).T
    rules = {tuple(v): vote(list(v)) for v in np.unique(votes, axis=0).tolist()}
    assert len(rules) > 3**people / 2
    expected = np.array([rules[tuple(v)] for v in votes.tolist()]).reshape(found.shape)
    np.testing.assert_array_equal(found, expected)
    # One person's region bounds the labels of all.
    known = bounded != UNKNOWN
    np.testing.assert_array_equal(bounded[known], expected[known])
    assert known.mean() == pytest.approx(200 * 130 / known.size, abs=1e-3)
