"""Means, spread between patients and paired comparisons, each with an interval that says what it covers.

The unit is the patient. `seed` draws the labelled patients and seeds the training, so the values of one arm
form a table of patients x seeds, and three numbers describe it:

mean
    over patients of a patient's mean over seeds;
std
    between patients (ddof 1) within one seed, then averaged over seeds: averaging a patient over seeds
    first would hide the variation that a user of one trained segmenter meets;
worst
    mean of the lowest tenth of the patients, at least one, each averaged over seeds. Its interval cannot reach below
    the worst patient seen: read the lower end as no more than that.

Intervals resample patients, jointly over seeds and over both arms of a comparison. They cover the choice of test
patients alone. The value per seed beside them shows what training decides, and the draw of labels where each seed has
its own; a difference of means has a second interval that covers that too (`with_runs`).

The interval is the expanded percentile interval (Hesterberg 2015, "What Teachers Should Know About the Bootstrap",
The American Statistician 69(4), section 5.3), which widens the percentile interval as Student's t does, with one
change: where few patients decide a statistic, as the failing ones decide a standard deviation, its standard error is
known less well than that of a mean of as many normal values, and t has fewer degrees of freedom. They follow from the
kurtosis k of the n leave-one-out values (`degrees`). `benchmarks/coverage.py` simulates how often the true value is
covered, beside the interval without this change, BCa and the studentised bootstrap. No interval knows of failures so
rare that the sample holds none: a ratio of standard deviations then covers less than it says.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

RESAMPLES = 2000
LEVEL = 0.95
MIN_PATIENTS = 3
MOST_LEFT_OUT = 500
"""Leave-one-out values that tell the degrees of freedom; more patients are left out in groups."""
# Elements gathered at once while resampling: 4 million float64 are 32 MB.
_CHUNK = 4_000_000

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; the interval is None where the data cannot give one, and `reason` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over patients of the mean over seeds: `(..., patients, seeds)` float64 to `(...)`."""
    return seed_average(values).mean(axis=-1)


def std(values: np.ndarray) -> np.ndarray:
    """Average over seeds of the standard deviation between patients: `(..., patients, seeds)` to `(...)`."""
    spread = std_per_seed(values)
    known = np.isfinite(spread)
    with np.errstate(invalid="ignore"):
        return np.where(known, spread, 0).sum(axis=-1) / np.where(known.any(axis=-1), known.sum(axis=-1), np.nan)


