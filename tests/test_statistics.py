"""IoU by hand, intervals against theory and simulation, and verdicts that never invent a number."""

import importlib.util
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT
from scipy import stats

from stedm.report.claims import MEAN, RUNS, SPREAD, claims, comparisons, runs
from stedm.report.html import answers
from stedm.report.on_top import WITHIN, distance, on_top
from stedm.report.saved import equivalent_budget, labels_saved
from stedm.scores import statistics as st
from stedm.scores.metrics import count, per_group, per_patient, per_slide, pooled


def rows(counts: dict, **more) -> list[dict]:
    """Two score rows of a slide from its tp, fp, fn, tn."""
    one = {
        "cohort": "c", "arm": "real", "budget": 1, "seed": 0, "segmenter": "id", "checkpoint": "last",
        "slide": "s1", "patient": "p1", "group": "0",
    } | more  # fmt: skip
    tumour = {"annotated": "tumour", "foreground": True}
    rest = {"annotated": "unannotated", "foreground": False}
    return [
        one | tumour | {"predicted_foreground": counts["tp"], "predicted_background": counts["fn"]},
        one | rest | {"predicted_foreground": counts["fp"], "predicted_background": counts["tn"]},
    ]


def frame(*parts: list[dict]) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in part]).astype({"budget": "Int64"})


def patients_of(values: dict, *, checkpoint: str = "last") -> pd.DataFrame:
    """A per-patient table from {(arm, budget): array (patients, seeds)}."""
    found = []
    for (arm, budget), table in values.items():
        for (p, s), iou in np.ndenumerate(np.asarray(table, dtype=float)):
            one = {"cohort": "c", "arm": arm, "budget": budget, "seed": s, "checkpoint": checkpoint, "group": "0"}
            found.append(one | {"patient": f"p{p:03d}", "iou": None if np.isnan(iou) else iou})
    return pd.DataFrame(found).astype({"budget": "Int64", "iou": "Float64"})


def judge(values: dict, expected=None, **more) -> pd.DataFrame:
    table = claims(comparisons(patients_of(values), expected, resamples=500, **more))
    return table.set_index(["arm", "baseline", "budget", "claim"])


# Counts and ratios


def test_iou_and_dice_by_hand_and_pooled_over_slides():
    scores = frame(
        rows({"tp": 60, "fp": 20, "fn": 20, "tn": 900}),
        rows({"tp": 10, "fp": 0, "fn": 30, "tn": 500}, slide="s2"),
        rows({"tp": 90, "fp": 10, "fn": 0, "tn": 0}, slide="s3", patient="p2", group="1"),
    )
    table = per_patient(scores).set_index("patient")
    assert table.loc["p1", ["tp", "fp", "fn", "tn"]].tolist() == [70, 20, 50, 1400]
    assert table.loc["p1", "iou"] == pytest.approx(70 / 140)
    assert table.loc["p1", "dice"] == pytest.approx(140 / 210)
    assert per_slide(scores).set_index("slide").loc["s1", "iou"] == pytest.approx(0.6)
    assert per_group(scores).set_index("group").loc["1", "iou"] == pytest.approx(0.9)
    assert pooled(scores)["iou"].tolist() == [pytest.approx(160 / 240)]


def test_nothing_to_find_and_nothing_found_is_null_not_one_or_zero():
    scores = frame(
        rows({"tp": 0, "fp": 0, "fn": 0, "tn": 100}),
        rows({"tp": 0, "fp": 5, "fn": 0, "tn": 95}, slide="s2", patient="p2"),
    )
    table = per_patient(scores).set_index("patient")
    assert table["iou"].isna().tolist() == [True, False]
    assert table.loc["p2", "iou"] == 0
    assert table["dice"].isna().tolist() == [True, False]


def test_several_foreground_classes_add_up_and_oracles_keep_a_null_budget():
    two = rows({"tp": 5, "fp": 1, "fn": 1, "tn": 9}, arm="oracle", budget=None)
    two.append(two[0] | {"annotated": "other tumour", "predicted_foreground": 3, "predicted_background": 1})
    table = per_patient(frame(two))
    assert table["budget"].isna().all()
    assert table.loc[0, ["tp", "fn"]].tolist() == [8, 2]


def test_counts_stay_exact_beyond_float_precision():
    huge = 2**53 + 1
    assert count(frame(rows({"tp": huge, "fp": 0, "fn": 0, "tn": huge})), ["arm"]).loc[0, ["tp", "tn"]].tolist() == [
        huge,
        huge,
    ]


