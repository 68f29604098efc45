"""Layers that the segmenters share."""

from __future__ import annotations

from torch import nn


def convolutions(width_in: int, width: int) -> nn.Sequential:
    """Return two 3 × 3 convolutions, each with batch norm and ReLU: (batch, width_in, h, w) to (batch, width, h, w)."""
    layers: list[nn.Module] = []
    for source in (width_in, width):
        layers += [nn.Conv2d(source, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
