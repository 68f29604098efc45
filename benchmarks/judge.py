"""What synthetic images are judged by: a segmenter trained on all real labels, and stain statistics of patients."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from safetensors.torch import load_file
from scipy import linalg
from torch import Tensor

from stedm import seeds
from stedm.augment import to_tensor
from stedm.runs import Plan
from stedm.segmenter.network import SmallUNet
from stedm.synthetic.draw import Drawer, Sample, micro_batches
from stedm.tiles.store import TileStore
from stedm.tiles.windows import WindowPool


@dataclass(frozen=True)
class Judge:
    """What images are measured with: a segmenter trained on the real images of all training patients."""

    network: SmallUNet
    real: np.ndarray
    """Features of real tiles of the unlabelled patients, (n, width)."""
    stains: dict[str, np.ndarray]
    """Stain statistics of each unlabelled patient."""

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the means over positions of the coarsest encoder features, (n, width)."""
        return self.network.encode(images)[-1].mean((2, 3))

    @torch.no_grad()
    def foreground(self, images: Tensor) -> np.ndarray:
        """Return the predicted foreground, bool (n, h, w)."""
        logits = self.network(images)
        return (logits[:, 1] > logits[:, 0]).numpy()


def stain_statistics(images: np.ndarray) -> np.ndarray:
    """Return means and deviations of the optical densities of images, uint8 (n, h, w, 3), as (n, 6)."""
    density = -np.log(np.maximum(images, 1) / 255)
    return np.concatenate([density.mean((1, 2)), density.std((1, 2))], 1)


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Fréchet distance of two sets of features (Heusel 2017, arXiv 1706.08500, equation 6)."""
    cov1, cov2 = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    root = linalg.sqrtm(cov1 @ cov2).real
    return float(np.square(one.mean(0) - other.mean(0)).sum() + np.trace(cov1 + cov2 - 2 * root))


def kernel_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the unbiased squared MMD with the cubic kernel (KID, Bińkowski 2018, arXiv 1801.01401, section 3)."""
    kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3  # noqa: E731
    n, m = len(one), len(other)
    own, others = kernel(one, one), kernel(other, other)
    same = (own.sum() - np.trace(own)) / (n * (n - 1)) + (others.sum() - np.trace(others)) / (m * (m - 1))
    return float(same - 2 * kernel(one, other).mean())


def build_judge(plan: Plan, store: TileStore, unlabelled: list[str], count: int) -> Judge:
    """Load the run's oracle segmenter and measure the real tiles of the unlabelled patients."""
    run = plan.segmenter("oracle", plan.config.budgets[0], plan.config.seeds[0])
    network = SmallUNet(plan.config.segmenter.channels)
    network.load_state_dict(load_file(run.folder / "last.safetensors"))
    pool, random = WindowPool(store, unlabelled), seeds.generator(0, "quality per cost")
    tiles = {patient: [pool.read(pool.draw_from(random, patient))[0] for _ in range(32)] for patient in pool.patients}
    drawn = [pool.read(pool.draw(random))[0] for _ in range(count)]
    judge = Judge(network.eval(), np.empty(0), {p: stain_statistics(np.stack(t)).mean(0) for p, t in tiles.items()})
    return replace(judge, real=judge.features(to_tensor(drawn)).numpy())


def draw(drawer: Drawer) -> tuple[list[Sample], np.ndarray]:
    """Draw a setting's images."""
    samples, images = [], []
    for numbers in micro_batches(drawer.setting.config, 0, 1):
        part = [drawer.sample(number) for number in numbers]
        samples += part
        images.append(drawer.draw(part))
    return samples, np.concatenate(images)


def measure(judge: Judge, store: TileStore, samples: list[Sample], images: np.ndarray) -> dict[str, float]:
    """Return the distances to real tiles and the agreement with layout and style."""
    features = judge.features(to_tensor(list(images))).numpy()
    predicted = judge.foreground(to_tensor(list(images)))
    wanted = np.stack([store.layout(sample.label) for sample in samples])
    patients = list(judge.stains)
    stains = np.stack([judge.stains[patient] for patient in patients])
    away = np.linalg.norm(stain_statistics(images)[:, None] - stains[None], axis=2)
    own = np.array([patients.index(sample.style_patient) for sample in samples])
    mine = away[np.arange(len(own)), own]
    others = (away.sum(1) - mine) / (len(patients) - 1)
    return {
        "fd": frechet(features, judge.real),
        "kid": 1000 * kernel_distance(features, judge.real),
        "layout_iou": float((predicted & wanted).sum() / (predicted | wanted).sum()),
        "style_ratio": float((mine / others).mean()),
        "own_nearer": float((mine < others).mean()),
    }