def worst(values: np.ndarray) -> np.ndarray:
    """Mean of the lowest tenth of the patients, rounded up: `(..., patients, seeds)` to `(...)`."""
    patients = np.sort(seed_average(values), axis=-1)
    lowest = -(-patients.shape[-1] // 10)
    return patients[..., :lowest].mean(axis=-1)


def std_per_seed(values: np.ndarray) -> np.ndarray:
    """Standard deviation between patients within each seed (ddof 1): `(..., patients, seeds)` to `(..., seeds)`.

    NaN for a seed with fewer than two defined patients.
    """
    known = np.isfinite(values)
    number = known.sum(axis=-2)
    centre = np.where(known, values, 0).sum(axis=-2) / np.maximum(number, 1)
    square = np.where(known, values - centre[..., None, :], 0) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(square.sum(axis=-2) / (number - 1))
    return np.where(number > 1, spread, np.nan)


def difference(pairs: np.ndarray) -> np.ndarray:
    """Difference of the means of two arms, `(..., patients, seeds, 2)` to `(...)`, first minus second."""
    return mean(pairs[..., 0]) - mean(pairs[..., 1])


def log_ratio(pairs: np.ndarray) -> np.ndarray:
    """Log of the ratio of two arms' standard deviations, `(..., patients, seeds, 2)` to `(...)`, first over second."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(std(pairs[..., 0])) - np.log(std(pairs[..., 1]))


def seed_average(values: np.ndarray) -> np.ndarray:
    """Mean over the defined seeds, 0 where none is: `(..., patients, seeds)` to `(..., patients)`."""
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)


def bootstrap(values: np.ndarray, statistic: Statistic, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Estimate a statistic and its 95 % interval over patients (see above).

    Parameters
    ----------
    values
        float64 `(patients, seeds)`, or `(patients, seeds, 2)` for a pair of arms; NaN is undefined, and every
        patient has at least one defined seed. Patients, the first axis, are resampled whole.
    statistic
        One of the functions above; it maps leading axes through.
    resamples, seed
        Number of resamples, and the seed of the generator that draws them: equal input, equal interval.
    """
    patients = len(values)
    if patients == 0:
        return Estimate(None, reason="no patient with a defined value")
    point = float(statistic(values))
    if patients < MIN_PATIENTS:
        value = point if math.isfinite(point) else None
        return Estimate(value, reason=f"only {patients} patient{'s' * (patients > 1)}, at least {MIN_PATIENTS} needed")
    if not math.isfinite(point):
        return Estimate(None, reason="no variance between patients")
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, patients, size=(resamples, patients))
    step = max(1, _CHUNK // values.size)
    drawn = np.concatenate([statistic(values[draws[i : i + step]]) for i in range(0, resamples, step)])
    usable = drawn[np.isfinite(drawn)]
    # A resample of one patient alone has no spread; where that is common, the quantiles mean nothing.
    if len(usable) < 0.99 * resamples:
        return Estimate(point, reason=f"{patients} patients are too few to resample")
    # Equal numbers summed in another order differ in the last bits: that is no variance.
    if np.ptp(usable) < 1e-12:
        return Estimate(point, reason="no variance between patients")
    student = stats.t.ppf((1 - LEVEL) / 2, degrees(values, statistic))
    tail = stats.norm.cdf(math.sqrt(patients / (patients - 1)) * student)
    low, high = np.quantile(usable, [tail, 1 - tail])
    return Estimate(point, float(low), float(high))


def degrees(values: np.ndarray, statistic: Statistic) -> float:
    """Return the degrees of freedom with which patients tell the standard error of a statistic, at most n - 1.

    The variance is estimated by the mean of the n squared leave-one-out deviations, whose own relative variance is
    (k - 1) / n with their kurtosis k; a chi-square of as large a relative variance has 2 n / (k - 1) degrees of freedom
    (Satterthwaite 1946, "An Approximate Distribution of Estimates of Variance Components", Biometrics Bulletin 2(6)).
    For normal values and a mean k is 3, and nothing changes. `values` as in `bootstrap`.
    """
    number = len(values)
    # Thousands of patients are left out a few at a time: of a variance that few of them decide, the groups' kurtosis
    # and number give the same degrees; otherwise they give hundreds, as good as none.
    size = -(-number // MOST_LEFT_OUT)
    groups = number // size
    everyone = np.arange(number)
    kept = np.array([np.delete(everyone, everyone[place::groups][:size]) for place in range(groups)])
    step = max(1, _CHUNK // values.size)
    left = np.concatenate([statistic(values[kept[first : first + step]]) for first in range(0, groups, step)])
    away = left - left.mean()
    # A statistic that some patient alone defines (no spread without him) has no such values.
    if not np.isfinite(away).all() or np.ptp(left) < 1e-12:
        return number - 1
    kurtosis = groups * (away**4).sum() / (away**2).sum() ** 2
    return min(number - 1, 2 * groups / max(kurtosis - 1, 1e-12))


def rows_of(frame: pd.DataFrame, arm: str, budget: int | None) -> pd.DataFrame:
    """Return the rows of an arm at a budget; None selects those that have none."""
    at = frame["budget"].isna() if budget is None else frame["budget"].eq(budget).fillna(False)
    return frame[(frame["arm"] == arm) & at]


def table(patients: pd.DataFrame, arm: str, budget: int | None, checkpoint: str, value: str = "iou") -> pd.DataFrame:
    """Return one arm's values as a table of patients (rows, by name) x seeds (columns), float64, NaN if undefined.

    `patients` is what `stedm.scores.metrics.per_patient` returns; `budget` None selects arms that have none.
    """
    rows = rows_of(patients, arm, budget)
    rows = rows[rows["checkpoint"] == checkpoint]
    wide = rows.set_index(["patient", "seed"])[value].unstack()  # noqa: PD010 (pivot_table would average duplicates)
    return pd.DataFrame(wide.to_numpy(dtype=np.float64, na_value=np.nan), wide.index, wide.columns)


def describe(wide: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """Describe one arm from its `table`: mean, std and worst decile with intervals, and each seed's own value.

    Returns
    -------
    `patients` (with a defined value), `nulls` (cells without one), `seeds` (list of int) and `worst_patients` (names of
    the lowest tenth, the lowest first); for each of `mean`, `std`, `worst`: the value, `_low`, `_high`, `_seeds` (list,
    one value per seed) and `_reason`.
    Undefined numbers are None.
    """
    values = wide.to_numpy(dtype=np.float64)
    defined = np.isfinite(values).any(axis=1)
    kept, names = values[defined], wide.index[defined]
    lowest = np.argsort(seed_average(kept), kind="stable")[: -(-len(kept) // 10)]
    row = {
        "patients": len(kept),
        "nulls": int(np.isnan(values).sum()),
        "seeds": [int(name) for name in wide.columns],
        "worst_patients": [str(names[place]) for place in lowest],
    }
    for name, statistic in (("mean", mean), ("std", std), ("worst", worst)):
        row |= columns(name, bootstrap(kept, statistic, resamples=resamples, seed=seed), per_seed(kept, statistic))
    return row


def per_seed(values: np.ndarray, statistic: Statistic) -> list[float | None]:
    """Return the statistic of each seed alone; `values` as in `bootstrap`. None where a seed has no defined value."""
    found = []
    for column in range(values.shape[1] if values.size else 0):
        one = values[:, column : column + 1]
        one = one[np.isfinite(one).reshape(len(one), -1).all(axis=1)]
        number = float(statistic(one)) if len(one) else math.nan
        found.append(number if math.isfinite(number) else None)
    return found


def compare(first: pd.DataFrame, second: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """Compare two arms, given as their `table`, on the patients and seeds that both have.

    A patient-seed cell that is undefined in either arm is left out of both and counted: both means are then over
    the same cells, so neither needs to equal the arm's own mean.

    Returns
    -------
    `seeds`, `patients`, `dropped` (cells); `difference` of the means (first minus second) and `ratio` of the
    standard deviations (first over second), each with `_low`, `_high`, `_seeds` and `_reason`; `wilcoxon`,
    the two-sided p of the signed-rank test on the patients' differences (None where fewer than 3 patients or
    all differences are 0). Undefined numbers are None.
    """
    seeds, pairs, dropped = aligned(first, second)
    gain = bootstrap(pairs, difference, resamples=resamples, seed=seed)
    logs = bootstrap(pairs, log_ratio, resamples=resamples, seed=seed)
    ratio = Estimate(_exp(logs.value), _exp(logs.low), _exp(logs.high), logs.reason)
    return {
        "seeds": seeds,
        "patients": len(pairs),
        "dropped": dropped,
        "wilcoxon": _wilcoxon(pairs),
        **columns("difference", gain, per_seed(pairs, difference)),
        **columns("ratio", ratio, [_exp(value) for value in per_seed(pairs, log_ratio)]),
    }


def aligned(*sides: pd.DataFrame) -> tuple[list[int], np.ndarray, int]:
    """Put arms, each given as its `table`, on the patients and seeds that all of them have.

    Returns
    -------
    The seeds; the values, float64 `(patients, seeds, arms)`, a cell that is undefined in one arm NaN in all, without
    patients who have no other; and the number of such cells.
    """
    seeds = [name for name in sides[0].columns if all(name in side.columns for side in sides[1:])]
    everyone = functools.reduce(pd.Index.union, (side.index for side in sides))
    values = np.stack([side.reindex(index=everyone)[seeds].to_numpy(dtype=np.float64) for side in sides], axis=-1)
    known = np.isfinite(values).all(axis=-1)
    values = np.where(known[..., None], values, np.nan)[known.any(axis=1)]
    return [int(name) for name in seeds], values, int((~known).sum())


def columns(name: str, estimate: Estimate, seeds: list) -> dict:
    """Return an estimate and each seed's own value as the columns of a row: `name`, `_low`, `_high`, and so on."""
    return {
        name: estimate.value,
        f"{name}_low": estimate.low,
        f"{name}_high": estimate.high,
        f"{name}_seeds": seeds,
        f"{name}_reason": estimate.reason,
    }


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)


def _wilcoxon(pairs: np.ndarray) -> float | None:
    if len(pairs) < MIN_PATIENTS:
        return None
    gaps = seed_average(pairs[..., 0]) - seed_average(pairs[..., 1])
    return float(stats.wilcoxon(gaps).pvalue) if np.any(gaps != 0) else None


def with_runs(rows: Sequence[dict], distinct: float) -> list[tuple[float, float] | None]:
    """Widen each comparison's interval of the difference by what another run of training would change.

    An interval over patients takes the trained segmenters as they are. The variance of a difference over seeds is
    pooled over the comparisons of a table, since one comparison has two or three seeds; that of the mean over a row's
    seeds, times Student's t, is added to the interval's two sides in squares.

    Parameters
    ----------
    rows
        As `compare` returns them.
    distinct
        Number of arms and budgets that are compared: rows that share one are not independent, so the degrees of
        freedom are at most `distinct` times the seeds less one.

    Returns
    -------
    The two ends of each row; None where it has no interval, or no row has two seeds.
    """
    several = [row["difference_seeds"] for row in rows if len(row["difference_seeds"]) > 1]
    several = [values for values in several if None not in values]
    if not several:
        return [None] * len(rows)
    variance = float(np.mean([np.var(values, ddof=1) for values in several]))
    freedom = min(distinct, len(several)) * (float(np.mean([len(values) for values in several])) - 1)
    student = float(stats.t.ppf((1 + LEVEL) / 2, freedom))
    ends: list[tuple[float, float] | None] = []
    for row in rows:
        middle, low, high = (row[f"difference{end}"] for end in ("", "_low", "_high"))
        if low is None:
            ends.append(None)
            continue
        more = student * math.sqrt(variance / len(row["seeds"]))
        ends.append((middle - math.hypot(middle - low, more), middle + math.hypot(high - middle, more)))
    return ends


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for their number by Holm's step-down method.

    The probability that any true null hypothesis among them falls below a level is at most that level, whatever the
    dependence (Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of
    Statistics 6(2)). None, where nothing was tested, stays None and does not count.
    """
    tested = sorted((value, place) for place, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * value))
        corrected[place] = largest
    return corrected