ONES = {"tp": 1, "fp": 1, "fn": 1, "tn": 1}


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (frame(rows(ONES), rows(ONES, segmenter="id2")), "twice"),
        (frame(rows(ONES | {"tp": -1})), "negative"),
        (frame(rows(ONES)).drop(columns="foreground"), "lack"),
        (frame(rows(ONES), rows(ONES, slide="s2", group="3+")), "more than one group"),
    ],
)
def test_malformed_scores_are_named(scores, message):
    with pytest.raises(ValueError, match=message):
        per_patient(scores)


# Statistics


def test_mean_std_and_worst_decile_by_hand():
    values = np.array([[0.2, 0.4], [0.6, np.nan], [0.9, 0.8]])
    assert st.mean(values) == pytest.approx((0.3 + 0.6 + 0.85) / 3)
    expected = [np.std([0.2, 0.6, 0.9], ddof=1), np.std([0.4, 0.8], ddof=1)]
    assert st.std_per_seed(values) == pytest.approx(expected)
    assert st.std(values) == pytest.approx(np.mean(expected))
    assert st.worst(values) == pytest.approx(0.3)
    assert st.worst(np.arange(24.0)[:, None]) == pytest.approx(1.0)  # the lowest 3 of 24
    assert st.worst(np.arange(20.0)[:, None]) == pytest.approx(0.5)  # exactly 2 of 20


def test_interval_agrees_with_scipy_where_patients_are_many():
    values = np.random.default_rng(5).beta(4, 2, 200)
    ours = st.bootstrap(values[:, None], st.mean, resamples=4000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.1 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.1 * width)


def test_interval_is_deterministic_and_does_not_depend_on_chunks(monkeypatch):
    values = np.random.default_rng(2).random((30, 2))
    first = st.bootstrap(values, st.std, resamples=300)
    monkeypatch.setattr(st, "_CHUNK", 1000)
    assert st.bootstrap(values, st.std, resamples=300) == first
    assert st.bootstrap(values, st.std, resamples=300, seed=1) != first


def test_degrees_of_freedom_by_hand():
    # Two values in equal parts have kurtosis 1 and the most degrees of freedom, n - 1.
    assert st.degrees(np.repeat([0.2, 0.8], 12)[:, None], st.mean) == 23
    # One of 25 apart: its deviation is 24 times the others', so that the kurtosis is (24^4 + 24) / 25 / 24^2.
    one = np.zeros((25, 1))
    one[0] = 1
    assert st.degrees(one, st.mean) == pytest.approx(50 / (((24**4 + 24) / 25) / 24**2 - 1))
    # A spread that one patient alone makes is not there without him: nothing is known of its own.
    pair = np.stack([one, one], -1)
    assert st.degrees(pair, st.log_ratio) == 24


def test_an_interval_that_few_patients_decide_is_wider():
    even, tail = np.linspace(0.4, 0.8, 24)[:, None], np.r_[np.linspace(0.78, 0.82, 21), 0.0, 0.1, 0.3][:, None]
    edge = stats.norm.cdf(np.sqrt(24 / 23) * stats.t.ppf(0.025, 23))
    for values, statistic, widens in ((even, st.mean, False), (tail, st.mean, True), (tail, st.std, True)):
        drawn = statistic(values[np.random.default_rng(0).integers(0, 24, (2000, 24))])
        low, high = np.quantile(drawn, [edge, 1 - edge])
        found = st.bootstrap(values, statistic)
        assert (found.low < low, found.high > high) == (widens, widens)


