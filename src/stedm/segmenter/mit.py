"""U-Net with the Mix Transformer encoder of SegFormer (Xie 2021, arXiv 2105.15203).

The encoder's tensors are named and shaped as transformers' ``SegformerModel`` publishes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from stedm.layers import ImageNetNorm, StochasticDepth
from stedm.segmenter.layers import convolutions
from stedm.weights import load_exactly, read_tensors, without

WIDTHS, DEPTHS, HEADS, REDUCTIONS = (64, 128, 320, 512), (3, 4, 6, 3), (1, 2, 5, 8), (8, 4, 2, 1)
"""MiT-B2, a value for each of the four resolutions (paper, table 6)."""
DROP = 0.1
"""Stochastic depth of the last block, rising to it from 0."""
DECODER = (256, 128, 64, 32, 16)
"""Widths of the decoder from the coarsest resolution, those of the paper's segmenter."""
CLASSIFIER = ("classifier.",)
"""The published classifier of ImageNet, which has no place in a segmenter."""


class PatchEmbedding(nn.Module):
    """Overlapping patches to tokens."""

    def __init__(self, width_in: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(width_in, width, kernel, stride=stride, padding=kernel // 2)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width_in, h, w) to (batch, h', w', width)."""
        return self.layer_norm(self.proj(x).movedim(1, -1))


class SelfAttention(nn.Module):
    """Attention to keys and values of a reduced resolution (equation 2)."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, stride=reduction)
            self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, h, w, width) to the same shape."""
        seen = self.layer_norm(self.sr(x.movedim(-1, 1)).movedim(1, -1)) if hasattr(self, "sr") else x
        pairs = ((self.query, x), (self.key, seen), (self.value, seen))
        q, k, v = (part(y).flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part, y in pairs)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)


class Attention(nn.Module):
    """Attention and the map of its result."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.self = SelfAttention(width, heads, reduction)
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, h, w, width) to the same shape."""
        return self.output["dense"](self.self(x))


class MixFFN(nn.Module):
    """Two layers with a convolution a channel between them, which tells positions apart (equation 3)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.dense1 = nn.Linear(width, hidden)
        self.dwconv = nn.ModuleDict({"dwconv": nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)})
        self.dense2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, h, w, width) to the same shape."""
        y = self.dwconv["dwconv"](self.dense1(x).movedim(-1, 1)).movedim(1, -1)
        return self.dense2(functional.gelu(y))


class Block(nn.Module):
    """Attention and Mix-FFN, each on normalised tokens around a skip."""

    def __init__(self, width: int, heads: int, reduction: int, drop: float) -> None:
        super().__init__()
        self.layer_norm_1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, reduction)
        self.drop_path = StochasticDepth(drop)
        self.layer_norm_2 = nn.LayerNorm(width)
        self.mlp = MixFFN(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, h, w, width) to the same shape."""
        x = x + self.drop_path(self.attention(self.layer_norm_1(x)))
        return x + self.drop_path(self.mlp(self.layer_norm_2(x)))


class MixTransformer(nn.Module):
    """Encoder with four resolutions, from a quarter of the image's side down.

    Parameters
    ----------
    widths, depths, heads, reductions
        Channels, blocks, heads and reduction of keys of each resolution.
    """

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        depths: Sequence[int] = DEPTHS,
        heads: Sequence[int] = HEADS,
        reductions: Sequence[int] = REDUCTIONS,
    ) -> None:
        super().__init__()
        rates = iter(torch.linspace(0, DROP, sum(depths), device="cpu").tolist())
        self.widths = tuple(widths)
        self.patch_embeddings, self.block, self.layer_norm = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        levels = zip([3, *widths], widths, depths, heads, reductions, strict=False)
        for level, (width_in, width, depth, count, reduction) in enumerate(levels):
            kernel, stride = (3, 2) if level else (7, 4)
            self.patch_embeddings.append(PatchEmbedding(width_in, width, kernel, stride))
            self.block.append(nn.ModuleList(Block(width, count, reduction, next(rates)) for _ in range(depth)))
            self.layer_norm.append(nn.LayerNorm(width))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images, (batch, 3, h, w), to features of a 4th, 8th, 16th and 32nd of the side."""
        features, y = [], images
        for embedding, blocks, norm in zip(self.patch_embeddings, self.block, self.layer_norm, strict=True):
            y = embedding(y)
            for block in blocks:
                y = block(y)
            y = norm(y).movedim(-1, 1)
            features.append(y)
        return features


class MitUNet(nn.Module):
    """U-Net (Ronneberger 2015) whose encoder is a Mix Transformer; batch norm in the decoder, two classes.

    Parameters
    ----------
    encoder
        The encoder; MiT-B2 in the paper.
    """

    def __init__(self, encoder: MixTransformer) -> None:
        super().__init__()
        self.normalise = ImageNetNorm()
        self.encoder = encoder
        # The two finest resolutions of the decoder have no features of the encoder beside them.
        skips = [*encoder.widths[-2::-1], 0, 0]
        self.up = nn.ModuleList(
            convolutions(width + skip, target)
            for width, skip, target in zip([encoder.widths[-1], *DECODER], skips, DECODER, strict=False)
        )
        self.head = nn.Conv2d(DECODER[-1], 2, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images, float (batch, 3, h, w) in [0, 1], sides multiples of 4 from 32 on, to logits (batch, 2, h, w)."""
        *skips, y = self.encoder(self.normalise(images))
        for block in self.up:
            if skips:
                skip = skips.pop()
                y = torch.cat([functional.interpolate(y, size=skip.shape[-2:], mode="nearest"), skip], 1)
            else:
                y = functional.interpolate(y, scale_factor=2.0, mode="nearest")
            y = block(y)
        return self.head(y)


def load_mit(encoder: MixTransformer, path: Path) -> None:
    """Put in the published weights, of the encoder alone or of the classifier of ImageNet, whose head is left out.

    Raises
    ------
    UserError
        If a tensor is missing, surplus or of another shape.
    """
    tensors = without(read_tensors(path), *CLASSIFIER)
    classified = any(name.startswith("segformer.") for name in tensors)
    load_exactly(encoder, tensors, path, prefix="segformer.encoder." if classified else "encoder.")
