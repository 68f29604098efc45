"""The convolutional autoencoder of latent diffusion, quantised (VQ) or Gaussian (KL).

Architecture and tensor names are those of the models published with Rombach 2022, "High-Resolution Image
Synthesis with Latent Diffusion Models" (arXiv 2112.10752, appendix G), without attention beside the middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from stedm.generator.latents import kept_variance
from stedm.layers import Grow

NEAREST_ROWS = 4096
"""Positions whose distances to all codes are held at once."""


@dataclass(frozen=True)
class AutoencoderShape:
    """What decides the tensors of an autoencoder and the units of its latents; by default the published VQ-f4."""

    widths: tuple[int, ...] = (128, 256, 512)
    """One a resolution; each next one has half the side."""
    blocks: int = 2
    """Residual blocks a resolution of the encoder; the decoder has one more."""
    latent: int = 3
    """Channels of a latent."""
    codes: int | None = 8192
    """Entries of the codebook; None for a KL autoencoder."""
    attention: bool = True
    """Attention between the two middle blocks."""
    groups: int = 32
    """Groups of each group norm."""
    quant_conv: bool = True
    """A 1 × 1 convolution after the encoder."""
    post_quant_conv: bool = True
    """A 1 × 1 convolution before the decoder."""
    scale: float = 1.0
    """Latents are the encoder's output less `shift`, divided by this."""
    shift: float = 0.0
    """See `scale`."""


VQ_F4 = AutoencoderShape()
"""The paper's first stage: factor 4, 8192 codes, 3 channels; latents are not scaled."""


class ResidualBlock(nn.Module):
    """Two convolutions, each after a group norm and SiLU, around a skip."""

    def __init__(self, width_in: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width_in, eps=1e-6)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width, eps=1e-6)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        if width_in != width:
            self.nin_shortcut = nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width_in, h, w) to (batch, width, h, w)."""
        y = self.conv1(functional.silu(self.norm1(x)))
        y = self.conv2(functional.silu(self.norm2(y)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + y


class Attention(nn.Module):
    """Self-attention of one head over all positions."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.q, self.k, self.v = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, h, w) to the same shape."""
        y = self.norm(x)
        q, k, v = (part(y).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        y = functional.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(y[:, 0].transpose(1, 2).reshape(x.shape))


class Shrink(nn.Module):
    """Half the side by a strided convolution, padded below and on the right only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, h, w) to (batch, width, h / 2, w / 2)."""
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Middle(nn.Module):
    """The coarsest resolution."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        width = shape.widths[-1]
        self.block_1 = ResidualBlock(width, width, shape.groups)
        if shape.attention:
            self.attn_1 = Attention(width, shape.groups)
        self.block_2 = ResidualBlock(width, width, shape.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, h, w) to the same shape."""
        y = self.block_1(x)
        return self.block_2(self.attn_1(y) if hasattr(self, "attn_1") else y)


class Level(nn.Module):
    """The residual blocks of one resolution, and a change to the next."""

    def __init__(self, widths: list[int], groups: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(a, b, groups) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, widths[0], h, w) to (batch, widths[-1], h', w')."""
        for block in self.block:
            x = block(x)
        for change in ("downsample", "upsample"):
            if hasattr(self, change):
                x = getattr(self, change)(x)
        return x


class Encoder(nn.Module):
    """Images to what the latent is made from."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        widths, groups = shape.widths, shape.groups
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for n, (before, width) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            level = Level([before, *[width] * shape.blocks], groups)
            if n < len(widths) - 1:
                level.downsample = Shrink(width)
            self.down.append(level)
        self.mid = Middle(shape)
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], shape.latent * (1 if shape.codes else 2), 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Map (batch, 3, h, w) to (batch, latent or 2 latent, h / factor, w / factor)."""
        y = self.conv_in(images)
        for level in self.down:
            y = level(y)
        return self.conv_out(functional.silu(self.norm_out(self.mid(y))))


class Decoder(nn.Module):
    """Latents to images."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        widths, groups = shape.widths, shape.groups
        self.conv_in = nn.Conv2d(shape.latent, widths[-1], 3, padding=1)
        self.mid = Middle(shape)
        self.up = nn.ModuleList()
        for n, (before, width) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True)):
            level = Level([before, *[width] * (shape.blocks + 1)], groups)
            if n:
                level.upsample = Grow(width)
            self.up.append(level)
        self.norm_out = nn.GroupNorm(groups, widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Map (batch, latent, h, w) to (batch, 3, h × factor, w × factor)."""
        y = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            y = level(y)
        return self.conv_out(functional.silu(self.norm_out(y)))


class Codebook(nn.Module):
    """Vector quantisation (van den Oord 2017, arXiv 1711.00937)."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)

    def forward(self, latents: Tensor) -> Tensor:
        """Replace each position of latents, (batch, channels, h, w), by the nearest code (Euclid)."""
        return self.embedding.weight[self.nearest(latents)].movedim(-1, 1)

    def nearest(self, latents: Tensor) -> Tensor:
        """Return the number of the nearest code at each position, (batch, h, w)."""
        codes = self.embedding.weight
        rows = latents.movedim(1, -1).flatten(0, 2)
        squares = codes.pow(2).sum(1)
        # |z − e|² less |z|², which no code changes.
        nearest = [torch.addmm(squares, part, codes.T, alpha=-2).argmin(1) for part in rows.split(NEAREST_ROWS)]
        return torch.cat(nearest).unflatten(0, latents[:, 0].shape)


class Autoencoder(nn.Module):
    """A first stage (see :class:`~stedm.generator.latents.FirstStage`) with published weights.

    As in latent diffusion, latents are taken before quantisation, which is the first step of decoding; of a
    KL autoencoder they are the posterior's mean.

    Parameters
    ----------
    shape
        Its architecture.
    """

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.channels, self.factor = shape.latent, 2 ** (len(shape.widths) - 1)
        self.register_buffer("scale", torch.full((shape.latent,), shape.scale), persistent=False)
        self.encoder = Encoder(shape)
        self.decoder = Decoder(shape)
        moments = shape.latent * (1 if shape.codes else 2)
        if shape.codes:
            self.quantize = Codebook(shape.codes, shape.latent)
        if shape.quant_conv:
            self.quant_conv = nn.Conv2d(moments, moments, 1)
        if shape.post_quant_conv:
            self.post_quant_conv = nn.Conv2d(shape.latent, shape.latent, 1)

    def fit(self, images: Tensor) -> float:
        """Return the share of the variance of `images` that a round trip keeps; nothing is fitted."""
        return kept_variance(self, images)

    def encode(self, images: Tensor) -> Tensor:
        """See :meth:`FirstStage.encode`."""
        return (self.moments(images)[:, : self.channels] - self.shape.shift) / self.shape.scale

    def decode(self, latents: Tensor) -> Tensor:
        """See :meth:`FirstStage.decode`."""
        y = latents * self.shape.scale + self.shape.shift
        return self.reconstruct(self.quantize(y) if self.shape.codes else y)

    def moments(self, images: Tensor) -> Tensor:
        """Return what the encoder says of images, in its own units.

        Latents before quantisation, (batch, latent, h, w), or of a KL autoencoder the posterior's mean and the
        logarithm of its variance, (batch, 2 latent, h, w).
        """
        y = self.encoder(images)
        return self.quant_conv(y) if self.shape.quant_conv else y

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Map latents in the encoder's own units, of a VQ autoencoder quantised ones, to images."""
        return self.decoder(self.post_quant_conv(latents) if self.shape.post_quant_conv else latents)
