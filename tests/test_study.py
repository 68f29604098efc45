"""Folds of patients: one cut, runs of their own, and scores that are pooled."""

import pandas as pd
import pytest
from conftest import MINI, one_sentence

from stedm import stages
from stedm.config import parse_config
from stedm.errors import UserError
from stedm.runs import Plan
from stedm.study import Study

TURNED = {"train": "test", "test": "train", "validation": "validation"}
SMALL = MINI | {
    "arms": ["real", "real-colour"],
    "segmenter": MINI["segmenter"] | {"steps": 2, "checkpoint_every": 2, "validate_every": 2},
}


def study_of(root, values, turned=TURNED, change=lambda frame: frame):
    """A study whose manifest has the fold `turned` beside `split`."""
    path = root / "config/cohorts/mini.csv"
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    frame = pd.read_csv(path, comment="#", dtype=str)
    frame["turned"] = frame["split"].map(turned)
    path.write_text("\n".join([*comments, change(frame).to_csv(index=False)]))
    return Study(parse_config(values | {"cohort": values["cohort"] | {"folds": ["turned"]}}), root)


def test_a_fold_has_its_own_runs_and_the_first_keeps_its_own(project):
    alone = Plan(parse_config(MINI), project)
    study = study_of(project, MINI)
    first, fold = study.plans
    assert {stage: set(runs) for stage, runs in first.all.items()} == {s: set(runs) for s, runs in alone.all.items()}
    assert fold.patients("train") == first.patients("test") and fold.patients("test") == first.patients("train")
    assert fold.tiles is first.tiles and study.tiles is first.tiles
    assert len(study.segmenters) == 2 * len(first.segmenters)
    for stage in ("generator", "synthetic", "segmenter", "scores"):
        assert not set(first.all[stage]) & set(fold.all[stage])
        for plan in study.plans:
            for name, run in plan.all[stage].items():
                assert study.find(stage, name) == (plan, run)
                assert run.facts.get("fold", 0) == plan.fold
    with pytest.raises(UserError, match=r"segmenter: the configuration 'mini' has no run 'real-k9'"):
        study.find("segmenter", "real-k9")


def test_a_fold_with_other_test_patients_has_other_runs(project):
    """Even where it labels and trains the same: what is predicted differs."""

    def ids(study):
        return {run.id for run in study.plans[1].segmenters}

    def fewer(frame):
        one = frame.loc[frame["turned"].eq("test"), "patient"].iloc[0]
        return frame.assign(turned=frame["turned"].mask(frame["patient"].eq(one), "validation"))

    path = project / "config/cohorts/mini.csv"
    text = path.read_text()
    base = ids(study_of(project, MINI))
    path.write_text(text)
    assert not base & ids(study_of(project, MINI, change=fewer))


def test_scores_of_folds_are_one_table(project):
    study = study_of(project, SMALL)
    first = study.plans[0]
    stages.make_cohort(first, first.cohort)
    stages.make_tiles(first, first.tiles)
    for plan, run in study.segmenters:
        stages.make_segmenter(plan, run)
        stages.make_scores(plan, plan.scores(run))
    text = stages.make_report(study)
    patients = {slide.patient for slide in first.slides if slide.split in ("train", "test")}
    scores = pd.read_parquet(study.view / "scores.parquet")
    for (_, _), own in scores.groupby(["arm", "checkpoint"]):
        tested = own.groupby("segmenter")["patient"].agg(set)
        assert len(tested) == 2 and set.union(*tested) == patients and not set.intersection(*tested)
    last = scores[scores["checkpoint"] == "last"]
    hits = last["foreground"] * last["predicted_foreground"]
    union = last["predicted_foreground"] + last["foreground"] * last["predicted_background"]
    sums = pd.DataFrame({"hits": hits, "union": union}).groupby([last["arm"], last["patient"]]).sum()
    means = (sums["hits"] / sums["union"]).groupby("arm").mean()
    table = pd.read_csv(study.view / "tables" / "headline.csv").set_index("arm")
    assert set(table.index) == {"real", "real-colour"} and set(table["patients"]) == {len(patients)}
    for arm, mean in means.items():
        assert table.loc[arm, "mean"] == pytest.approx(mean)
    assert "Pooled over 2 folds" in (study.view / "tables" / "headline.md").read_text()
    assert "pooled over 2 folds" in (study.view / "report.html").read_text()
    assert "real-colour" in text


@pytest.mark.parametrize(
    ("turned", "message"),
    [
        ({"train": "train", "validation": "validation", "test": "test"}, r"mini\.csv: the fold 'turned' tests patient"),
        (TURNED | {"validation": "unlabelled"}, r"the fold 'turned' has other patients in the split 'unlabelled'"),
        (TURNED | {"train": "validation"}, r"no slide has the split 'test'"),
        (TURNED | {"train": "tested"}, r"has the split 'tested'"),
    ],
)
def test_folds_that_do_not_fit(project, turned, message):
    with pytest.raises(UserError, match=message) as error:
        study_of(project, MINI, turned)
    one_sentence(error)
