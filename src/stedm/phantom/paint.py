"""Painting: stain concentrations of tumour and stroma, Beer-Lambert and optics, in integers."""

import numpy as np

from stedm.phantom.cells import Nearest, nearest
from stedm.phantom.fixed import (
    ANGLES,
    NOISE_MAX,
    binomial,
    exp_table,
    hash2,
    key,
    lattice_noise,
    noise_nodes,
    root_table,
    sine_table,
    table_noise,
    turn,
)
from stedm.phantom.layout import PAINT, tumour_and_glass
from stedm.phantom.style import Style

_EDGE = 64
"""Normalised radius at the rim of a nucleus; profiles are tables over 0..2 * _EDGE - 1."""

_OD_TOP = 2047
_FULL = 2040
"""Full brightness inside: 8 steps a grey level."""

_SOFT = 2
"""Passes that soften the borders of the layout."""

_QUARTER = 4
"""Steps of a cell's coordinates in a paint pixel."""

_GRAIN_SIDE = 512

Stains = tuple[np.ndarray, np.ndarray, np.ndarray]


def _ramp(values: np.ndarray, low: int, high: int) -> np.ndarray:
    """0 at or below low, 256 at or above high, straight between; int32, same shape."""
    return np.clip((values - low) * 256 // max(high - low, 1), 0, 256).astype(np.int32)


class Painter:
    """Paints any window of one slide; a pixel's colour does not depend on the window it is asked for in."""

    def __init__(self, *, size: int, style: Style, seed: int):
        """Prepare a `size` x `size` slide in the look of `style`; `seed` sets where things lie."""
        self.size, self.style, self.seed = size, style, seed
        s = style
        table = np.array(exp_table(_OD_TOP + 1, 256, _FULL), np.int32)
        # A ceiling below full white leaves room for the camera noise in int16.
        self._light = [np.minimum(table * white >> 8, 250 * 8).astype(np.int16) for white in s.white]
        self._vectors = [
            tuple(
                vector[band] * strength * 256 // 25600
                for vector, strength in (
                    (s.haem_vector, s.haem_strength),
                    (s.dab_vector, s.dab_strength),
                    (s.ground_vector, s.ground_strength),
                )
            )
            for band in range(3)
        ]
        line = np.arange(_GRAIN_SIDE)
        bits = hash2(key(seed, "camera"), line, line)
        # The sum of four bytes is close enough to a bell for camera noise.
        bell = sum(((bits >> np.uint32(shift)) & np.uint32(255)).astype(np.int32) for shift in (0, 8, 16, 24))
        # Two standard deviations at most: more would not fit beside full white in int16.
        self._grain = (np.clip(bell - 510, -296, 296) * s.noise * 128 // (148 * 16)).astype(np.int16)

        rho = np.arange(2 * _EDGE, dtype=np.int32)
        inside = _ramp(-rho, -_EDGE - 5, -_EDGE + 5)
        hollow = np.clip(256 - rho * rho * 256 // (_EDGE * _EDGE), 0, 256)
        self._nucleus = (inside * (256 - (hollow * s.vesicle >> 8)) >> 8).astype(np.int32)
        self._nucleolus = (_ramp(-rho, -22, -10) * s.nucleolus >> 8).astype(np.int32)
        self._spindle = inside
        gap = np.arange(2048, dtype=np.int32)
        self._membrane = _ramp(-gap, -2 * s.membrane_width, -s.membrane_width)

    def _noise(self, purpose: str, ys: np.ndarray, xs: np.ndarray, spacing: int) -> np.ndarray:
        return lattice_noise(key(self.seed, purpose), ys, xs, spacing)

    def _rho(self, near: Nearest, radius: int, spread: int, elongation: int, *, tilt: int = ANGLES) -> np.ndarray:
        """Distance from the middle of the cell's nucleus, int32 0..2 * _EDGE - 1, _EDGE at its rim.

        `radius` is the short half axis, `spread` its half range in percent, `tilt` the range of the long
        axis' angle around the u axis.
        """
        lots = near.lots
        share = (lots & np.uint32(255)).astype(np.int64)
        short = radius * (12800 + spread * (share - 128)) // 12800
        long = short * elongation // 256
        angle = ((lots >> np.uint32(8)) & np.uint32(ANGLES - 1)).astype(np.int64)
        angle = (angle - ANGLES // 2) * tilt // ANGLES % ANGLES
        sine = np.array(sine_table(), np.int64)
        cos, sin = sine[(angle + ANGLES // 4) % ANGLES], sine[angle]
        one = _EDGE * _EDGE * 64
        along, across = one // (long * long), one // (short * short)
        # One quadratic form for each cell is cheaper than turning each pixel into its nucleus' frame.
        uu = ((cos * cos * along + sin * sin * across) >> 24).astype(np.int32)
        vv = ((sin * sin * along + cos * cos * across) >> 24).astype(np.int32)
        uv = ((2 * cos * sin * (along - across)) >> 24).astype(np.int32)
        cell = near.cell
        # No nucleus reaches this far; beyond it the products would not fit 32 bits.
        du, dv = np.clip(near.du, -255, 255), np.clip(near.dv, -255, 255)
        square = du * du * uu.take(cell) + dv * dv * vv.take(cell) + du * dv * uv.take(cell)
        return root_table(2 * _EDGE).take(np.clip(square >> 6, 0, 4 * _EDGE * _EDGE - 1))

    def _tumour(self, ys: np.ndarray, xs: np.ndarray) -> Stains:
        s = self.style
        v, u = (ys * _QUARTER).astype(np.int32)[:, None], (xs * _QUARTER).astype(np.int32)[None, :]
        near = nearest(key(self.seed, "tumour cells"), v, u, s.pitch, s.pitch, jitter=190, with_gap=True)
        wobble = self._noise("outline", ys, xs, 7)
        rho = self._rho(near, s.radius, s.size_spread, s.elongation) + ((wobble - NOISE_MAX // 2) >> 8)
        np.clip(rho, 0, 2 * _EDGE - 1, out=rho)
        tone = (near.lots >> np.uint32(24)).astype(np.int32)
        depth = (s.nuclear_haem * (200 + tone * 112 // 256) >> 8).take(near.cell)
        speck = np.where(tone & 1, 256, 40).astype(np.int32).take(near.cell)
        grain = self._noise("chromatin", ys, xs, s.grain_scale) - NOISE_MAX // 2
        depth = depth * (4096 + (grain * s.grain * 2 >> 8)) >> 12
        inside = self._nucleus.take(rho)
        haem = s.tumour_haem + (depth * inside >> 8) + (self._nucleolus.take(rho) * speck >> 8)

        patches = self._noise("rings", ys, xs, 15)
        level = NOISE_MAX * (256 - s.completeness) >> 8
        # Rings are wholly stained at 256 only if the noise never reaches the gate's far end.
        stained = _ramp(patches, level - 700, level + 500) if s.completeness < 256 else 256
        rings = self._membrane.take(near.gap) * stained >> 8
        body = self._noise("cytoplasm", ys, xs, 9)
        outside = 256 - (self._spindle.take(rho) * 200 >> 8)
        dab = (rings * s.membrane_dab >> 8) + (s.tumour_dab * outside * (2048 + body) >> 20)
        ground = s.tumour_ground * outside * (2048 + body) >> 20
        if s.vacuoles:
            bubbles = self._noise("vacuoles", ys, xs, s.vacuole_scale)
            level = NOISE_MAX - NOISE_MAX * s.vacuoles // 120
            full = 256 - _ramp(bubbles, level - 120, level + 160)
            haem, dab, ground = haem * full >> 8, dab * full >> 8, ground * full >> 8
        return haem, dab, ground

    def _stroma(self, ys: np.ndarray, xs: np.ndarray) -> Stains:
        s = self.style
        cos, sin = turn(s.direction)
        v, u = (ys * _QUARTER).astype(np.int32)[:, None], (xs * _QUARTER).astype(np.int32)[None, :]
        waves = self._noise("waves", ys, xs, 70) - NOISE_MAX // 2
        ripples = self._noise("waves fine", ys, xs, 28) - NOISE_MAX // 2
        along = (u * cos + v * sin) >> 12
        across = ((v * cos - u * sin) >> 12) + ((waves * 4 + ripples) * s.waviness >> 12)
        across, along = across.astype(np.int32), along.astype(np.int32)

        nodes = noise_nodes(key(self.seed, "fibres"), 512)
        steps_v, steps_u = across * (65536 // s.fibre_width), along * (65536 // s.fibre_length)
        fibre = table_noise(nodes, steps_v >> 8, steps_u >> 8)
        contrast = (fibre - NOISE_MAX // 2) * s.fibre_contrast >> 8
        weave = np.clip(2048 + contrast * 2, 200, 4800)
        loose = self._noise("clefts", ys, xs, 40)
        if s.clefts:
            level = NOISE_MAX - NOISE_MAX * s.clefts // 200
            mixed = (loose + fibre) >> 1
            weave = weave * (256 - _ramp(mixed, level - 500, level - 150)) >> 8
        ground = s.stroma_ground * weave >> 11
        dab = s.stroma_dab * weave >> 11
        haem = s.stroma_haem * weave >> 11

        long = s.stroma_pitch * (256 + s.stroma_elongation) // 512
        near = nearest(key(self.seed, "stroma cells"), across, along, s.stroma_pitch, long, jitter=200, with_gap=False)
        rho = self._rho(near, s.stroma_radius, 30, s.stroma_elongation, tilt=ANGLES // 10)
        tone = (near.lots >> np.uint32(24)).astype(np.int32)
        there = (near.lots >> np.uint32(16) & np.uint32(255)).astype(np.int32) < s.cellularity
        depth = np.where(there, s.stroma_nuclear_haem * (190 + tone // 2) >> 8, 0).astype(np.int32)
        inside = self._spindle.take(rho)
        haem = haem + (depth.take(near.cell) * inside >> 8)
        return haem, dab, ground

    def _blend(self, ys: np.ndarray, xs: np.ndarray) -> Stains | None:
        reach = np.arange(-_SOFT, _SOFT + 1)
        wide_y = np.arange(ys[0] + reach[0], ys[-1] + reach[-1] + 1)
        wide_x = np.arange(xs[0] + reach[0], xs[-1] + reach[-1] + 1)
        tumour, bare = tumour_and_glass(self.size, self.seed, wide_y, wide_x)
        if bare.all():
            return None
        share = binomial(tumour.astype(np.int32) << 8, _SOFT)
        # Tumour over the part that is not glass: its soft border must not darken towards the glass.
        if not tumour.any():
            stains = self._stroma(ys, xs)
        elif share.min() == 256:
            stains = self._tumour(ys, xs)
        else:
            stains = tuple(
                s + ((t - s) * share >> 8) for t, s in zip(self._tumour(ys, xs), self._stroma(ys, xs), strict=True)
            )
        if bare.any():
            tissue = 256 - binomial(bare.astype(np.int32) << 8, _SOFT)
            stains = tuple(stain * tissue >> 8 for stain in stains)
        return stains

    def window(self, x: int, y: int, w: int, h: int) -> np.ndarray:
        """Paint level-0 pixels x..x+w-1, y..y+h-1; returns uint8 RGB (h, w, 3)."""
        halo = 1 + self.style.blur
        ys = np.arange(y // PAINT - halo, (y + h - 1) // PAINT + halo + 1, dtype=np.int64)
        xs = np.arange(x // PAINT - halo, (x + w - 1) // PAINT + halo + 1, dtype=np.int64)
        stains = self._blend(ys, xs)
        rows, cols = np.arange(y, y + h) % _GRAIN_SIDE, np.arange(x, x + w) % _GRAIN_SIDE
        grain = self._grain[rows][:, cols] + np.int16(64)
        out = np.empty((h, w, 3), np.uint8)
        top, left = y % PAINT, x % PAINT
        for band in range(3):
            if stains is None:
                level = grain + np.int16(int(self._light[band][0]) * 16)
            else:
                weights = self._vectors[band]
                density = sum(stain * weight for stain, weight in zip(stains, weights, strict=True)) >> 8
                light = self._light[band].take(np.clip(density, 0, _OD_TOP))
                level = _double(binomial(light, self.style.blur))[top : top + h, left : left + w] + grain
            level >>= 7
            out[..., band] = np.clip(level, 0, 255, out=level)
        return out


def _double(plane: np.ndarray) -> np.ndarray:
    """Enlarge int16 (h, w) twofold by linear interpolation, times 16; one pixel is lost at every side."""
    for _ in range(2):
        middle = plane[1:-1] * np.int16(3)
        wide = np.empty((2 * len(middle), plane.shape[1]), np.int16)
        np.add(middle, plane[:-2], out=wide[0::2])
        np.add(middle, plane[2:], out=wide[1::2])
        plane = np.ascontiguousarray(wide.T)
    return plane
