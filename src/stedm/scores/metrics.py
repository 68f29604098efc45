"""IoU and Dice from counted pixels: the stored scores are counts, everything else is derived here.

A row of `scores` counts, for one segmenter, checkpoint, slide and annotated class, how many pixels were
predicted as foreground and as background. The four cells of the confusion table follow from whether
the annotated class is foreground:

========== ==================== ====================
annotated  predicted foreground predicted background
========== ==================== ====================
foreground tp                   fn
background fp                   tn
========== ==================== ====================
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from stedm.errors import UserError

RUN = ("cohort", "arm", "budget", "seed", "checkpoint")
"""The columns that name one trained segmenter as it was tested."""

COUNTS = ("tp", "fp", "fn", "tn")
COLUMNS = (
    *RUN,
    "segmenter",
    "slide",
    "patient",
    "group",
    "annotated",
    "foreground",
    "predicted_foreground",
    "predicted_background",
)
"""The columns of the stored scores."""


def read_scores(path: Path) -> pd.DataFrame:
    """Read stored scores, of one segmenter or of many, with budgets as nullable integers.

    Raises
    ------
    UserError
        If there is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing; run `snakemake` for this configuration first.")
    return pd.read_parquet(path).astype({"budget": "Int64"})


def check(scores: pd.DataFrame) -> pd.DataFrame:
    """Return `scores` with the columns and types used here, or say what is wrong with it.

    Raises
    ------
    ValueError
        If a column is missing, a count is negative, a class of a slide is counted twice for one run (its
        pixels would weigh double) or a patient stands in two groups.
    """
    missing = [name for name in COLUMNS if name not in scores.columns]
    if missing:
        raise ValueError(f"The scores lack the columns {', '.join(missing)}.")
    frame = scores.loc[:, list(COLUMNS)].astype({"budget": "Int64", "seed": "int64", "foreground": "bool"})
    if (frame[["predicted_foreground", "predicted_background"]] < 0).any(axis=None):
        raise ValueError("The scores hold a negative number of pixels.")
    key = [*RUN, "slide", "annotated"]
    twice = frame.duplicated(key)
    if twice.any():
        first = ", ".join(f"{name} {value}" for name, value in frame.loc[twice, key].iloc[0].items())
        raise ValueError(f"The scores count the same pixels twice: {first}.")
    groups = frame.groupby(["cohort", "patient"], observed=True)["group"].nunique(dropna=False)
    if (groups > 1).any():
        raise ValueError(f"Patient {groups.index[groups > 1][0][1]} stands in more than one group.")
    return frame


def count(scores: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Sum the confusion table over all pixels that share the columns `by`.

    Returns
    -------
    One row per value of `by`, with `tp`, `fp`, `fn`, `tn` (int64, pixels), and `iou` and `dice` (Float64,
    0 to 1). Both are null where `tp + fp + fn` is 0: nothing was there to find and nothing was found.
    """
    frame = check(scores)
    cells = frame.loc[:, list(by)].copy()
    on, off = frame["predicted_foreground"], frame["predicted_background"]
    # A product with the 0/1 flag keeps int64; a mask would pass through float and lose exact pixels.
    flag = frame["foreground"].astype("int64")
    cells["tp"], cells["fp"] = on * flag, on * (1 - flag)
    cells["fn"], cells["tn"] = off * flag, off * (1 - flag)
    table = cells.groupby(list(by), dropna=False, observed=True, sort=True)[list(COUNTS)].sum().reset_index()
    return with_ratios(table)


def with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Add `iou` = tp / (tp + fp + fn) and `dice` = 2 tp / (2 tp + fp + fn), null where undefined."""
    union = table["tp"] + table["fp"] + table["fn"]
    defined = union.where(union > 0).astype("Float64")
    return table.assign(
        iou=table["tp"].astype("Float64") / defined,
        dice=2 * table["tp"].astype("Float64") / (table["tp"].astype("Float64") + defined),
    )


def per_patient(scores: pd.DataFrame) -> pd.DataFrame:
    """Count over all slides of a patient: one row per run, patient and group."""
    return count(scores, [*RUN, "patient", "group"])


def per_slide(scores: pd.DataFrame) -> pd.DataFrame:
    """Count over one slide: one row per run, slide, patient and group."""
    return count(scores, [*RUN, "slide", "patient", "group"])


def per_group(scores: pd.DataFrame) -> pd.DataFrame:
    """Count over all pixels of a group (class, subtype): one row per run and group."""
    return count(scores, [*RUN, "group"])


def pooled(scores: pd.DataFrame) -> pd.DataFrame:
    """Count over all pixels: one row per run. Large patients weigh more than small ones here."""
    return count(scores, RUN)
