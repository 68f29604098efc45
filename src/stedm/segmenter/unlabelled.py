"""Learning from tiles of unlabelled patients: mean teacher and pseudo-labels.

Either adds to the loss of a labelled batch a term over a batch of unlabelled tiles, of which the segmenter gets two
views: one that says what should come out, and one on which it is trained to say the same.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from stedm import seeds
from stedm.augment import draw_colour, flip, jitter_colour, to_tensor
from stedm.config import MeanTeacherConfig, PseudoLabelsConfig, SegmenterConfig
from stedm.tiles.store import TileStore
from stedm.tiles.windows import WindowPool
from stedm.training import moving_average

GREY = 0.5
"""Level of the hole cut out of a strongly augmented image."""


class UnlabelledBatches:
    """Map from a step's number to two views of a batch of unlabelled tiles.

    A batch is a dict of ``weak`` and ``strong``, float (batch, 3, tile, tile) in [0, 1], the same tiles under the same
    symmetry, and ``shown``, bool (batch, tile, tile), false in the hole that was cut out of the strong view.

    Parameters
    ----------
    store
        Real tiles.
    patients
        Unlabelled patients; their labels are never read.
    batch
        Tiles of a batch.
    weak, strong
        Strength of the colour jitter of either view.
    cutout
        Largest side of the hole, as a share of the tile's.
    seed
        Seed of the run.
    """

    def __init__(
        self,
        store: TileStore,
        patients: Collection[str],
        *,
        batch: int,
        weak: float,
        strong: float,
        cutout: float,
        seed: int,
    ) -> None:
        self.pool, self.batch, self.seed = WindowPool(store, patients), batch, seed
        self.weak, self.strong, self.cutout = weak, strong, cutout

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        random = seeds.generator(self.seed, "segmenter", "unlabelled", step)
        images, maps, holes = [], [], []
        for _ in range(self.batch):
            image, _ = self.pool.read(self.pool.draw(random))
            images.append(flip(image, int(random.integers(8))))
            maps.append([draw_colour(random, strength) for strength in (self.weak, self.strong)])
            holes.append(draw_hole(random, len(image), self.cutout))
        plain, colours = to_tensor(images), torch.from_numpy(np.array(maps))
        weak, strong = (
            jitter_colour(plain, colours[:, view]) if strength else plain
            for view, strength in enumerate((self.weak, self.strong))
        )
        shown = ~torch.from_numpy(np.stack(holes))
        return {"weak": weak, "strong": torch.where(shown[:, None], strong, GREY), "shown": shown}


def draw_hole(random: np.random.Generator, side: int, largest: float) -> np.ndarray:
    """Draw a square of up to `largest` times the side about any pixel, bool (side, side) (Cutout, DeVries 2017)."""
    half = random.uniform(0, largest) * side / 2
    x, y = random.uniform(0, side, 2)
    places = np.arange(side) + 0.5
    return (abs(places - y) < half)[:, None] & (abs(places - x) < half)[None]


class MeanTeacher(nn.Module):
    """Consistency with a teacher, the average of the student over its steps (Tarvainen and Valpola 2017).

    The loss is the squared difference of the foreground's probabilities, each on its own jitter of colours; its weight
    rises as there. The teacher is part of the state, and it is what predicts.
    """

    def __init__(self, network: nn.Module, config: MeanTeacherConfig, steps: int) -> None:
        super().__init__()
        self.config, self.steps = config, steps
        self.teacher = AveragedModel(network, multi_avg_fn=moving_average(config.decay)).requires_grad_(False)

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        """Return the weighted loss of a batch of :class:`UnlabelledBatches`."""
        with torch.no_grad():
            wanted = self.teacher(batch["weak"]).softmax(1)[:, 1]
        found = network(batch["strong"]).softmax(1)[:, 1]
        return self.weight(step) * (found - wanted).pow(2).mean()

    def weight(self, step: int) -> float:
        """Return the weight of a step: a Gaussian ramp (Laine and Aila 2017) over the first share of the steps."""
        ramp = self.config.ramp * self.steps
        missing = 1 - min(1.0, step / ramp) if ramp else 0.0
        return self.config.weight * math.exp(-5 * missing**2)

    def stepped(self, network: nn.Module) -> None:
        """Average the student's weights into the teacher's."""
        self.teacher.update_parameters(network)

    def predicting(self, network: nn.Module) -> nn.Module:
        """Return the network that predicts."""
        return self.teacher.module


class PseudoLabels(nn.Module):
    """Cross-entropy on a strongly augmented tile against what is predicted on the tile as it is (FixMatch, Sohn 2020).

    Only pixels count whose predicted class reaches a threshold of probability; the mean is over all pixels shown, so
    that a batch without confident ones adds nothing. Here each pixel is what an image is there.
    """

    def __init__(self, config: PseudoLabelsConfig) -> None:
        super().__init__()
        self.config = config

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        """Return the weighted loss of a batch of :class:`UnlabelledBatches`."""
        with torch.no_grad():
            confidence, label = network(batch["weak"]).softmax(1).max(1)
        counted = batch["shown"] & (confidence >= self.config.threshold)
        entropy = functional.cross_entropy(network(batch["strong"]), label, reduction="none")
        return self.config.weight * (entropy * counted).sum() / batch["shown"].sum().clamp(min=1)

    def stepped(self, network: nn.Module) -> None:
        """Nothing is kept."""

    def predicting(self, network: nn.Module) -> nn.Module:
        """Return the network that predicts."""
        return network


Learner = MeanTeacher | PseudoLabels


def build_learner(method: str, network: nn.Module, config: SegmenterConfig) -> Learner:
    """Return what learns from unlabelled tiles, by the name of its section in the settings of the segmenter."""
    if method == "mean_teacher":
        return MeanTeacher(network, config.mean_teacher, config.steps)
    return PseudoLabels(config.pseudo_labels)


def unlabelled_batches(
    method: str, store: TileStore, patients: Collection[str], config: SegmenterConfig, seed: int
) -> UnlabelledBatches:
    """Return the batches that a method learns from: as many unlabelled tiles a step as labelled ones."""
    if method == "mean_teacher":
        jitter = config.mean_teacher.jitter
        views = {"weak": jitter, "strong": jitter, "cutout": 0.0}
    else:
        views = {"weak": 0.0, "strong": config.pseudo_labels.jitter, "cutout": config.pseudo_labels.cutout}
    return UnlabelledBatches(store, patients, batch=config.batch, seed=seed, **views)