def simulation():
    """The module of benchmarks/coverage.py."""
    spec = importlib.util.spec_from_file_location("coverage", PROJECT / "benchmarks" / "coverage.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["coverage"] = module
    spec.loader.exec_module(module)
    return module


def test_simulated_patients_have_the_means_and_spreads_that_they_should():
    coverage = simulation()
    alone = coverage.Population("", ((3, 1), (1.5, 0.7)), (0.0, 0.0))
    difference, ratio = alone.truth()
    spread = [stats.beta.std(a, b) for a, b in alone.shapes]
    assert difference == pytest.approx(3 / 4 - 1.5 / 2.2, abs=2e-3)
    assert ratio == pytest.approx(np.log(spread[0] / spread[1]), abs=5e-3)
    failing = coverage.Population("", ((8, 3), (8, 3)), (0.2, 0.0))
    assert failing.truth()[0] == pytest.approx(0.2 * (1.2 / 10.2 - 8 / 11), abs=2e-3)


def test_intervals_cover_what_they_say_on_skewed_values_with_failures():
    """A hundred cohorts; benchmarks/coverage.py has five hundred of each of more populations."""
    coverage = simulation()
    found = coverage.measure(next(p for p in coverage.POPULATIONS if p.name == "failures alike"), 100, resamples=400)
    assert 0.88 <= found["difference"] <= 0.99
    assert 0.88 <= found["ratio"] <= 0.995
    # No effect is there to find: what intervals exclude, they exclude by chance.
    assert found["difference_effect"] <= 0.12
    assert found["ratio_verdict"] <= 0.12


def test_holm_by_hand():
    assert st.holm([0.01, None, 0.04, 0.03]) == [0.03, None, 0.06, 0.06]
    assert st.holm([0.6, 0.9]) == [1.0, 1.0]
    assert st.holm([]) == []


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((0, 1)), "no patient"),
        (np.array([[0.5]]), "only 1 patient,"),
        (np.array([[0.5], [0.7]]), "only 2 patients"),
        (np.full((10, 2), 0.3), "no variance"),
    ],
)
def test_no_interval_is_made_up(values, reason):
    found = st.bootstrap(values, st.mean, resamples=100)
    assert found.low is None
    assert found.high is None
    assert reason in found.reason


def test_pairs_drop_what_is_undefined_in_either_arm_and_count_it():
    a = np.array([[0.5, 0.6], [0.7, np.nan], [0.9, 0.8], [0.4, 0.5]])
    b = np.array([[0.4, 0.5], [0.6, 0.6], [np.nan, np.nan], [0.5, 0.3]])
    patients = patients_of({("synthetic", 1): a, ("real", 1): b})
    found = st.compare(st.table(patients, "synthetic", 1, "last"), st.table(patients, "real", 1, "last"), resamples=200)
    assert (found["patients"], found["dropped"]) == (3, 3)
    assert found["difference"] == pytest.approx(np.mean([0.1, 0.1, 0.45 - 0.4]))
    assert found["ratio_seeds"][0] == pytest.approx(np.std([0.5, 0.7, 0.4], ddof=1) / np.std([0.4, 0.6, 0.5], ddof=1))


# Verdicts

RNG = np.random.default_rng(11)
HARD = RNG.standard_normal((24, 1))
BASE = 0.5 + 0.15 * HARD + 0.02 * RNG.standard_normal((24, 2))


def test_supported_refuted_and_undecided():
    values = {
        ("real", 1): BASE,
        ("synthetic", 1): 0.7 + 0.4 * (BASE - 0.5) + 0.01 * RNG.standard_normal(BASE.shape),
        ("synthetic-null", 1): BASE - 0.1 + 0.6 * (BASE - BASE.mean()) + 0.01 * RNG.standard_normal(BASE.shape),
        ("synthetic-colour", 1): BASE + 0.02 * RNG.standard_normal(BASE.shape),
    }
    verdict = judge(values)["verdict"]
    assert verdict["synthetic", "real", 1, MEAN] == "supported"
    assert verdict["synthetic", "real", 1, SPREAD] == "supported"
    assert verdict["synthetic-null", "real", 1, MEAN] == "refuted"
    assert verdict["synthetic-null", "real", 1, SPREAD] == "refuted"
    assert verdict["synthetic-colour", "real", 1, MEAN] == "undecided"


def test_one_seed_of_the_other_sign_leaves_a_claim_undecided():
    gain = np.array([0.3, -0.02]) + 0.01 * RNG.standard_normal((24, 2))
    row = judge({("real", 1): BASE, ("synthetic", 1): BASE + gain}).loc["synthetic", "real", 1, MEAN]
    assert row["low"] > 0
    assert row["verdict"] == "undecided"
    assert "seed 1 does not agree" in row["reason"]


def test_a_missing_run_is_undecided_and_has_no_number():
    expected = [{"arm": arm, "budget": 1, "seed": s} for arm in ("real", "synthetic") for s in (0, 1)]
    row = judge({("real", 1): BASE}, expected).loc["synthetic", "real", 1, MEAN]
    assert row["verdict"] == "undecided"
    assert "synthetic seed 0, synthetic seed 1" in row["reason"]
    assert pd.isna(row["estimate"])
    assert pd.isna(row["low"])
    assert row["per_seed"] == []


