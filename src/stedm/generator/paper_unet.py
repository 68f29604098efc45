"""The paper's U-Net: that of latent diffusion's landscape model, with layout and style.

Architecture and tensor names are those of the model for semantic synthesis published with Rombach 2022
(arXiv 2112.10752): 6 channels in, 3 out, 128 × (1, 4, 8), two residual blocks a resolution, attention of
eight heads at factors 8 to 32 and in the middle, which with three resolutions is the middle alone.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from stedm.layers import Grow
from stedm.weights import load_exactly, read_tensors

PREFIX = "model.diffusion_model."
"""What stands before the U-Net's tensors in a checkpoint of latent diffusion."""
NEW = ("layout.", "null_layout", "style_block.")
"""Tensors that the landscape model has not; its layout has 182 classes."""
HEADS, GROUPS, PERIOD = 8, 32, 10_000


class ResidualBlock(nn.Module):
    """Two convolutions, each after a group norm and SiLU, with a vector added between them.

    Parameters
    ----------
    width_in, width
        Channels.
    condition
        Length of the vector.
    """

    def __init__(self, width_in: int, width: int, condition: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, width_in), nn.SiLU(), nn.Conv2d(width_in, width, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(condition, width))
        # The published dropout is 0; its place keeps the names.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Identity(), _zero(nn.Conv2d(width, width, 3, padding=1))
        )
        self.skip_connection = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (batch, width_in, h, w) and (batch, condition) to (batch, width, h, w)."""
        y = self.in_layers(x) + self.emb_layers(condition)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(y)


class Attention(nn.Module):
    """Self-attention over all positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = _zero(nn.Conv1d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, h, w) to the same shape."""
        # The published weights hold query, key and value of one head after another.
        heads = self.qkv(self.norm(x).flatten(2)).unflatten(1, (HEADS, 3, -1)).transpose(3, 4)
        y = functional.scaled_dot_product_attention(*heads.unbind(2))
        return x + self.proj_out(y.transpose(2, 3).flatten(1, 2)).view_as(x)


class Shrink(nn.Module):
    """Half the side by a strided convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, h, w) to (batch, width, h / 2, w / 2)."""
        return self.op(x)


class PaperUNet(nn.Module):
    """See the module; takes the place of :class:`~stedm.generator.unet.UNet`.

    The layout, one-hot, is averaged to the latent's resolution (the published bilinear halvings are means of
    four) and mapped to as many channels as the latent has by a 1 × 1 convolution; a learned vector stands in
    for no layout. The style enters one residual block at the bottleneck, before the attention.

    Parameters
    ----------
    latent
        Channels of the latent.
    factor
        Side of a latent position in pixels of the layout.
    channels
        Widths, one a resolution; multiples of 32.
    blocks
        Residual blocks a resolution.
    style
        Length of the style vector.
    """

    def __init__(self, *, latent: int, factor: int, channels: list[int], blocks: int, style: int) -> None:
        super().__init__()
        first, condition = channels[0], 4 * channels[0]
        self.factor = factor
        self.layout = nn.Conv2d(2, latent, 1, bias=False)
        self.null_layout = nn.Parameter(torch.zeros(latent))
        exponents = torch.arange(first // 2) / (first // 2)
        self.register_buffer("frequencies", torch.exp(-math.log(PERIOD) * exponents), persistent=False)
        self.time_embed = nn.Sequential(nn.Linear(first, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(2 * latent, first, 3, padding=1)])])
        width, skips = first, [first]
        for level, target in enumerate(channels):
            for _ in range(blocks):
                self.input_blocks.append(nn.ModuleList([ResidualBlock(width, target, condition)]))
                width = target
                skips.append(width)
            if level < len(channels) - 1:
                self.input_blocks.append(nn.ModuleList([Shrink(width)]))
                skips.append(width)
        middle = [ResidualBlock(width, width, condition), Attention(width), ResidualBlock(width, width, condition)]
        self.middle_block = nn.ModuleList(middle)
        self.style_block = ResidualBlock(width, width, style)
        self.output_blocks = nn.ModuleList()
        for level, target in reversed(list(enumerate(channels))):
            for n in range(blocks + 1):
                stage = nn.ModuleList([ResidualBlock(width + skips.pop(), target, condition)])
                width = target
                if level and n == blocks:
                    stage.append(Grow(width))
                self.output_blocks.append(stage)
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, first), nn.SiLU(), _zero(nn.Conv2d(first, latent, 3, padding=1)))

    def forward(self, x: Tensor, noise: Tensor, style: Tensor, layout: Tensor, has_layout: Tensor) -> Tensor:
        """Run the network.

        Parameters
        ----------
        x
            Noisy latent, (batch, latent, h, w).
        noise
            Timestep in [0, 1000), or another noise level of that range, (batch,).
        style
            Style vectors, (batch, style).
        layout
            1 where foreground, else 0; float (batch, 1, h × factor, w × factor).
        has_layout
            Where False, the learned null layout stands in; bool (batch,).
        """
        angles = noise[:, None] * self.frequencies
        condition = self.time_embed(torch.cat([angles.cos(), angles.sin()], 1))
        share = functional.avg_pool2d(layout, self.factor)
        drawn = self.layout(torch.cat([1 - share, share], 1))
        drawn = torch.where(has_layout[:, None, None, None], drawn, self.null_layout[:, None, None])
        y = torch.cat([x, drawn], 1)
        skips = []
        for stage in self.input_blocks:
            y = _run(stage, y, condition)
            skips.append(y)
        before, attention, after = self.middle_block
        y = self.style_block(before(y, condition), style)
        y = after(attention(y), condition)
        for stage in self.output_blocks:
            y = _run(stage, torch.cat([y, skips.pop()], 1), condition)
        return self.out(y)


def _run(stage: nn.ModuleList, x: Tensor, condition: Tensor) -> Tensor:
    for layer in stage:
        x = layer(x, condition) if isinstance(layer, ResidualBlock) else layer(x)
    return x


def _zero(layer: nn.Module) -> nn.Module:
    """Start a layer at zero, as published: a residual branch is silent at first."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def load_landscape(unet: PaperUNet, path: Path) -> None:
    """Start from a checkpoint of latent diffusion; only the tensors of :data:`NEW` keep their values.

    First stage, condition, schedule and averages, which such a file holds beside the U-Net, are not taken.

    Raises
    ------
    UserError
        If a tensor of the U-Net is missing, surplus or of another shape.
    """
    tensors = {name: tensor for name, tensor in read_tensors(path).items() if name.startswith(PREFIX)}
    load_exactly(unet, tensors, path, prefix=PREFIX, new=NEW)
