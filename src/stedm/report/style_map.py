"""The style map of patients: where a generator puts their styles, in the two directions in which they differ most."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stedm.report.style import MUTED, PAPER, theme

ROLES = {"labelled": "*", "unlabelled": "o", "held out": "D", "test": "s"}
"""Roles of patients as the generator names them, and their markers."""
FILLED = ("labelled", "unlabelled")
"""Roles of patients whom the generator may train on."""
MOST_GROUPS = 10
"""Of more groups no colours can be told apart: all patients are drawn in one."""


def project(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project `vectors` (n, dim) on their first two principal components.

    Returns
    -------
    Points (n, 2), and the share of the variance along each (2,). The sign is chosen so that the largest coefficient
    of a component is positive; directions in which nothing varies give zeros.
    """
    centred = np.asarray(vectors, np.float64)
    centred = centred - centred.mean(0)
    _, size, directions = np.linalg.svd(centred, full_matrices=False)
    directions = np.vstack([directions, np.zeros((2, centred.shape[1]))])[:2]
    size = np.append(size, (0.0, 0.0))
    largest = directions[np.arange(2), np.abs(directions).argmax(1)]
    directions = directions * np.where(largest < 0, -1, 1)[:, None]
    whole = (size**2).sum()
    return centred @ directions.T, size[:2] ** 2 / whole if whole > 0 else np.zeros(2)


def nearest_own(vectors: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """Return for each vector, of (n, dim), whether the nearest other one is of its own patient: bool (n,)."""
    vectors = np.asarray(vectors, np.float64)
    squares = (vectors**2).sum(1)
    apart = squares[:, None] + squares[None] - 2 * vectors @ vectors.T
    np.fill_diagonal(apart, np.inf)
    return patient[apart.argmin(1)] == patient


def style_map(found: dict[str, np.ndarray]) -> Figure:
    """Draw the sets of `stedm.report.previews.styles` as dots around their patient's mean, by group and role."""
    points, share = project(found["vectors"])
    groups = sorted(set(found["group"]))
    many = len(groups) > MOST_GROUPS
    palette = sns.color_palette("colorblind", 1 if many else len(groups))
    colours = dict(zip(groups, palette * len(groups) if many else palette, strict=False))
    with matplotlib.rc_context(theme()):
        figure, axis = plt.subplots(figsize=(6.6, 4.3))
        for name in sorted(set(found["patient"])):
            own = found["patient"] == name
            colour, role = colours[found["group"][own][0]], str(found["role"][own][0])
            centre = points[own].mean(0)
            for point in points[own]:
                axis.plot(*zip(centre, point, strict=True), color=colour, linewidth=0.5, alpha=0.35, zorder=1)
            size = 15 if role == "labelled" else 6.5
            mark = {"marker": ROLES.get(role, "o"), "markersize": size, "markeredgewidth": 1.2, "linestyle": ""}
            face = colour if role in FILLED else PAPER
            axis.plot(*centre, **mark, markerfacecolor=face, markeredgecolor=colour, zorder=3)
        axis.set_xlabel(f"First component ({100 * share[0]:.0f} % of the variance)")
        axis.set_ylabel(f"Second component ({100 * share[1]:.0f} %)")
        axis.set_xticks([])
        axis.set_yticks([])
        sns.despine(ax=axis)
        dots = {"linestyle": "", "markersize": 7, "markeredgewidth": 1.2}
        there = [role for role in ROLES if role in set(found["role"])]
        handles = [
            Line2D(
                [], [], **dots, marker=ROLES[role], markeredgecolor=MUTED,
                markerfacecolor=MUTED if role in FILLED else PAPER, label=role,
            )
            for role in there
        ]  # fmt: skip
        if not many and len(groups) > 1:
            handles += [Line2D([], [], **dots, marker="o", color=colours[name], label=name) for name in groups]
        axis.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