def test_a_missing_seed_leaves_a_clear_effect_undecided():
    better = BASE + 0.2 + 0.01 * RNG.standard_normal(BASE.shape)
    row = judge({("real", 1): BASE, ("synthetic", 1): better[:, :1]}).loc["synthetic", "real", 1, MEAN]
    assert row["low"] > 0
    assert row["verdict"] == "undecided"
    assert "synthetic seed 1" in row["reason"]


@pytest.mark.parametrize("number", [1, 2])
def test_too_few_patients_are_undecided_with_a_reason(number):
    table = judge({("real", 1): BASE[:number], ("synthetic", 1): BASE[:number] + 0.2})
    assert set(table["verdict"]) == {"undecided"}
    assert table["low"].isna().all()
    assert table["reason"].str.startswith("No interval: ").all()


def test_one_seed_is_judged_with_its_caveat():
    better = BASE + 0.2 + 0.01 * RNG.standard_normal(BASE.shape)
    row = judge({("real", 1): BASE[:, :1], ("synthetic", 1): better[:, :1]}).loc["synthetic", "real", 1, MEAN]
    assert row["verdict"] == "supported"
    assert "one seed" in row["reason"]


def test_claims_are_of_synthetic_arms_and_references_of_the_rest():
    arms = [("real", 1), ("real-colour", 1), ("synthetic", 1), ("oracle", None), ("oracle-colour", None)]
    pairs = comparisons(patients_of(dict.fromkeys(arms, BASE)), resamples=50)
    own = {kind: set(zip(part["arm"], part["baseline"], strict=True)) for kind, part in pairs.groupby("kind")}
    assert own["claim"] == {("synthetic", "real"), ("synthetic", "real-colour")}
    assert own["reference"] == {("real-colour", "real"), ("oracle", "real"), ("oracle-colour", "real-colour")}
    assert len(claims(pairs)) == 4


def test_synthetic_arms_meet_every_baseline_and_each_baseline_its_own_real():
    names = ("real", "real-colour", "pseudo-labels", "pseudo-labels-colour", "real-normalised")
    arms = [(arm, 1) for arm in (*names, "synthetic-null", "synthetic-pseudo", "synthetic-colour")]
    pairs = comparisons(patients_of(dict.fromkeys(arms, BASE)), resamples=50)
    own = {kind: set(zip(part["arm"], part["baseline"], strict=True)) for kind, part in pairs.groupby("kind")}
    assert own["claim"] == {
        *((arm, baseline) for arm in ("synthetic-pseudo", "synthetic-colour") for baseline in names),
        ("synthetic-null", "real"),
        ("synthetic-null", "real-colour"),
    }
    assert own["reference"] == {
        ("real-colour", "real"),
        ("real-normalised", "real"),
        ("pseudo-labels", "real"),
        ("pseudo-labels-colour", "real-colour"),
    }


def test_p_is_corrected_within_its_table():
    """Two claims and one reference: the reference does not count for the claims."""
    better = BASE + 0.02 + 0.05 * RNG.standard_normal(BASE.shape)
    values = {("real", 1): BASE, ("real-colour", 1): BASE + 0.01 * RNG.standard_normal(BASE.shape)}
    table = comparisons(patients_of(values | {("synthetic", 1): better}), resamples=50)
    claim, reference = table[table["kind"] == "claim"], table[table["kind"] == "reference"]
    assert sorted(claim["holm"]) == pytest.approx(sorted(st.holm(list(claim["wilcoxon"]))))
    assert claim["holm"].max() > claim["wilcoxon"].max() or claim["holm"].min() == 2 * claim["wilcoxon"].min()
    assert reference["holm"].tolist() == reference["wilcoxon"].tolist()
    judged = claims(table).set_index(["baseline", "claim"])
    assert judged.loc[("real", MEAN), "holm"] == claim.set_index("baseline").loc["real", "holm"]
    assert judged["holm"].isna().tolist() == [False, True, False, True]


