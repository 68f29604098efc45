"""The figure of whole slides: tissue, stored tiles and layout, and what some arms predict."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from stedm.report.formats import known, number
from stedm.report.pictures import GAP, PREDICTION, TRUTH, head, legend, outline, sheet
from stedm.report.previews import SlideOverview
from stedm.report.style import theme

ARMS = ("real", "synthetic", "oracle")
"""Arms whose predictions are drawn where they are there."""
TISSUE, UNSTORED, GRID = "#ffffff", "#969696", "#1d1d22"
# Inches of a picture with its gap.
_CELL = 1.9
# A grid of smaller tiles than this part of the picture would hide it.
_FINEST = 1 / 40
# Pixels a side in which masks are outlined.
_OUTLINED = 224
_ROUND = [step * 10**power for power in range(7) for step in (1, 2, 5)]


def slides(arms: dict[str, list[SlideOverview]]) -> Figure:
    """Draw slides as columns: with tissue, tiles and layout above, then with the prediction of each arm.

    `arms` maps an arm to what `stedm.report.previews.slides` returns; only slides that all have are drawn.
    """
    named = [{slide.name: slide for slide in found} for found in arms.values()]
    names = sorted(set.intersection(*map(set, named)))
    with matplotlib.rc_context(theme()):
        figure, axis = sheet(1 + len(arms), len(names), left=0.85, top=0.25, bottom=0.45, cell=_CELL)
        for column, name in enumerate(names):
            slide = named[0][name]
            head(axis, column, name)
            _cut(axis, slide, column)
            _bar(axis, slide, column)
            for row, found in enumerate(named, 1):
                _predicted(axis, found[name], row, column)
        for row, label in enumerate(("tissue, tiles,\nannotation", *arms)):
            axis.text(-0.05, row + 0.5, label, ha="right", va="center", fontsize=8)
        legend(
            axis,
            [
                Line2D([], [], color=TISSUE, linewidth=1, label="tissue"),
                Patch(facecolor="none", edgecolor="#b9b9c0", linewidth=0.8, label="tile"),
                Patch(facecolor=UNSTORED, edgecolor="none", label="not stored"),
            ],
        )
    return figure


def _cut(axis: Axes, slide: SlideOverview, column: int) -> None:
    stored = np.zeros(slide.picture.shape[:2], bool)
    for left, top, right, bottom in np.round(slide.tiles).astype(int):
        stored[top:bottom, left:right] = True
    grey = matplotlib.colors.to_rgb(UNSTORED)
    picture = slide.picture.astype(float)
    picture[~stored] = 0.55 * picture[~stored] + 0.45 * 255 * np.array(grey)
    _show(axis, picture.astype(np.uint8), 0, column)
    if len(slide.tiles) and np.diff(slide.tiles[0, [0, 2]])[0] >= _FINEST * max(stored.shape):
        look = {"facecolors": "none", "edgecolors": GRID, "linewidths": 0.4, "alpha": 0.45, "zorder": 2}
        axis.add_collection(PolyCollection(_placed(slide.tiles, slide.picture.shape, column), **look))
    outline(axis, _square_mask(slide.tissue), 0, column, TISSUE)
    outline(axis, _square_mask(slide.layout), 0, column, TRUTH)


def _predicted(axis: Axes, slide: SlideOverview, row: int, column: int) -> None:
    _show(axis, slide.picture, row, column)
    outline(axis, _square_mask(slide.layout), row, column, TRUTH)
    outline(axis, _square_mask(slide.predicted), row, column, PREDICTION, dashed=True)
    if known(slide.iou):
        _note(axis, column + 0.06, row + 0.94, f"IoU {number(slide.iou, 2)}")


def _bar(axis: Axes, slide: SlideOverview, column: int) -> None:
    if not known(slide.mpp):
        return
    side = max(slide.picture.shape[:2])
    fitting = [length for length in _ROUND if length / slide.mpp <= 0.3 * side] or _ROUND[:1]
    long = fitting[-1] / slide.mpp / side
    axis.plot([column + 0.94 - long, column + 0.94], [0.93, 0.93], color="#ffffff", linewidth=2.4, zorder=5)
    axis.plot([column + 0.94 - long, column + 0.94], [0.93, 0.93], color=GRID, linewidth=1.2, zorder=6)
    words = f"{fitting[-1]} µm" if fitting[-1] < 1000 else f"{fitting[-1] // 1000} mm"
    _note(axis, column + 0.94, 0.9, words, right=True)


def _note(axis: Axes, x: float, y: float, words: str, *, right: bool = False) -> None:
    box = {"facecolor": "#4a4a52", "edgecolor": "none", "pad": 1.5, "alpha": 0.85}
    aligned = "right" if right else "left"
    axis.text(x, y, words, color="#fdfdfd", fontsize=6.5, ha=aligned, va="bottom", bbox=box, zorder=7)


def _show(axis: Axes, picture: np.ndarray, row: int, column: int) -> None:
    left, top, right, bottom = _placed(np.array([[0, 0, *picture.shape[1::-1]]]), picture.shape, column)[
        0, [0, 2]
    ].ravel()
    extent = (left, right, bottom + row, top + row)
    axis.imshow(picture, interpolation="antialiased", extent=extent, aspect="auto", zorder=1)


def _square_mask(mask: np.ndarray) -> np.ndarray:
    """Reduce a mask in the middle of a square, as finer outlines than the page shows are only large."""
    square = np.pad(mask.astype(float), _margins(mask.shape))
    by = max(1, round(len(square) / _OUTLINED))
    square = np.pad(square, ((0, -len(square) % by),) * 2)
    return square.reshape(len(square) // by, by, -1, by).mean((1, 3))


def _margins(shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    side = max(shape[:2])
    return tuple(((side - n) // 2, side - n - (side - n) // 2) for n in shape[:2])


def _placed(tiles: np.ndarray, shape: tuple[int, ...], column: int) -> np.ndarray:
    """Return the corners of tiles in cells of the sheet, (m, 4, 2)."""
    (top, _), (left, _) = _margins(shape)
    corners = tiles[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] + np.array([left, top])
    return corners / max(shape[:2]) * (1 - 2 * GAP) + np.array([column + GAP, GAP])
