"""Aggregations: from a set of style vectors, or style images, to one style vector."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from stedm.errors import UserError


def _check_count(found: int, expected: int, what: str) -> None:
    if found != expected:
        raise UserError(
            f"generator.style.count: {found} style images, but the aggregation {what!r} was built for {expected}; "
            "give as many, or take mean, max or set, which take any number."
        )


class PooledAggregation(nn.Module):
    """The mean or the maximum over the set, normalised and mapped; any set size, any order."""

    def __init__(self, dim: int, pool: Literal["mean", "max"]) -> None:
        super().__init__()
        self.pool = pool
        self.norm = nn.LayerNorm(dim)
        self.map = nn.Linear(dim, dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (batch, count, dim) to (batch, dim)."""
        pooled = vectors.mean(1) if self.pool == "mean" else vectors.amax(1)
        return self.map(self.norm(pooled))


class LinearAggregation(nn.Module):
    """The vectors side by side through two linear layers; one set size, in order.

    As in the paper, but for a last ReLU, through which an entry that starts below zero would never learn.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.map = nn.Sequential(nn.ReLU(), nn.Linear(count * dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (batch, count, dim) to (batch, dim).

        Raises
        ------
        UserError
            If the set has another size.
        """
        _check_count(vectors.shape[1], self.count, "linear")
        return self.map(vectors.flatten(1))


class Attention(nn.Module):
    """Self-attention of tokens.

    Parameters
    ----------
    dim
        Length of a token.
    heads, head
        Number of heads, and the length of one.
    local
        A token does not see itself and the temperature is learned (Lee 2021, arXiv 2112.13492, section 3.2).
    """

    def __init__(self, dim: int, heads: int, head: int, *, local: bool) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.tensor(-0.5 * math.log(head))) if local else None
        self.qkv = nn.Linear(dim, 3 * heads * head, bias=False)
        self.out = nn.Linear(heads * head, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, dim) to the same shape."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.temperature is None:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            others = ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
            scaled = q * self.temperature.exp()
            y = functional.scaled_dot_product_attention(scaled, k, v, attn_mask=others, scale=1.0)
        return self.out(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and a network of two layers, each on normalised tokens around a skip."""

    def __init__(self, dim: int, heads: int, head: int, hidden: int, *, local: bool = False, drop: float = 0) -> None:
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(dim), Attention(dim, heads, head, local=local), nn.Dropout(drop))
        self.map = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim), nn.Dropout(drop)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, dim) to the same shape."""
        x = x + self.attend(x)
        return x + self.map(x)


class SetAggregation(nn.Module):
    """A small transformer over the vectors and one learned token, which becomes the style vector.

    Vectors have no positions (Lee 2019, "Set Transformer", arXiv 1810.00825): any set size, any order.
    """

    def __init__(self, dim: int, depth: int = 2, head: int = 32) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(dim) * 0.02)
        heads = max(1, dim // head)
        self.layers = nn.Sequential(*(Layer(dim, heads, head, 2 * dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.map = nn.Linear(dim, dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (batch, count, dim) to (batch, dim)."""
        token = self.token.expand(len(vectors), 1, -1)
        return self.map(self.norm(self.layers(torch.cat([token, vectors], 1))[:, 0]))


class SetViT(nn.Module):
    """The paper's `svit`: a vision transformer on raw patches of the set's images, stacked in channels.

    It takes the place of encoder and aggregation, is bound to one set size and image side, and depends on
    the order of the set: kept as the paper has it, without the token for a time that the released code leaves
    at zero.

    Parameters
    ----------
    dim
        Length of the style vector.
    count, side
        Images of a set, and their side in pixels; a multiple of 8.
    """

    PATCH, WIDTH, DEPTH, HEADS, HEAD, DROP = 8, 256, 6, 12, 64, 0.1

    def __init__(self, dim: int, count: int, side: int) -> None:
        super().__init__()
        self.count = count
        values = 3 * count * self.PATCH**2
        self.embed = nn.Sequential(nn.LayerNorm(values), nn.Linear(values, self.WIDTH))
        self.token = nn.Parameter(torch.randn(1, 1, self.WIDTH))
        self.positions = nn.Parameter(torch.randn((side // self.PATCH) ** 2 + 1, self.WIDTH))
        self.drop = nn.Dropout(self.DROP)
        sizes = (self.WIDTH, self.HEADS, self.HEAD, self.WIDTH)
        self.layers = nn.Sequential(*(Layer(*sizes, local=True, drop=self.DROP) for _ in range(self.DEPTH)))
        self.head = nn.Sequential(nn.LayerNorm(self.WIDTH), nn.Linear(self.WIDTH, dim))

    def forward(self, images: Tensor) -> Tensor:
        """Map images, float (batch, count, 3, side, side) in [−1, 1], to (batch, dim).

        Raises
        ------
        UserError
            If the set has another size.
        """
        _check_count(images.shape[1], self.count, "svit")
        patches = functional.pixel_unshuffle(images.flatten(1, 2), self.PATCH).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), self.embed(patches)], 1)
        return self.head(self.layers(self.drop(tokens + self.positions)).mean(1))