def test_the_spread_over_runs_is_added_to_an_interval_by_hand():
    rows = [
        {"difference": 0.15, "difference_low": 0.1, "difference_high": 0.25, "difference_seeds": [0.1, 0.2]},
        {"difference": 0.1, "difference_low": None, "difference_high": None, "difference_seeds": [0.0, 0.2]},
    ]
    rows = [row | {"seeds": [0, 1]} for row in rows]
    # Variances 0.005 and 0.02, and 2 degrees of freedom.
    more = stats.t.ppf(0.975, 2) * np.sqrt(0.0125 / 2)
    first, second = st.with_runs(rows, distinct=2)
    assert first == pytest.approx((0.15 - np.hypot(0.05, more), 0.15 + np.hypot(0.1, more)))
    assert second is None
    # Rows that share their arm say less.
    assert st.with_runs(rows, distinct=1)[0][0] < first[0]
    alone = rows[0] | {"difference_seeds": [0.15], "seeds": [0]}
    assert st.with_runs([alone], distinct=1) == [None]


def test_a_gain_within_the_spread_over_runs_is_undecided():
    gain = np.array([0.1, 0.01]) + 0.005 * RNG.standard_normal((24, 2))
    row = judge({("real", 1): BASE, ("synthetic", 1): BASE + gain}).loc["synthetic", "real", 1, MEAN]
    assert row["low"] > 0 > row["runs_low"]
    assert min(row["per_seed"]) > 0
    assert (row["verdict"], row["reason"]) == ("undecided", RUNS)


def test_worst_patients_are_named_the_worst_first():
    values = np.linspace(0.9, 0.1, 24)[:, None] * np.ones((1, 2))
    values[3, 1] = np.nan
    found = st.describe(st.table(patients_of({("real", 1): values}), "real", 1, "last"), resamples=50)
    assert found["worst_patients"] == ["p023", "p022", "p021"]


def test_equivalent_budget_by_hand():
    budgets = np.array([1.0, 4.0, 16.0])
    assert equivalent_budget(0.55, budgets, np.array([0.5, 0.6, 0.7])) == pytest.approx(2)
    assert equivalent_budget(0.5, budgets, np.array([0.5, 0.6, 0.7])) == pytest.approx(1)
    assert equivalent_budget(0.4, budgets, np.array([0.5, 0.6, 0.7])) == 0
    assert equivalent_budget(0.8, budgets, np.array([0.5, 0.6, 0.7])) == np.inf
    # More labels that are worse: the curve stays where it was.
    assert equivalent_budget(0.65, budgets, np.array([0.5, 0.4, 0.8])) == pytest.approx(8)


def test_labels_saved_are_read_off_the_baselines_curve_and_never_extrapolated():
    values = {("real", 1): BASE, ("real", 4): BASE + 0.1, ("synthetic", 1): BASE + 0.05, ("synthetic", 4): BASE + 0.3}
    patients = patients_of(values)
    found = labels_saved(patients, runs(patients, None), resamples=200)
    first, second = found.raw.to_dict("records")
    # The arm lies halfway for every patient: whoever is drawn, it is two labels.
    assert [first[name] for name in ("labels", "labels_low", "labels_high")] == pytest.approx([2, 2, 2])
    assert found.shown.iloc[0, -1] == "2.0 [2.0, 2.0]"
    assert second["labels"] == np.inf and found.shown.iloc[1, -1] == "> 4 [> 4, > 4]"
    alone = patients_of({("real", 1): BASE, ("synthetic", 1): BASE})
    assert labels_saved(alone, runs(alone, None)) is None


# On top of what else helps


