"""Where a generator puts the styles of patients: vectors of drawn style sets, for the report's map."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stedm import seeds
from stedm.augment import reduce_area, to_tensor
from stedm.config import StyleConfig
from stedm.generator.data import draw_style
from stedm.generator.model import Generator
from stedm.tiles.store import TileStore
from stedm.tiles.windows import WindowPool

FILE = "styles.npz"
SETS = 6
"""Style sets that are drawn of each patient."""
MOST_PATIENTS = 60
"""Patients of each role on the map; of more, so many are chosen at random."""


def roles(store: TileStore, labelled: Collection[str], unlabelled: Collection[str]) -> dict[str, str]:
    """Map each patient of a store to ``labelled``, ``unlabelled``, ``test`` or, of the others, ``held out``."""
    split = {slide.patient: slide.split for slide in store.slides.values()}
    named = {patient: "test" if name == "test" else "held out" for patient, name in split.items()}
    return named | dict.fromkeys(unlabelled, "unlabelled") | dict.fromkeys(labelled, "labelled")


@torch.no_grad()
def write_style_vectors(
    path: Path, model: Generator, store: TileStore, role: dict[str, str], style: StyleConfig, seed: int
) -> None:
    """Draw style sets of every patient as in training and write their vectors.

    The file is a NumPy archive of ``vectors`` float32 (sets, dim), and for each ``patient``, ``group`` and ``role``,
    all of (sets,).

    Parameters
    ----------
    path
        The archive.
    model
        A generator that takes styles.
    store
        Real tiles; no label is read.
    role
        Of each patient; see :func:`roles`.
    style
        How the generator's style sets are drawn.
    seed
        Seed of the run.
    """
    group = {slide.patient: slide.group for slide in store.slides.values()}
    rows: list[tuple[str, Tensor]] = []
    pool = WindowPool(store, role)
    for name in sorted(set(role.values())):
        patients = [patient for patient in pool.patients if role[patient] == name]
        random = seeds.generator(seed, "generator", "style map", name)
        for at in sorted(random.permutation(len(patients))[:MOST_PATIENTS]):
            windows = [pool.draw_from(random, patients[at]) for _ in range(SETS)]
            sets = [draw_style(pool, window, style, random) for window in windows]
            tiles = to_tensor([tile.read(pool) for drawn in sets for tile in drawn])
            images = (reduce_area(tiles, style.size) * 2 - 1).unflatten(0, (SETS, style.count))
            shown = images.to(model.deviation.device)
            vectors = model.style_vectors(shown, torch.ones(SETS, dtype=torch.bool, device=shown.device))
            rows += [(patients[at], vector.cpu()) for vector in vectors]
    names = [patient for patient, _ in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        vectors=torch.stack([vector for _, vector in rows]).float().numpy(),
        patient=np.array(names),
        group=np.array([str(group[patient]) for patient in names]),
        role=np.array([role[patient] for patient in names]),
    )
