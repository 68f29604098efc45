"""The figures of the previews: synthetic images by layout and style, segmentations, and training curves."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from stedm.report.arms import look, order
from stedm.report.style import MUTED, theme

# Yellow reads on pink, brown and blue stains alike; the dark rim keeps it readable on white.
TRUTH, PREDICTION = "#ffe14a", "#35e0ff"
# More rows or columns would be too small to see on a page.
MOST_ROWS, MOST_COLUMNS = 6, 7
# Inches of a picture with its gap, and the gap on each side as a part of it.
_CELL, GAP = 1.15, 0.025


def layouts_styles(grid: dict[str, np.ndarray]) -> Figure:
    """Draw layouts as rows and styles as columns, the style images above, each layout's outline on every image.

    `grid` is what `stedm.report.previews.grid` returns. The null style, where drawn, stands before the others.
    """
    null = grid.get("null_images")
    rows = min(len(grid["layouts"]), MOST_ROWS)
    first = 1 if null is None else 2
    styles = min(len(grid["styles"]), MOST_COLUMNS - first)
    with matplotlib.rc_context(theme()):
        figure, axis = sheet(rows + 1, first + styles, left=0.28, top=0.25, bottom=0.05)
        note = {"ha": "center", "color": MUTED, "fontsize": 7.5}
        axis.text(0.5, 0.45, "style images →", va="center", **note)
        axis.text(0.5, 0.96, "layout ↓", va="bottom", **note)
        if null is not None:
            axis.text(1.5, 0.5, "no style\n(null)", va="center", **note)
        for column in range(styles):
            show(axis, mosaic(grid["styles"][column]), 0, first + column)
            head(axis, first + column, grid["style_names"][column])
        for row in range(rows):
            unstyled = [] if null is None else [null[row]]
            pictures = [grid["layout_images"][row], *unstyled, *grid["images"][row][:styles]]
            for column, picture in enumerate(pictures):
                show(axis, picture, row + 1, column)
                outline(axis, grid["layouts"][row], row + 1, column, TRUTH)
            name = _short(str(grid["layout_names"][row]))
            axis.text(-0.05, row + 1.5, name, rotation=90, ha="right", va="center", fontsize=7.5)
    return figure


def mosaic(tiles: np.ndarray) -> np.ndarray:
    """Put the first four of `(n, h, w, 3)` style images into one square of 2 x 2, or the first alone if fewer."""
    if len(tiles) < 4:
        return tiles[0]
    return np.concatenate([np.concatenate(list(tiles[:2]), axis=1), np.concatenate(list(tiles[2:4]), axis=1)], axis=0)


def segmentations(examples: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Draw the same tiles (columns) as segmented by each arm (rows): annotated outline and predicted outline.

    `examples` maps an arm to what `stedm.report.previews.examples` returns; only tiles that all have are drawn.
    """
    arms = order(examples)
    names = {arm: [str(name) for name in examples[arm]["names"]] for arm in arms}
    shared = [name for name in names[arms[0]] if all(name in own for own in names.values())][:MOST_COLUMNS]
    with matplotlib.rc_context(theme()):
        figure, axis = sheet(len(arms), len(shared), left=1.25, top=0.25, bottom=0.42)
        for row, arm in enumerate(arms):
            found = examples[arm]
            for column, name in enumerate(shared):
                at = names[arm].index(name)
                show(axis, found["images"][at], row, column)
                outline(axis, found["truths"][at], row, column, TRUTH)
                outline(axis, found["predictions"][at], row, column, PREDICTION, dashed=True)
            axis.text(-0.08, row + 0.5, arm, ha="right", va="center", fontsize=8)
        for column, name in enumerate(shared):
            head(axis, column, name)
        legend(axis, [])
    return figure


def legend(axis: Axes, more: list[Artist]) -> None:
    """Explain the outlines, and `more`, below a sheet."""
    handles = [
        Line2D([], [], color=TRUTH, linewidth=2, label="annotated"),
        Line2D([], [], color=PREDICTION, linewidth=2, linestyle=(0, (2, 1)), label="predicted"),
        *more,
    ]
    look = {"frameon": True, "facecolor": "#4a4a52", "labelcolor": "#ffffff", "edgecolor": "none"}
    where = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.0), "bbox_transform": axis.figure.transFigure}
    axis.legend(handles=handles, ncols=len(handles), fancybox=False, framealpha=1, **look, **where)


