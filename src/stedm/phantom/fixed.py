"""Integer arithmetic that every CPU does alike: hashes, tables and lattice noise.

Nothing here uses floating point. Transcendental functions come from tables that the stdlib `decimal` module
computes in software and that are rounded to integers once.
"""

import hashlib
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from functools import cache

import numpy as np

NOISE_MAX = 4080
"""Largest value of `lattice_noise` and `table_noise`; the smallest is 0, the mean about 2040."""

ANGLES = 1024
"""Number of angles in a full turn of `sine_table`."""

TRIG_ONE = 4096
"""Fixed-point one of `sine_table`."""

_PI = Decimal("3.14159265358979323846264338327950288419716939937510")


def key(seed: int, *purpose: object) -> int:
    """Return a uint32 (as int) that stands for one stream of random numbers, from a seed and a purpose."""
    text = ":".join([str(int(seed)), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def mix(x: np.ndarray) -> np.ndarray:
    """Scramble a uint32 array (any shape) with a bijective avalanche hash; returns uint32, same shape."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x = x * np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


def hash2(stream: int, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """Random uint32 for every lattice point: ys (h,) and xs (w,) integers of any sign -> (h, w) uint32."""
    rows = mix(ys.astype(np.uint32) * np.uint32(0x9E3779B1) + np.uint32(stream))
    cols = xs.astype(np.uint32) * np.uint32(0x85EBCA77)
    return mix(rows[:, None] ^ cols[None, :])


@cache
def exp_table(size: int, unit: int, top: int) -> tuple[int, ...]:
    """Return round(top * exp(-k / unit)) for k in 0..size-1."""
    with localcontext() as ctx:
        ctx.prec = 40
        exact = ((Decimal(-k) / unit).exp() * top for k in range(size))
        return tuple(int(value.quantize(Decimal(1), rounding=ROUND_HALF_EVEN)) for value in exact)


def _sine(angle: Decimal) -> Decimal:
    term = total = angle
    for n in range(1, 24):
        term = -term * angle * angle / ((2 * n) * (2 * n + 1))
        total += term
    return total


@cache
def sine_table() -> tuple[int, ...]:
    """Return round(TRIG_ONE * sin(2 pi k / ANGLES)) for k in 0..ANGLES-1; the cosine is a quarter further."""
    with localcontext() as ctx:
        ctx.prec = 40
        quarter = [
            int((_sine(2 * _PI * k / ANGLES) * TRIG_ONE).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))
            for k in range(ANGLES // 4 + 1)
        ]
    rise, n = quarter, ANGLES // 4
    half = [rise[k] if k <= n else rise[2 * n - k] for k in range(2 * n)]
    return tuple(half + [-v for v in half])


def turn(angle: int) -> tuple[int, int]:
    """Return (cos, sin) of an angle in 1/ANGLES turns, in units of 1/TRIG_ONE."""
    table = sine_table()
    return table[(angle + ANGLES // 4) % ANGLES], table[angle % ANGLES]


@cache
def root_table(top: int) -> np.ndarray:
    """Return floor(sqrt(k)) for k in 0..top**2-1, read-only int16 of shape (top**2,)."""
    steps = np.arange(top, dtype=np.int16)
    table = np.repeat(steps, 2 * steps.astype(np.int64) + 1)
    table.setflags(write=False)
    return table


@cache
def _smoothstep() -> np.ndarray:
    t = np.arange(256, dtype=np.int64)
    table = ((3 * 256 * t * t - 2 * t * t * t) >> 16).astype(np.int32)
    table.setflags(write=False)
    return table


def _cells(points: np.ndarray, spacing: int) -> tuple[np.ndarray, np.ndarray]:
    index = points // spacing
    fraction = ((points - index * spacing) * 256) // spacing
    return index, _smoothstep()[fraction]


def lattice_noise(stream: int, ys: np.ndarray, xs: np.ndarray, spacing: int) -> np.ndarray:
    """Smooth value noise, random at lattice points `spacing` apart and interpolated between them.

    ys (h,) and xs (w,) are ascending int64 coordinates of any sign. Returns (h, w) int32 in 0..NOISE_MAX; the
    value at a coordinate does not depend on which other coordinates are asked for.
    """
    iy, wy = _cells(ys, spacing)
    ix, wx = _cells(xs, spacing)
    row0, col0 = int(iy[0]), int(ix[0])
    rows = np.arange(row0, int(iy[-1]) + 2)
    cols = np.arange(col0, int(ix[-1]) + 2)
    nodes = (hash2(stream, rows, cols) >> np.uint32(24)).astype(np.int32)
    iy, ix = iy - row0, ix - col0
    upper = nodes[iy]
    lines = ((upper << 8) + (nodes[iy + 1] - upper) * wy[:, None]) >> 4
    left = lines.take(ix, axis=1)
    delta = np.diff(lines, axis=1).take(ix, axis=1)
    delta *= wx[None, :]
    delta >>= 8
    left += delta
    return left


@cache
def noise_nodes(stream: int, side: int) -> np.ndarray:
    """Random int32 lattice (side, side) in 0..255, read-only, for `table_noise`; side is a power of two."""
    line = np.arange(side)
    nodes = (hash2(stream, line, line) >> np.uint32(24)).astype(np.int32)
    nodes.setflags(write=False)
    return nodes


def table_noise(nodes: np.ndarray, v: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Smooth value noise at free positions: v, u (h, w) int32 in 1/256 steps -> int32 in 0..NOISE_MAX.

    The lattice repeats after `len(nodes)` steps.
    """
    side = len(nodes)
    flat = nodes.reshape(-1)
    smooth = _smoothstep()
    wv, wu = smooth.take(v & 255), smooth.take(u & 255)
    top = ((v >> 8) & (side - 1)) * side
    below = ((v >> 8) + 1 & (side - 1)) * side
    left = (u >> 8) & (side - 1)
    right = (left + 1) & (side - 1)
    a, b = flat.take(top + left), flat.take(top + right)
    c, d = flat.take(below + left), flat.take(below + right)
    a = (a << 4) + ((b - a) * wu >> 4)
    c = (c << 4) + ((d - c) * wu >> 4)
    return a + ((c - a) * wv >> 8)


def binomial(plane: np.ndarray, passes: int) -> np.ndarray:
    """Blur an integer plane (h, w) with [1 2 1] / 4 along both axes, `passes` times, rounding half up.

    Each pass loses one row and column at every side: the result is (h - 2 passes, w - 2 passes), same dtype.
    """
    for _ in range(passes):
        plane = (plane[:-2] + plane[2:] + (plane[1:-1] << 1) + 2) >> 2
        plane = (plane[:, :-2] + plane[:, 2:] + (plane[:, 1:-1] << 1) + 2) >> 2
    return plane
