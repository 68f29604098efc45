"""The figures of the scores: each patient, and mean and variability against the label budget."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator
from scipy import stats

from stedm.report.arms import budget_label, has_budget, look, order
from stedm.report.formats import known
from stedm.report.style import INK, MUTED, PAPER, theme
from stedm.scores.statistics import table

# Above this many points a vector drawing is slower to open than the picture it shows.
_VECTOR_POINTS = 3000


def iou_per_patient(patients: pd.DataFrame, headline: pd.DataFrame) -> Figure:
    """Draw each patient's IoU (mean over seeds) by arm, a panel per budget, with mean, interval and each seed's mean.

    `headline` is the raw headline table; arms without a budget stand in every panel.
    """
    rows = [row for row in headline.to_dict("records") if row["seeds"]]
    arms = order({row["arm"] for row in rows})
    budgets = sorted({int(row["budget"]) for row in rows if known(row["budget"])}) or [None]
    with matplotlib.rc_context(theme()):
        size = (1.3 + 3.1 * len(budgets), 0.9 + 0.46 * max(len(arms), 2))
        figure, axes = plt.subplots(1, len(budgets), figsize=size, sharex=True, sharey=True, squeeze=False)
        for panel, budget in zip(axes[0], budgets, strict=True):
            for place, arm in enumerate(arms):
                own = budget if has_budget(arm) else None
                found = [
                    r for r in rows if r["arm"] == arm and (int(r["budget"]) if known(r["budget"]) else None) == own
                ]
                if found:
                    values = table(patients, arm, own, "last").mean(axis=1).dropna().to_numpy()
                    _strip(panel, place, values, arm, arms, found[0])
            panel.set_title("All labels" if budget is None else _labels(budget))
            panel.set_xlabel("Foreground IoU of a patient")
            panel.set_yticks(range(len(arms)), arms)
            panel.set_ylim(len(arms) - 0.4, -0.6)
            panel.set_xlim(-0.02, 1.02)
            panel.xaxis.set_major_locator(MultipleLocator(0.2))
            panel.grid(axis="x")
            panel.tick_params(axis="y", length=0)
            sns.despine(ax=panel, left=True)
        handles = [
            Line2D([], [], linestyle="", marker="o", color=MUTED, alpha=0.6, markersize=4, label="patient"),
            Line2D([], [], color=INK, marker="o", markersize=4.5, linewidth=1.6, label="mean, 95 % interval"),
            Line2D([], [], linestyle="", marker="|", color=INK, markersize=6, label="mean of one seed"),
        ]
        figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.03), ncols=3)
        figure.tight_layout(w_pad=1.5)
    return figure


def _strip(panel: Axes, place: int, values: np.ndarray, arm: str, arms: list[str], row: dict) -> None:
    drawn = look(arm, arms)
    panel.scatter(
        values,
        place - 0.12 + _offsets(values),
        s=11 if len(values) < 200 else 3,
        marker=drawn.marker,
        color=drawn.colour,
        alpha=0.65 if len(values) < 200 else 0.25,
        linewidths=0,
        rasterized=len(values) * len(arms) > _VECTOR_POINTS,
        clip_on=False,
    )
    low = place + 0.3
    if known(row["mean_low"]):
        panel.plot([row["mean_low"], row["mean_high"]], [low, low], color=INK, linewidth=1.6, solid_capstyle="butt")
    panel.plot(row["mean"], low, "o", color=INK, markersize=4.5, markeredgecolor=PAPER, markeredgewidth=0.6)
    each = [value for value in row["mean_seeds"] if known(value)]
    panel.plot(each, [low] * len(each), "|", color=INK, markersize=7, markeredgewidth=0.9)


def _offsets(values: np.ndarray) -> np.ndarray:
    """Spread points as wide as they are dense, by a low-discrepancy sequence: no random numbers, no overlap in runs."""
    if len(values) < 2 or np.ptp(values) < 1e-9:
        return np.zeros(len(values))
    density = stats.gaussian_kde(values, 0.25)(values)
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    golden = (ranks * 0.6180339887) % 1 - 0.5
    return 0.44 * golden * density / density.max()


def _labels(budget: int) -> str:
    return f"{budget} labelled patient{'s' * (budget != 1)} per class"


def versus_budget(headline: pd.DataFrame, name: str, label: str) -> Figure:
    """Draw `name` (e.g. "mean" or "std") of the raw headline table against the label budget, with 95 % intervals.

    Budgets stand at equal distances. Arms without a budget are horizontal lines with their interval as a band.
    """
    rows = [row for row in headline.to_dict("records") if known(row[name])]
    arms = order({row["arm"] for row in rows})
    budgets = sorted({int(row["budget"]) for row in rows if known(row["budget"])})
    limited = [arm for arm in arms if has_budget(arm)]
    with matplotlib.rc_context(theme()):
        figure, axis = plt.subplots(figsize=(6.6, 3.5))
        handles = []
        for arm in arms:
            own = sorted(
                (row for row in rows if row["arm"] == arm),
                key=lambda r: r["budget"] if known(r["budget"]) else 0,
            )
            drawn = look(arm, arms)
            if arm in limited:
                shift = 0.62 * ((limited.index(arm) + 0.5) / len(limited) - 0.5)
                where = [budgets.index(int(row["budget"])) + shift for row in own]
                _line(axis, where, own, name, drawn)
                style = {"color": drawn.colour, "marker": drawn.marker, "markersize": 6, "linewidth": 1.2}
                handles.append(Line2D([], [], label=arm, **style))
            else:
                handles.append(_band(axis, own[0], name, drawn, arm, dashed=arm != "oracle"))
        axis.set_xticks(range(len(budgets)), [budget_label(budget) for budget in budgets])
        axis.set_xlim(-0.5, max(len(budgets), 1) - 0.5)
        axis.set_xlabel("Labelled patients per class")
        axis.set_ylabel(label)
        axis.grid(axis="y")
        if name == "std":
            axis.set_ylim(bottom=0)
        sns.despine(ax=axis)
        figure.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.55))
        figure.tight_layout()
    return figure


def _line(axis: Axes, where: list[float], rows: list[dict], name: str, drawn) -> None:
    values = [row[name] for row in rows]
    axis.plot(where, values, color=drawn.colour, linewidth=1.0, alpha=0.45, zorder=2)
    for x, row in zip(where, rows, strict=True):
        if known(row[f"{name}_low"]):
            ends = [row[f"{name}_low"], row[f"{name}_high"]]
            axis.plot([x, x], ends, color=drawn.colour, linewidth=1.7, solid_capstyle="butt", zorder=3)
        each = [value for value in row[f"{name}_seeds"] if known(value)]
        axis.plot([x] * len(each), each, "_", color=drawn.colour, markersize=7, markeredgewidth=1.1, zorder=3)
    axis.plot(
        where,
        values,
        drawn.marker,
        color=drawn.colour,
        markersize=7,
        markeredgecolor=PAPER,
        markeredgewidth=0.7,
        zorder=4,
    )


def _band(axis: Axes, row: dict, name: str, drawn, arm: str, *, dashed: bool) -> Line2D | Patch:
    if known(row[f"{name}_low"]):
        axis.axhspan(row[f"{name}_low"], row[f"{name}_high"], color=drawn.colour, alpha=0.13, linewidth=0, zorder=0)
    style = {"color": drawn.colour, "linewidth": 1.3, "linestyle": (0, (5, 2)) if dashed else "-"}
    axis.axhline(row[name], zorder=1, **style)
    return Line2D([], [], label=f"{arm} (all labels)", **style)
