"""Do the intervals cover the truth? Simulated cohorts whose true effects are known. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special, stats

from stedm.provenance import environment, write_text
from stedm.report.claims import MEAN, claims
from stedm.scores import statistics as st

PATIENTS, COHORTS = 24, 500
OTHERS = 5
"""Other comparisons of the same table, over which the spread over runs is pooled."""
NO_INTERVAL = {"difference": None, "difference_low": None, "difference_high": None, "seeds": []}
TARGET = (0.92, 0.98)
SHARED = 0.7
"""Correlation of two arms' values of a patient, on the normal scale: what is hard for one is hard for the other."""
_GRID = np.linspace(0, 1, 4001)
FAILED = (1.2, 9.0)
"""a and b of the Beta of an IoU where an arm fails: a mean of 0.12."""


@functools.cache
def quantiles(a: float, b: float) -> np.ndarray:
    """Return the quantiles of a Beta at `_GRID`."""
    return stats.beta.ppf(_GRID, a, b)


@dataclass(frozen=True)
class Population:
    """Patients' IoUs in two arms, each a Beta with a share of failures; and what a run of training adds."""

    name: str
    shapes: tuple[tuple[float, float], tuple[float, float]]
    """a and b of the Beta of each arm where it does not fail."""
    failures: tuple[float, float]
    """Share of patients on whom each arm fails."""
    seeds: int = 1
    run: float = 0.0
    """Standard deviation of a run's shift of all patients, in logits of the IoU."""
    own: float = 0.0
    """Share of a patient's variance, on the normal scale, that a run draws anew."""
    held: bool = True
    """Whether the intervals are held to `TARGET` here."""

    def draw(self, random: np.random.Generator, patients: int) -> np.ndarray:
        """Draw a cohort: IoUs (patients, seeds, 2)."""
        common = random.standard_normal((2, patients))
        arms = []
        for (a, b), failures in zip(self.shapes, self.failures, strict=True):
            mixed = np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * random.standard_normal((2, patients))
            fresh = random.standard_normal((2, patients, self.seeds))
            place, luck = special.ndtr(np.sqrt(1 - self.own) * mixed[..., None] + np.sqrt(self.own) * fresh)
            good = np.interp(place, _GRID, quantiles(a, b))
            iou = np.where(luck < failures, np.interp(place, _GRID, quantiles(*FAILED)), good)
            shift = self.run * random.standard_normal(self.seeds)
            arms.append(special.expit(special.logit(iou) + shift) if self.run else iou)
        return np.stack(arms, -1)

    def truth(self, patients: int = 1000, runs: int = 1000) -> tuple[float, float]:
        """Return the difference of the means and the log ratio of the standard deviations, over patients and runs."""
        random = np.random.default_rng(1)
        drawn = [self.draw(random, patients) for _ in range(runs)]
        spreads = np.mean([[st.std(one[..., 0]), st.std(one[..., 1])] for one in drawn], 0)
        return float(np.mean([st.difference(one) for one in drawn])), float(np.log(spreads[0] / spreads[1]))


ALIKE, BETTER = ((8, 3), (8, 3)), ((9, 2.6), (7, 3))
POPULATIONS = (
    Population("no failures", BETTER, (0.0, 0.0)),
    Population("long tails", ((3, 1), (1.5, 0.7)), (0.0, 0.0)),
    Population("failures alike", ALIKE, (0.12, 0.12)),
    Population("failures halved", BETTER, (0.1, 0.2)),
    Population("failures rare in one", BETTER, (0.04, 0.25), held=False),
    Population("alike, 2 runs", ALIKE, (0.12, 0.12), 2, 0.25, 0.1, held=False),
    Population("alike, 3 runs", ALIKE, (0.12, 0.12), 3, 0.25, 0.1, held=False),
    Population("halved, 3 runs", BETTER, (0.1, 0.2), 3, 0.25, 0.1, held=False),
)


def expanded(pairs: np.ndarray, statistic: st.Statistic, drawn: np.ndarray) -> tuple[float, float]:
    """Return the expanded percentile interval with n - 1 degrees of freedom."""
    number = len(pairs)
    tail = stats.norm.cdf(np.sqrt(number / (number - 1)) * stats.t.ppf(0.025, number - 1))
    return tuple(np.quantile(drawn, [tail, 1 - tail]))


def bca(pairs: np.ndarray, statistic: st.Statistic, drawn: np.ndarray) -> tuple[float, float]:
    """Return the bias-corrected and accelerated interval (Efron 1987, JASA 82(397))."""
    edge = 0.5 / len(drawn)
    bias = stats.norm.ppf(np.clip((drawn < statistic(pairs)).mean(), edge, 1 - edge))
    left = _left_out(pairs, statistic)
    away = left.mean() - left
    speed = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    normal = bias + stats.norm.ppf([0.025, 0.975])
    return tuple(np.quantile(drawn, stats.norm.cdf(bias + normal / (1 - speed * normal))))


def studentised(pairs: np.ndarray, statistic: st.Statistic, resampled: np.ndarray) -> tuple[float, float]:
    """Return the studentised bootstrap interval of the log ratio, by its influence function's standard errors."""
    (point, error), (drawn, errors) = _ratio_and_error(pairs), _ratio_and_error(resampled)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = (drawn - point) / errors
    low, high = np.quantile(scaled[np.isfinite(scaled)], [0.025, 0.975])
    return float(point - high * error), float(point - low * error)


