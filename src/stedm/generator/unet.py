"""The denoising U-Net: layout concatenated to the latent, style and noise level in every block."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def groups(channels: int) -> int:
    """Return the number of groups of a group norm: groups of at least four channels, at most 16 of them."""
    return math.gcd(channels, min(16, max(1, channels // 4)))


class Block(nn.Module):
    """A residual block whose activations are scaled and shifted by the condition (FiLM, Perez 2018)."""

    def __init__(self, width_in: int, width: int, condition: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups(width_in), width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.film = nn.Linear(condition, 2 * width)
        self.norm2 = nn.GroupNorm(groups(width), width, affine=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (batch, width_in, h, w) and (batch, condition) to (batch, width, h, w)."""
        y = self.conv1(functional.silu(self.norm1(x)))
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, 1)
        y = self.conv2(functional.silu(self.norm2(y) * (1 + scale) + shift))
        return self.skip(x) + y


class Attention(nn.Module):
    """Self-attention over the positions of the coarsest resolution."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups(width), width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, h, w) to the same shape."""
        batch, width, h, w = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, 3, self.heads, width // self.heads, h * w).transpose(3, 4)
        y = functional.scaled_dot_product_attention(*qkv.unbind(1))
        return x + self.out(y.transpose(2, 3).reshape(batch, width, h, w))


class UNet(nn.Module):
    """A network F(x, noise, style, layout) for the preconditioning of :mod:`stedm.generator.denoiser`.

    Parameters
    ----------
    latent
        Channels of the latent.
    factor
        Side of a latent position in pixels of the layout.
    channels
        Widths, one a resolution.
    blocks
        Residual blocks a resolution.
    style
        Length of the style vector.
    """

    def __init__(self, *, latent: int, factor: int, channels: list[int], blocks: int, style: int) -> None:
        super().__init__()
        condition = 2 * channels[-1]
        self.factor = factor
        self.frequencies = nn.Buffer(torch.exp(torch.linspace(math.log(0.25), math.log(8), 32)))
        self.noise = nn.Sequential(nn.Linear(64, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.style = nn.Linear(style, condition)
        self.mean = nn.Linear(latent, condition)
        self.mix = nn.Linear(condition, condition)
        self.layout = nn.Conv2d(factor**2, latent, 1)
        self.null_layout = nn.Parameter(torch.zeros(latent))
        self.first = nn.Conv2d(4 * latent, channels[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        width = channels[0]
        skips = [width]
        for level, target in enumerate(channels):
            stage = nn.ModuleList()
            for _ in range(blocks):
                stage.append(Block(width, target, condition))
                width = target
                skips.append(width)
            self.down.append(stage)
            if level < len(channels) - 1:
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        self.middle = nn.ModuleList([Block(width, width, condition), Block(width, width, condition)])
        self.attention = Attention(width)
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, target in reversed(list(enumerate(channels))):
            stage = nn.ModuleList()
            for _ in range(blocks + 1):
                stage.append(Block(width + skips.pop(), target, condition))
                width = target
            self.up.append(stage)
            if level:
                self.grow.append(nn.Conv2d(width, channels[level - 1], 3, padding=1))
                width = channels[level - 1]
        self.last_norm = nn.GroupNorm(groups(width), width)
        self.last = nn.Conv2d(width, latent, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.tint = nn.Linear(style, 2 * latent)
        self.linear = nn.Linear(condition, 8 * latent)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, noise: Tensor, style: Tensor, layout: Tensor, has_layout: Tensor) -> Tensor:
        """Run the network.

        Parameters
        ----------
        x
            Scaled noisy latent, (batch, latent, h, w).
        noise
            Noise level as the preconditioning gives it, (batch,).
        style
            Style vectors, (batch, style).
        layout
            1 where foreground, else 0; float (batch, 1, h × factor, w × factor).
        has_layout
            Where False, the learned null layout stands in; bool (batch,).
        """
        angles = noise[:, None] * self.frequencies
        embedded = self.noise(torch.cat([angles.cos(), angles.sin()], 1))
        mean = x.mean((2, 3), keepdim=True)
        embedded = embedded + self.style(style) + self.mean(4 * mean.flatten(1))
        condition = functional.silu(self.mix(functional.silu(embedded)))
        drawn = self.layout(functional.pixel_unshuffle(2 * layout - 1, self.factor))
        drawn = torch.where(has_layout[:, None, None, None], drawn, self.null_layout[:, None, None])
        fine, smooth = _smoothed(x, 3), _smoothed(x, 5)
        y = self.first(torch.cat([x, 1.5 * fine, 2 * smooth, drawn], 1))
        skips = [y]
        for level, stage in enumerate(self.down):
            for block in stage:
                y = block(y, condition)
                skips.append(y)
            if level < len(self.shrink):
                y = self.shrink[level](y)
                skips.append(y)
        y = self.middle[1](self.attention(self.middle[0](y, condition)), condition)
        for level, stage in enumerate(self.up):
            for block in stage:
                y = block(torch.cat([y, skips.pop()], 1), condition)
            if level < len(self.grow):
                y = functional.interpolate(self.grow[level](y), scale_factor=2.0, mode="nearest")
        share = functional.avg_pool2d(layout, self.factor) * has_layout[:, None, None, None]
        gains = self.linear(condition)[:, :, None, None].chunk(8, 1)
        everywhere, inside = self.tint(style)[:, :, None, None].chunk(2, 1)
        # Most of a stain's colour is one value over a tile. A narrow network with group norms learns to pass the
        # input through, to average it, and to tint it by the style only late in training; these products of a gain
        # a channel, which follows the condition, learn it at once: a Wiener filter, and the colours of a style.
        shortcuts = (x, fine, smooth, mean, torch.ones_like(mean), share, everywhere, inside * share)
        filtered = sum(gain * part for gain, part in zip(gains, shortcuts, strict=True))
        return self.last(functional.silu(self.last_norm(y))) + filtered


def _smoothed(x: Tensor, side: int) -> Tensor:
    return functional.avg_pool2d(x, side, stride=1, padding=side // 2, count_include_pad=False)