def training_curves(generators: dict[str, pd.DataFrame], segmenters: list[tuple[str, pd.DataFrame]]) -> Figure:
    """Draw generator losses by run, and segmenter losses by arm: training and, where measured, validation.

    Each frame has the columns step and loss, segmenters also validation_loss. Lines are smoothed over a
    twentieth of the run, without the spikes of single steps.
    """
    titles = (["Generator"] if generators else []) + (
        ["Segmenter, training", "Segmenter, validation"] if segmenters else []
    )
    with matplotlib.rc_context(theme()):
        figure, axes = plt.subplots(1, len(titles), figsize=(0.8 + 2.6 * len(titles), 2.7), squeeze=False)
        panels = dict(zip(titles, axes[0], strict=True))
        shades = sns.color_palette("crest", max(len(generators), 1))
        for shade, (_, frame) in zip(shades, sorted(generators.items()), strict=False):
            panels["Generator"].plot(frame["step"], _smooth(frame["loss"]), color=shade, linewidth=1.2)
        arms = order({arm for arm, _ in segmenters})
        for arm, frame in segmenters:
            style = {"color": look(arm, arms).colour, "linewidth": 1.1, "alpha": 0.85}
            panels["Segmenter, training"].plot(frame["step"], _smooth(frame["loss"]), **style)
            measured = frame.dropna(subset=["validation_loss"]) if "validation_loss" in frame else frame.iloc[:0]
            panels["Segmenter, validation"].plot(
                measured["step"],
                measured["validation_loss"],
                marker="." if len(measured) < 15 else "",
                markersize=4,
                **style,
            )
        for title, panel in panels.items():
            panel.set_title(title)
            panel.set_xlabel("Step")
            panel.grid(axis="y")
            panel.xaxis.set_major_locator(plt.MaxNLocator(4))
            if panel.lines and all((line.get_ydata() > 0).all() for line in panel.lines):
                panel.set_yscale("log")
                panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                panel.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
                panel.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
            sns.despine(ax=panel)
        axes[0, 0].set_ylabel("Loss")
        if arms:
            handles = [Line2D([], [], color=look(arm, arms).colour, linewidth=1.6, label=arm) for arm in arms]
            figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=min(4, len(arms)))
        figure.tight_layout()
    return figure


def sheet(
    rows: int, columns: int, *, left: float, top: float, bottom: float, cell: float = _CELL
) -> tuple[Figure, Axes]:
    """Make one axis for a sheet of square pictures, one unit a cell, with margins and the cell's side in inches.

    An axis per picture would take seconds to draw.
    """
    width, height = left + columns * cell + 0.05, top + rows * cell + bottom
    figure = plt.figure(figsize=(width, height))
    axis = figure.add_axes((left / width, bottom / height, columns * cell / width, rows * cell / height))
    axis.set(xlim=(0, columns), ylim=(rows, 0))
    axis.set_axis_off()
    axis.set_autoscale_on(False)
    return figure, axis


def _smooth(values: pd.Series) -> pd.Series:
    # The mean of a window would draw one spike as a box as wide as the window.
    despiked = values.rolling(5, min_periods=1, center=True).median()
    return despiked.rolling(max(1, len(values) // 20), min_periods=1, center=True).mean()


def show(axis: Axes, picture: np.ndarray, row: int, column: int) -> None:
    """Draw a picture into a cell of a sheet."""
    extent = (column + GAP, column + 1 - GAP, row + 1 - GAP, row + GAP)
    # "none" keeps the pixels as they are in PDF and SVG; large pictures are drawn at the resolution of the page.
    smooth = "none" if picture.shape[0] <= 128 else "antialiased"
    axis.imshow(picture, interpolation=smooth, extent=extent, aspect="auto", zorder=1)


def outline(axis: Axes, mask: np.ndarray, row: int, column: int, colour: str, *, dashed: bool = False) -> None:
    """Draw the outline of a mask, or of the parts of pixels that it covers, into a cell of a sheet."""
    if mask.dtype.kind != "f":
        mask = (np.asarray(mask) > 0).astype(float)
    if mask.min() > 0.5 or mask.max() <= 0.5:
        return
    y, x = ((np.arange(n) + 0.5) / n * (1 - 2 * GAP) + GAP for n in mask.shape)
    where = x + column, y + row, mask
    if not dashed:
        axis.contour(*where, levels=[0.5], colors=["#1d1d22"], linewidths=1.9, alpha=0.55, zorder=2)
    axis.contour(*where, levels=[0.5], colors=[colour], linewidths=1, linestyles="--" if dashed else "-", zorder=3)


def head(axis: Axes, column: int, name: object) -> None:
    """Write a name above a column of a sheet."""
    axis.text(column + 0.5, -0.03, _short(str(name)), ha="center", va="bottom", fontsize=7.5)


def _short(name: str, most: int = 15) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
