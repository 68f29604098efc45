"""Training one segmenter, and its predictions of the patients that are scored."""

from __future__ import annotations

import copy
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stedm import seeds
from stedm.config import SegmenterConfig
from stedm.device import use_device
from stedm.provenance import Product
from stedm.segmenter.data import TrainingBatches, read_tiles, validation_batches
from stedm.segmenter.loss import segmentation_loss
from stedm.segmenter.network import build_segmenter
from stedm.segmenter.normalise import NormalisedTiles, normalising_maps
from stedm.segmenter.predict import PREDICTIONS, slides_of, write_predictions
from stedm.segmenter.unlabelled import Learner, build_learner, unlabelled_batches
from stedm.tiles.store import TileStore
from stedm.training import Training, fit

EXAMPLES, LONGEST = 6, 192
"""Slides of which the preview shows the middle, and its longest side in pixels."""


class SegmenterTraining(Training):
    """Training of a segmenter; keeps the weights with the lowest validation loss beside the last.

    Parameters
    ----------
    network
        The segmenter.
    config
        Settings of the segmenter.
    store
        Real tiles, for validation.
    validation
        Validation patients; may be empty.
    seed
        Seed of the run.
    learner
        What learns from unlabelled tiles, or None.
    """

    def __init__(
        self,
        network: nn.Module,
        config: SegmenterConfig,
        store: TileStore,
        validation: Collection[str],
        seed: int,
        learner: Learner | None = None,
    ) -> None:
        super().__init__(
            steps=config.steps,
            lr=config.lr,
            weight_decay=config.weight_decay,
            checkpoint_every=config.checkpoint_every,
            validate_every=config.validate_every if validation else 0,
            seed=seed,
            samples=config.batch,
        )
        self.network, self.learner = network, learner
        self.best = copy.deepcopy(network).requires_grad_(False)
        self.best_loss, self.best_step = float("inf"), 0
        self._store, self._rows = store, validation_batches(store, validation)
        self.validation_slides = [slide for slide, _ in self._rows]

    def loss(self, batch: dict[str, Tensor], number: int) -> Tensor:
        """Return the segmentation loss of a batch, and what its unlabelled tiles add."""
        images = batch["images"].contiguous(memory_format=torch.channels_last)
        loss = segmentation_loss(self.network(images), batch["targets"])
        if self.learner is None:
            return loss
        views = {key: batch[key].contiguous(memory_format=torch.channels_last) for key in ("weak", "strong")}
        return loss + self.learner.loss(self.network, {**views, "shown": batch["shown"]}, number)

    def stepped(self) -> None:
        """Update what the learner keeps."""
        if self.learner is not None:
            self.learner.stepped(self.network)

    @property
    def predicting(self) -> nn.Module:
        """The network that predicts: the one that is trained, or what a learner makes of it."""
        return self.network if self.learner is None else self.learner.predicting(self.network)

    def validate(self, step: int) -> float:
        """Return the mean over slides of the loss on the validation patients' tiles; keep the best weights."""
        losses = []
        for _, rows in self._rows:
            parts = np.array_split(rows, max(1, len(rows) // 256))
            values = []
            for part in parts:
                images, targets = read_tiles(self._store, part)
                values.append(segmentation_loss(self.predicting(images.to(self.device)), targets.to(self.device)))
            losses.append(torch.stack(values).mean())
        value = float(torch.stack(losses).mean())
        if value < self.best_loss:
            self.best_loss, self.best_step = value, step
            self.best.load_state_dict(self.predicting.state_dict())
        return value

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep which weights are best."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["best"] = {"loss": self.best_loss, "step": self.best_step}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up which weights are best."""
        super().on_load_checkpoint(checkpoint)
        self.best_loss, self.best_step = checkpoint["best"]["loss"], checkpoint["best"]["step"]


def train_segmenter(
    making: Product,
    *,
    store: TileStore,
    synthetic: TileStore | None,
    labelled: Collection[str],
    validation: Collection[str],
    scored: Collection[str],
    config: SegmenterConfig,
    colour: bool,
    seed: int,
    label: str,
    device: str = "auto",
    threads: int = 1,
    workers: int = 0,
    normalised: bool = False,
    learning: str | None = None,
    unlabelled: Collection[str] = (),
) -> None:
    """Train a segmenter, predict, and write weights, predictions and preview.

    Parameters
    ----------
    making
        The product in the making; takes up the state that an earlier process left in its folder.
    store
        Real tiles.
    synthetic
        Synthetic tiles, or None.
    labelled, validation, scored
        Patients to train on, to choose the ``best`` weights by, and to predict.
    config
        Settings.
    colour
        Colour augmentation.
    seed
        Seed of the run.
    label
        Name in the progress line.
    device, threads, workers
        See :class:`stedm.config.ExecutionConfig`.
    normalised
        Stain normalisation of all slides.
    learning, unlabelled
        How to learn from tiles of which patients (see :class:`stedm.config.Arm`).
    """
    where = use_device(device, threads)
    if normalised:
        making.facts["reference_slide"], maps = normalising_maps(store, labelled, [*validation, *scored, *unlabelled])
        store = NormalisedTiles(store, maps)
        synthetic = NormalisedTiles(synthetic, maps, "style_slide") if synthetic is not None else None
    more = unlabelled_batches(learning, store, unlabelled, config, seed) if learning else None
    batches = TrainingBatches(store, labelled, synthetic, config, colour, seed, more)
    torch.manual_seed(seeds.derive(seed, "segmenter", "weights"))
    network = build_segmenter(config).to(memory_format=torch.channels_last)
    learner = build_learner(learning, network, config) if learning else None
    module = SegmenterTraining(network, config, store, validation, seed, learner)
    making.facts |= fit(module, batches, folder=making.folder, device=where, label=label, workers=workers)
    networks = {"last": module.predicting.to(where).eval(), "best": module.best.to(where).eval()}
    if module.best_step in (0, config.steps):
        networks["best"] = networks["last"]
    slides = slides_of(store, scored)
    shown = slides[:: max(1, len(slides) // EXAMPLES)][:EXAMPLES]
    predicted = write_predictions(
        making.folder / PREDICTIONS,
        networks,
        store,
        scored,
        window=config.window,
        margin=config.margin,
        device=where,
        shown=shown,
    )
    for name, trained in networks.items():
        tensors = {key: value.contiguous().cpu() for key, value in trained.state_dict().items()}
        save_file(tensors, making.folder / f"{name}.safetensors")
    _write_examples(making.folder / "preview" / "examples.npz", store, predicted)
    making.facts |= {
        "device": str(where),
        "threads": threads,
        "parameters": sum(p.numel() for p in network.parameters()),
        "best_step": module.best_step if validation else None,
        "validation_slides": len(module.validation_slides),
        "labelled": sorted(labelled),
        "synthetic_images": len(synthetic) if synthetic is not None else 0,
    }
    if learning:
        making.facts["unlabelled"] = sorted(unlabelled)


def _write_examples(path: Path, store: TileStore, predicted: dict[str, np.ndarray]) -> None:
    """Write the middles of slides with truth and prediction, as arrays (see the report)."""
    arrays: dict[str, list] = {"images": [], "truths": [], "predictions": []}
    side = min([LONGEST, *(min(mask.shape) for mask in predicted.values())])
    for slide, mask in predicted.items():
        x, y = (mask.shape[1] - side) // 2, (mask.shape[0] - side) // 2
        image, label = store.window(slide, x, y, side, side)
        arrays["images"].append(image)
        arrays["truths"].append(store.layout(label))
        arrays["predictions"].append(mask[y : y + side, x : x + side])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, names=np.array(list(predicted), dtype=str), **{k: np.stack(v) for k, v in arrays.items()})