def _ratio_and_error(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    number = pairs.shape[-3]
    influence = 0
    for arm, sign in ((0, 1), (1, -1)):
        square = (pairs[..., arm] - pairs[..., arm].mean(-2, keepdims=True)) ** 2
        spread = np.sqrt(square.sum(-2) / (number - 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            own = (square / spread[..., None, :] - spread[..., None, :]) / 2
            influence = influence + sign * own.sum(-1) / spread.sum(-1)[..., None]
    return st.log_ratio(pairs), np.sqrt((influence**2).sum(-1) / (number * (number - 1)))


def _left_out(pairs: np.ndarray, statistic: st.Statistic) -> np.ndarray:
    return np.array([float(statistic(np.delete(pairs, place, 0))) for place in range(len(pairs))])


def _verdicts(found: dict) -> dict[str, str]:
    """Return the report's verdict on the mean and on the variability."""
    row = {"kind": "claim", "arm": "arm", "baseline": "baseline", "budget": 1, "missing": [], "holm": None, **found}
    judged = claims(pd.DataFrame([row]))
    return dict(zip(judged["claim"].eq(MEAN).map({True: "difference", False: "ratio"}), judged["verdict"], strict=True))


def measure(population: Population, cohorts: int = COHORTS, resamples: int = 1000) -> dict[str, object]:
    """Simulate cohorts of a population; return shares of them.

    `difference` and `ratio`: the interval holds the truth. `ratio_expanded`, `ratio_bca`, `ratio_studentised`: the same
    of other intervals. `…_effect`: the interval excludes no effect; `runs`: the one with the
    spread over runs holds the truth; `…_verdict`: the report says supported or refuted.
    """
    truth = dict(zip(("difference", "ratio"), population.truth(), strict=True))
    hits: dict[str, list[bool]] = {}

    def note(name: str, value: bool) -> None:
        hits.setdefault(name, []).append(bool(value))

    for number in range(cohorts):
        random = np.random.default_rng([7, number])
        pairs = population.draw(random, PATIENTS)
        sides = [pd.DataFrame(pairs[..., arm]) for arm in (0, 1)]
        found = st.compare(*sides, resamples=resamples, seed=number)
        others = [] if population.seeds == 1 else [population.draw(random, PATIENTS) for _ in range(OTHERS)]
        table = [found, *({"difference_seeds": st.per_seed(one, st.difference)} | NO_INTERVAL for one in others)]
        found["runs_low"], found["runs_high"] = st.with_runs(table, len(table))[0] or (None, None)
        verdicts = _verdicts(found)
        for name, none in (("difference", 0.0), ("ratio", 1.0)):
            low, high = found[f"{name}_low"], found[f"{name}_high"]
            note(name, low <= (truth[name] if none == 0 else np.exp(truth[name])) <= high)
            note(f"{name}_effect", not low <= none <= high)
            note(f"{name}_verdict", verdicts[name] != "undecided")
        if found["runs_low"] is not None:
            note("runs", found["runs_low"] <= truth["difference"] <= found["runs_high"])
        resampled = pairs[random.integers(0, PATIENTS, (resamples, PATIENTS))]
        drawn = st.log_ratio(resampled)
        drawn = drawn[np.isfinite(drawn)]
        ways: dict[str, tuple[Callable, np.ndarray]] = {
            "expanded": (expanded, drawn),
            "bca": (bca, drawn),
            "studentised": (studentised, resampled),
        }
        for name, (way, given) in ways.items():
            low, high = way(pairs, st.log_ratio, given)
            note(f"ratio_{name}", low <= truth["ratio"] <= high)
    shares = {name: float(np.mean(values)) for name, values in hits.items()}
    facts = {"population": population.name, "held": population.held, "seeds": population.seeds}
    return facts | {"true_difference": truth["difference"], "true_ratio": float(np.exp(truth["ratio"]))} | shares


COLUMNS = {
    "difference": ("true_difference", "+.3f"),
    "ratio": ("true_ratio", ".3f"),
    "diff. covered": ("difference", ".1%"),
    "with runs": ("runs", ".1%"),
    "ratio covered": ("ratio", ".1%"),
    "expanded": ("ratio_expanded", ".1%"),
    "BCa": ("ratio_bca", ".1%"),
    "studentised": ("ratio_studentised", ".1%"),
    "diff. ≠ 0": ("difference_effect", ".1%"),
    "supported": ("difference_verdict", ".1%"),
    "ratio ≠ 1": ("ratio_effect", ".1%"),
    "supported ": ("ratio_verdict", ".1%"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohorts", type=int, default=COHORTS, help=f"of each population (default {COHORTS})")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    print(f"{'population':<22}" + "".join(f"{name:>14}" for name in COLUMNS))
    rows = []
    for population in POPULATIONS:
        rows.append(row := measure(population, options.cohorts))
        cells = "".join(f"{format(row[key], form) if key in row else '—':>14}" for key, form in COLUMNS.values())
        print(f"{population.name:<22}{cells}", flush=True)
    held = [row[name] for row in rows if row["held"] for name in ("difference", "ratio")]
    met = all(TARGET[0] <= share <= TARGET[1] for share in held)
    print(f"\n{TARGET[0]:.0%} to {TARGET[1]:.0%} covered in the first {sum(p.held for p in POPULATIONS)}: ", end="")
    print("met" if met else "NOT MET")
    if options.json:
        facts = {"cohorts": options.cohorts, "patients": PATIENTS, "target": TARGET, "met": met}
        write_text(options.json, json.dumps({**facts, "rows": rows, "made_by": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
