"""Swin Transformer V2 (Liu 2022, arXiv 2111.09883), tensors named and shaped as torchvision publishes them."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from stedm.layers import ImageNetNorm, StochasticDepth
from stedm.weights import load_exactly, read_tensors, without

WINDOW, PATCH = 8, 4
CLASSIFIER = ("head.",)
"""The published classifier of ImageNet, which has no place in a style encoder."""
APART = -100.0
"""Added to the logits of positions that the cyclic shift brought together; not −∞, as in the published network."""


class WindowAttention(nn.Module):
    """Scaled cosine attention in shifted windows, with a continuous relative position bias (sections 3.2, 3.3).

    Parameters
    ----------
    width
        Channels.
    heads
        Heads.
    shift
        Cyclic shift of the windows in positions.
    """

    def __init__(self, width: int, heads: int, shift: int) -> None:
        super().__init__()
        self.heads, self.shift = heads, shift
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False))
        # Equation 4: log-spaced offsets, normalised so that the window's edge is at 1.
        offset = 8 * torch.arange(1 - WINDOW, WINDOW) / (WINDOW - 1)
        offset = offset.sign() * torch.log2(offset.abs() + 1) / math.log2(8)
        table = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), -1)
        self.register_buffer("relative_coords_table", table[None])
        place = torch.cartesian_prod(torch.arange(WINDOW), torch.arange(WINDOW))
        apart = place[:, None] - place[None] + WINDOW - 1
        self.register_buffer("relative_position_index", (apart[..., 0] * (2 * WINDOW - 1) + apart[..., 1]).flatten())

    def bias(self) -> Tensor:
        """Return the position bias, (heads, WINDOW², WINDOW²), in (0, 16)."""
        values = self.cpb_mlp(self.relative_coords_table).view(-1, self.heads)[self.relative_position_index]
        return 16 * values.view(WINDOW**2, WINDOW**2, self.heads).permute(2, 0, 1).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, h, w, width) to the same shape; the edge is padded with zeros to whole windows."""
        batch, h, w, width = x.shape
        x = functional.pad(x, (0, 0, 0, -w % WINDOW, 0, -h % WINDOW))
        sides = x.shape[1:3]
        shifts = [self.shift if side > WINDOW else 0 for side in sides]
        x = x.roll([-shift for shift in shifts], (1, 2))
        windows = _windows(x)
        # Keys have no bias: it would shift all logits of a query alike before they are normalised.
        q_bias, _, v_bias = self.qkv.bias.chunk(3)
        bias = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
        qkv = functional.linear(windows, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)
        cosine = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-1, -2)
        logits = cosine * self.logit_scale.clamp(max=math.log(100)).exp() + self.bias()
        if any(shifts):
            logits = logits + self._mask(sides, shifts, x.device)[:, None]
        y = self.proj((logits.softmax(-1) @ v).transpose(2, 3).flatten(3))
        rows, columns = (side // WINDOW for side in sides)
        y = y.view(batch, rows, columns, WINDOW, WINDOW, width).transpose(2, 3).reshape(x.shape)
        return y.roll(shifts, (1, 2))[:, :h, :w]

    @staticmethod
    def _mask(sides: torch.Size, shifts: list[int], device: torch.device) -> Tensor:
        """Return what is added to the logits, (windows, WINDOW², WINDOW²)."""
        regions = []
        for side, shift in zip(sides, shifts, strict=True):
            place = torch.arange(side, device=device)
            regions.append((place >= side - WINDOW).int() + (place >= side - shift).int() if shift else 0 * place)
        region = _windows((3 * regions[0][:, None] + regions[1])[None, :, :, None])[0, :, :, 0]
        return APART * (region[:, :, None] != region[:, None])


def _windows(x: Tensor) -> Tensor:
    """Cut (batch, h, w, width) into (batch, windows, WINDOW², width)."""
    x = x.unflatten(1, (-1, WINDOW)).unflatten(3, (-1, WINDOW)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)


class Block(nn.Module):
    """Attention and a network of two layers, each normalised before it is added (section 3.2)."""

    def __init__(self, width: int, heads: int, shift: int, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, shift)
        self.norm2 = nn.LayerNorm(width)
        # The published dropout is 0; its place keeps the names.
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Identity(), nn.Linear(4 * width, width))
        self.stochastic_depth = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, h, w, width) to the same shape."""
        x = x + self.stochastic_depth(self.norm1(self.attn(x)))
        return x + self.stochastic_depth(self.norm2(self.mlp(x)))


class Merge(nn.Module):
    """Half the side, twice the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, h, w, width) to (batch, ⌈h / 2⌉, ⌈w / 2⌉, 2 width)."""
        x = functional.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.norm(self.reduction(torch.cat(parts, -1)))


class _ChannelsLast(nn.Module):
    """Move channels behind positions; has no tensors and keeps the published numbering."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1)


class SwinV2(nn.Module):
    """Swin V2 as an encoder of one image; the defaults are the tiny model of the paper's table.

    Parameters
    ----------
    width
        Channels of the first resolution; each next one has twice as many.
    depths, heads
        Blocks and heads of each resolution.
    drop
        Stochastic depth of the last block, rising to it from 0.
    """

    def __init__(
        self,
        width: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24),
        drop: float = 0.2,
    ) -> None:
        super().__init__()
        self.normalise = ImageNetNorm()
        embed = nn.Sequential(nn.Conv2d(3, width, PATCH, stride=PATCH), _ChannelsLast(), nn.LayerNorm(width))
        rates = iter(torch.linspace(0, drop, sum(depths), device="cpu").tolist())
        layers: list[nn.Module] = [embed]
        for level, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            if level:
                layers.append(Merge(width))
                width *= 2
            shifts = [WINDOW // 2 * (n % 2) for n in range(depth)]
            layers.append(nn.Sequential(*(Block(width, count, shift, next(rates)) for shift in shifts)))
        self.features = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width)
        self.width = width
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images, float (batch, 3, side, side) in [−1, 1], to vectors (batch, width)."""
        return self.norm(self.features(self.normalise((images + 1) / 2))).mean((1, 2))


def load_swin(encoder: SwinV2, path: Path) -> None:
    """Put in torchvision's published weights, without the classifier.

    Raises
    ------
    UserError
        If a tensor is missing, surplus or of another shape.
    """
    load_exactly(encoder, without(read_tensors(path), *CLASSIFIER), path)
