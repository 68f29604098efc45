"""The style map of patients: which sets are drawn, and what is computed from their vectors."""

from types import SimpleNamespace

import numpy as np
import torch
from stores import squares

from stedm.config import StyleConfig
from stedm.generator.style_map import FILE, SETS, roles, write_style_vectors
from stedm.report.previews import styles
from stedm.report.style_map import nearest_own, project

STYLE = StyleConfig(sampling="multi-patch", count=3, size=16)


def mean_colours():
    """A generator whose style vector is the mean colour of the set, its deviation over the set beside it."""

    def vectors(images, has_style):
        assert images.shape[1:] == (3, 3, 16, 16) and images.abs().max() <= 1 and has_style.all()
        colours = images.mean((3, 4))
        return torch.cat([colours.mean(1), colours.std(1)], 1)

    return SimpleNamespace(style_vectors=vectors, deviation=torch.ones(1))


def write(folder, seed=0):
    (folder / "store").mkdir(parents=True)
    store = squares(folder / "store", "abcv")
    path = folder / "preview" / FILE
    write_style_vectors(path, mean_colours(), store, roles(store, "a", "b"), STYLE, seed)
    return styles({"folder": folder}), store


def test_every_patient_has_its_sets_in_its_own_colours(tmp_path):
    found, store = write(tmp_path)
    assert found["vectors"].shape == (4 * SETS, 6) and found["vectors"].dtype == np.float32
    names, count = np.unique(found["patient"], return_counts=True)
    assert list(names) == list("abcv") and set(count) == {SETS}
    assert dict(zip(found["patient"], found["role"], strict=True)) == {
        "a": "labelled", "b": "unlabelled", "c": "held out", "v": "held out",
    }  # fmt: skip
    for name in names:
        image = np.stack([store.tile_at(row)[0] for row in np.flatnonzero(store.column("patient") == name)])
        own = found["vectors"][found["patient"] == name][:, :3].mean(0)
        assert np.abs(own - (image.mean((0, 1, 2)) / 127.5 - 1)).max() < 0.15
        assert len(np.unique(found["vectors"][found["patient"] == name], axis=0)) == SETS


def test_the_sets_come_from_the_seed(tmp_path):
    first, again, other = (write(tmp_path / name, seed)[0]["vectors"] for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert (first == again).all() and not (first == other).all()


def test_the_projection_finds_a_plane():
    random = np.random.default_rng(0)
    plane = random.normal(size=(40, 2)) * (5, 1)
    basis, _ = np.linalg.qr(random.normal(size=(7, 2)))
    points, share = project(plane @ basis.T + 3)
    centred = plane - plane.mean(0)
    apart = [np.linalg.norm(one[:, None] - one[None], axis=2) for one in (points, centred)]
    np.testing.assert_allclose(*apart, atol=1e-9)
    np.testing.assert_allclose(share.sum(), 1)
    assert share[0] > share[1] and abs(points.mean(0)).max() < 1e-9
    assert np.array_equal(project(np.ones((5, 3)))[0], np.zeros((5, 2)))


def test_the_nearest_set_of_the_same_patient():
    vectors = np.array([[0.0], [1.0], [1.9], [10.0], [10.5]])
    assert nearest_own(vectors, np.array(list("aabbb"))).tolist() == [True, False, False, True, True]
