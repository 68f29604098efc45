"""Manifests, the names of cohorts, and label budgets."""

from pathlib import Path

import pytest
from conftest import one_sentence

from stedm.cohort import Slide, labelled_patients, load_cohort, read_manifest
from stedm.cohort.base import cohort_names
from stedm.config import CohortConfig
from stedm.errors import UserError


def test_cohort_names():
    assert {"monusac", "phantom"} <= set(cohort_names())
    with pytest.raises(UserError, match=r"there are .*monusac, phantom"):
        load_cohort(CohortConfig(name="dvc", manifest=Path("x.csv")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no slides"),
        ("slide,patient,class\ns,p,c\n", "column 'split' is missing"),
        ("slide,patient,class,split\ns,p,,train\n", "row 1 has an empty field"),
        ("slide,patient,class,split\ns,p\n", "row 1 has an empty field"),
        ("slide,patient,class,split\ns,p,c,dev\n", "split 'dev'"),
        ("slide,patient,class,split\na/b,p,c,train\n", "no safe file name"),
        ("slide,patient,class,split\ns,p,c,train\ns,q,c,train\n", "stands in two rows"),
        ("slide,patient,class,split\ns,p,c,train\nt,p,c,test\n", "one split and one class"),
        ("slide,patient,class,split\ns,p,c,train\nt,p,d,train\n", "one split and one class"),
    ],
)
def test_faulty_manifests_are_one_sentence(tmp_path, text, words):
    path = tmp_path / "m.csv"
    path.write_text("# a comment\n" + text)
    with pytest.raises(UserError, match=r"m\.csv") as error:
        read_manifest(path)
    assert words in one_sentence(error)


def test_another_column_can_be_the_split(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("slide,patient,class,split,fold\ns,p,c,train,test\nt,q,c,test,train\n")
    assert [slide.split for slide in read_manifest(path)] == ["train", "test"]
    assert [slide.split for slide in read_manifest(path, "fold")] == ["test", "train"]
    with pytest.raises(UserError, match="column 'other' is missing") as error:
        read_manifest(path, "other")
    one_sentence(error)


def test_missing_manifest_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_manifest(tmp_path / "none.csv")


def people(train=6):
    rows = [Slide(f"s{g}{n}", f"p{g}{n}", g, "train") for g in "ab" for n in range(train)]
    return [*rows, Slide("v", "pv", "a", "validation"), Slide("t", "pt", "b", "test")]


@pytest.mark.parametrize("seed", range(5))
def test_budgets_are_nested_stratified_and_stable(seed):
    slides = people()
    before = set()
    for budget in (1, 2, 3, 6):
        drawn = labelled_patients(slides, budget, seed)
        assert [p[1] for p in drawn] == ["a"] * budget + ["b"] * budget
        assert before <= set(drawn)
        assert drawn == labelled_patients(list(reversed(slides)), budget, seed)
        before = set(drawn)
    assert before == set(labelled_patients(slides, None, seed))
    joined = set(labelled_patients(people(train=7), 3, seed))
    assert len(set(labelled_patients(slides, 3, seed)) - joined) <= 2


def test_seeds_draw_different_patients():
    assert len({tuple(labelled_patients(people(), 2, seed)) for seed in range(8)}) > 4


def test_too_large_a_budget_is_one_sentence():
    with pytest.raises(UserError, match="7 labelled patients of class 'a'") as error:
        labelled_patients(people(), 7, 0)
    one_sentence(error)