def test_what_synthetic_images_add_is_compared_within_each_of_what_else_helps():
    rng = np.random.default_rng(5)
    gain = 0.05 + 0.02 * rng.standard_normal(BASE.shape)
    loss = -0.1 + 0.02 * rng.standard_normal(BASE.shape)
    values = {
        ("real-colour", 1): BASE, ("synthetic-colour", 1): BASE + gain,
        ("pseudo-labels", 1): BASE, ("synthetic-pseudo", 1): BASE + loss,
        ("real", 1): BASE, ("synthetic", 1): BASE + 0.3, ("real-normalised", 1): BASE,
    }  # fmt: skip
    patients = patients_of(values)
    made = on_top(patients, runs(patients, None), resamples=300)
    rows = made.raw.set_index("beside")
    # The arm without anything else, and the one that lacks its partner, are no rows.
    assert list(rows.index) == ["colour augmentation", "pseudo-labels"]
    for beside, arm, baseline in (
        ("colour augmentation", "synthetic-colour", "real-colour"),
        ("pseudo-labels", "synthetic-pseudo", "pseudo-labels"),
    ):
        truth = st.compare(*(st.table(patients, name, 1, "last") for name in (arm, baseline)), resamples=300)
        for name in ("difference", "difference_low", "ratio_high", "wilcoxon"):
            assert rows.loc[beside, name] == truth[name]
    assert rows["mean_verdict"].tolist() == ["supported", "refuted"]
    assert rows["holm"].tolist() == st.holm(rows["wilcoxon"].tolist())
    assert (rows["runs_low"] < rows["difference_low"]).all()
    first, second = answers(made, None)
    assert first.startswith("On top of colour augmentation, with 1 labelled patient per class: synthetic images add")
    assert second.partition(": ")[2].startswith("synthetic images lower the mean IoU (−0.")
    # A run that is missing leaves the question open, whatever the others say.
    planned = runs(patients, [{"arm": "real-colour", "budget": 1, "seed": 7}])
    [first, _] = on_top(patients, planned, resamples=300).raw.to_dict("records")
    assert first["mean_verdict"] == "undecided" and "real-colour seed 7" in first["mean_reason"]
    alone = patients_of({("real", 1): BASE, ("synthetic", 1): BASE})
    assert on_top(alone, runs(alone, None)) is None and distance(alone, runs(alone, None)) is None


def test_the_share_of_the_distance_to_all_labels_by_hand():
    """Patients differ in how far they have to go and how far they get; all three arms are resampled together."""
    rng = np.random.default_rng(6)
    way = 0.2 + 0.05 * rng.standard_normal(BASE.shape)
    gone = way * 0.6 + 0.02 * rng.standard_normal(BASE.shape)
    values = {("real-colour", 1): BASE, ("synthetic-colour", 1): BASE + gone, ("oracle-colour", None): BASE + way}
    patients = patients_of(values)
    made = distance(patients, runs(patients, None), resamples=4000)
    [row] = made.raw.to_dict("records")
    assert row["distance"] == pytest.approx(way.mean()) and row["share"] == pytest.approx(gone.mean() / way.mean())
    assert row["share_seeds"] == pytest.approx(list(gone.mean(0) / way.mean(0)))
    # The delta method for the ratio of two means, with Student's t as the interval has it.
    error = (gone - row["share"] * way).mean(1).std(ddof=1) / np.sqrt(24) / way.mean()
    half = stats.t.ppf(0.975, 23) * error
    assert [row["share_low"], row["share_high"]] == pytest.approx([row["share"] - half, row["share"] + half], abs=0.006)
    assert made.shown["Share covered [95 %]"].iloc[0] == f"{row['share']:.0%}".replace("%", " %") + (
        f" [{row['share_low'] * 100:.0f} %, {row['share_high'] * 100:.0f} %]"
    )
    assert "synthetic-colour covers" in answers(None, made)[0]


@pytest.mark.parametrize("shift", [0.0, -0.2])
def test_there_is_no_share_of_a_distance_that_may_be_none(shift):
    rng = np.random.default_rng(7)
    way = shift + 0.1 * rng.standard_normal(BASE.shape)
    values = {("real", 1): BASE, ("synthetic", 1): BASE + 0.1, ("oracle", None): BASE + way}
    patients = patients_of(values)
    made = distance(patients, runs(patients, None), resamples=300)
    [row] = made.raw.to_dict("records")
    assert row["distance"] == pytest.approx(way.mean()) and row["share"] is None and row["share_reason"] == WITHIN
    assert made.shown["Share covered [95 %]"].iloc[0] == "undefined"
    assert WITHIN in answers(None, made)[0] and "has no share" in answers(None, made)[0]


def test_no_data_gives_an_empty_table_with_its_columns():
    table = claims(comparisons(patients_of({("real", 1): BASE})))
    assert len(table) == 0
    assert "verdict" in table.columns


@pytest.mark.parametrize("failing", [0, 1, 3, 10])
def test_thousands_of_patients_are_left_out_in_groups(monkeypatch, failing):
    random = np.random.default_rng(5)
    values = random.normal(0.8, 0.05, (1990, 1))
    values[random.choice(1990, failing, replace=False)] = 0.02
    grouped = st.degrees(values, st.std)
    monkeypatch.setattr(st, "MOST_LEFT_OUT", 1990)
    singly = st.degrees(values, st.std)
    student = [stats.t.ppf(0.975, value) for value in (grouped, singly)]
    assert abs(student[0] / student[1] - 1) < 0.01
