"""A small U-Net for the foreground of a tile."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def _convolutions(width_in: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for source in (width_in, width):
        layers += [nn.Conv2d(source, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


class SmallUNet(nn.Module):
    """Encoder and decoder with skips (Ronneberger 2015), batch norm, two classes.

    Parameters
    ----------
    channels
        Widths, one a resolution; each next one has half the side.
    """

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.down = nn.ModuleList(_convolutions(a, b) for a, b in zip([3, *channels[:-1]], channels, strict=True))
        pairs = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.narrow = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for coarse, fine in pairs)
        self.up = nn.ModuleList(_convolutions(2 * fine, fine) for _, fine in pairs)
        self.head = nn.Conv2d(channels[0], 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images, float (batch, 3, h, w) in [0, 1], to logits (batch, 2, h, w); sides divide by 2 a level."""
        y = (images - 0.5) / 0.25
        skips = []
        for level, block in enumerate(self.down):
            y = block(functional.max_pool2d(y, 2) if level else y)
            skips.append(y)
        skips.pop()
        for narrow, block in zip(self.narrow, self.up, strict=True):
            grown = functional.interpolate(narrow(y), scale_factor=2.0, mode="nearest")
            y = block(torch.cat([grown, skips.pop()], 1))
        return self.head(y)
