"""The segmenter's loss: 0.1 cross-entropy + 0.9 soft Dice of the foreground (paper's recipe)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

IGNORE = 255
"""Target of pixels that do not count."""
CROSS_ENTROPY_WEIGHT, DICE_WEIGHT = 0.1, 0.9
DICE_EPSILON = 0.01


def segmentation_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of a batch.

    Parameters
    ----------
    logits
        float (batch, 2, h, w).
    targets
        int64 (batch, h, w): 0 background, 1 foreground, :data:`IGNORE` not counted.

    Returns
    -------
    Tensor
        Scalar; Dice is of the foreground only, over the whole batch.
    """
    counted = targets != IGNORE
    entropy = functional.cross_entropy(logits, targets, ignore_index=IGNORE)
    foreground = logits.softmax(1)[:, 1] * counted
    truth = (targets == 1).to(logits.dtype)
    overlap = 2 * (foreground * truth).sum() + DICE_EPSILON
    dice = overlap / (foreground.sum() + truth.sum() + DICE_EPSILON)
    return CROSS_ENTROPY_WEIGHT * entropy + DICE_WEIGHT * (1 - dice)


def targets_of(layouts: Tensor, counted: Tensor) -> Tensor:
    """Return int64 targets from layouts and which pixels count, bool tensors of the same shape."""
    return torch.where(counted, layouts.long(), IGNORE)
