"""Segmenters: the small U-Net, and the choice of one by its name."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stedm.config import SegmenterConfig
from stedm.segmenter.layers import convolutions
from stedm.segmenter.mit import MitUNet, MixTransformer, load_mit

STEM = 2
"""Factor by which the first convolution halves, and the head enlarges by sub-pixels again."""


class SmallUNet(nn.Module):
    """Encoder and decoder with skips (Ronneberger 2015), batch norm, two classes.

    The finest resolution is half the image's, which costs a third of a U-Net at full resolution; the head
    gives each of its positions the logits of 2 × 2 pixels.

    Parameters
    ----------
    channels
        Widths, one a resolution; each next one has half the side.
    """

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels[0], 2 * STEM, stride=STEM, padding=STEM // 2)
        self.down = nn.ModuleList(
            convolutions(a, b) for a, b in zip([channels[0], *channels[:-1]], channels, strict=True)
        )
        pairs = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.narrow = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for coarse, fine in pairs)
        self.up = nn.ModuleList(convolutions(2 * fine, fine) for _, fine in pairs)
        self.head = nn.Conv2d(channels[0], 2 * STEM**2, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images, float (batch, 3, h, w) in [0, 1], to logits (batch, 2, h, w).

        Sides must be multiples of twice the number of resolutions' halvings.
        """
        skips = self.encode(images)
        y = skips.pop()
        for narrow, block in zip(self.narrow, self.up, strict=True):
            grown = functional.interpolate(narrow(y), scale_factor=2.0, mode="nearest")
            y = block(torch.cat([grown, skips.pop()], 1))
        return functional.pixel_shuffle(self.head(y), STEM)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the encoder's features of images, float (batch, 3, h, w) in [0, 1], finest resolution first."""
        y = self.stem((images - 0.5) / 0.25)
        features = []
        for level, block in enumerate(self.down):
            y = block(functional.max_pool2d(y, 2) if level else y)
            features.append(y)
        return features


def build_segmenter(config: SegmenterConfig) -> nn.Module:
    """Build the segmenter that a configuration names, its encoder with published weights where it gives a path."""
    if config.network == "small":
        return SmallUNet(config.channels)
    network = MitUNet(MixTransformer())
    if config.path is not None:
        load_mit(network.encoder, config.path)
    return network
