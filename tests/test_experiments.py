"""Experiments as data: variants, valid combinations, shared runs, tables and figures, several cohorts, prices."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import MINI, PROJECT, command, copy_project, one_sentence, write_config
from test_report import fake_scores

from stedm import stages
from stedm.config import SAMPLINGS, Experiment, load_config, load_configs, parse_config
from stedm.errors import UserError
from stedm.experiments import variants
from stedm.report import build_report
from stedm.report import experiments as report
from stedm.report.variants import pack, unpack
from stedm.scores.metrics import per_patient
from stedm.scores.statistics import compare, holm, table, with_runs
from stedm.study import Studies, Study

ABOUT = {"title": "A title", "question": "What is asked?", "cohorts": ["phantom"]}


def experiment(name="one", **values) -> dict:
    return {"name": name, "arms": ["real", "synthetic"], **ABOUT} | values


def config_of(*experiments, **values):
    return parse_config(MINI | {"experiments": list(experiments)} | values)


@pytest.fixture
def clone(monkeypatch):
    """The project itself, as the place where presets and experiments are found."""
    monkeypatch.chdir(PROJECT)


# ---- which variants there are


STYLES = {
    "generator.style.sampling": ["none", "augmented", "nearby", "multi-patch"],
    "generator.style.aggregation": ["mean", "max", "linear", "set", "svit"],
}


@pytest.mark.parametrize(
    ("cohort", "expected"),
    [
        ("flowers", {("none", "mean"), ("augmented", "mean")}),
        *(
            (name, {(s, "mean") for s in ("none", "nearby")} | {("multi-patch", a) for a in STYLES[list(STYLES)[1]]})
            for name in ("her2", "catch", "phantom")
        ),
    ],
)
def test_valid_combinations_are_those_declared(clone, cohort, expected):
    config = load_config(Path("config") / f"{'demo' if cohort == 'phantom' else cohort}.yaml")
    about = Experiment(**experiment(axes=STYLES, cohorts=[cohort]))
    made, invalid = variants(config, about)
    assert {tuple(one.chosen.values()) for one in made} == expected
    assert len(made) + len(invalid) == 20 and len(made) == len(expected)
    for one in made:
        style = one.config.generator.style
        assert (style.sampling, style.aggregation) == tuple(one.chosen.values())
        # svit looks at images itself: there is no encoder that weights could be loaded into.
        assert style.path is None or style.aggregation != "svit"


@pytest.mark.parametrize(("sampling", "aggregation"), [("augmented", "mean"), ("nearby", "max"), ("none", "set")])
def test_a_run_that_asks_for_another_combination_is_an_error(sampling, aggregation):
    style = MINI["generator"]["style"] | {"sampling": sampling, "aggregation": aggregation}
    with pytest.raises(UserError, match=r"generator\.style: the (sampling|aggregation)") as error:
        parse_config(MINI | {"generator": MINI["generator"] | {"style": style}})
    one_sentence(error)


def test_a_factor_is_of_the_run_s_own_number():
    made, _ = variants(config_of(), Experiment(**experiment(axes={"synthetic.count": ["x1", "x0.25", 7]})))
    assert [one.config.synthetic.count for one in made] == [20, 5, 7]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"axes": {"tiles.tile": [32, 64]}}, "'tiles.tile' is no setting of generator"),
        ({"axes": {"generator.styles.count": [1]}}, "'generator.styles.count' is no setting"),
        ({"axes": {"generator.style": [1]}}, "'generator.style' is no setting"),
        ({"axes": {"generator.unlabelled": ["x2"]}}, "'generator.unlabelled' is no number"),
        ({"axes": {"synthetic.guidance": [1.0, -3.0]}}, "guidance -3.0: synthetic.guidance"),
        ({"axes": {"generator.style.sampling": ["augmented"]}}, "no combination is valid for the cohort phantom"),
        ({"axes": {"synthetic.guidance": [1.0, 1.0]}}, "an entry stands twice"),
        ({"arms": ["reel"]}, "unknown arm 'reel'"),
        ({"cohorts": ["flowers"]}, "'one' is of the cohorts flowers, not of phantom"),
        ({"axis": {}}, "unknown key 'axis'"),
    ],
)
def test_an_experiment_that_does_not_fit_is_one_sentence(project, values, said):
    with pytest.raises(UserError, match=said) as error:
        Study(config_of(experiment(**values)), project)
    assert "\n" not in str(error.value)


def test_an_experiment_that_is_not_there(clone):
    with pytest.raises(
        UserError, match=r"config/experiments/guidence\.yaml does not exist; there are .*guidance"
    ) as error:
        config_of("guidence")
    one_sentence(error)


# ---- their runs


def test_equal_runs_are_one_and_those_of_the_arms_stay(project):
    alone = Study(parse_config(MINI), project)
    study = Study(
        config_of(
            experiment("g", axes={"synthetic.guidance": [1.0, 1.5]}),
            experiment("h", axes={"generator.unlabelled": [False, True]}),
            experiment("same", arms=["synthetic"]),
        ),
        project,
    )
    assert [run.id for run in alone.scores] == [run.id for run in study.scores]
    assert {stage: set(runs) for stage, runs in alone.all.items()} == {
        stage: set(runs) & set(study.all[stage]) for stage, runs in alone.all.items()
    }
    new = {stage: set(runs) - set(alone.all[stage]) for stage, runs in study.all.items()}
    # Guidance 1.5 and unlabelled tiles are what the run has: one generator, two sets of images and segmenters are new.
    assert {stage: len(ids) for stage, ids in new.items()} == {
        "cohort": 0, "tiles": 0, "generator": 1, "synthetic": 2, "segmenter": 2, "scores": 2,
    }  # fmt: skip
    for stage in ("generator", "synthetic", "segmenter", "scores"):
        for name in new[stage]:
            plan, run = study.find(stage, name)
            assert run.id == name and plan.config != study.config
    assert len(study.scored) == len({run.id for _, run in study.scored}) == len(alone.scores) + 2


def test_settings_that_stay_at_their_defaults_are_in_no_identity(project):
    plan = Study(parse_config(MINI), project).plans[0]
    assert "see_styles" not in plan.generator(1, 0).settings["generator"]
    assert "style_share" not in plan.synthetic(1, 0, "multi-patch").settings["synthetic"]


def test_unseen_styles_are_those_of_patients_that_the_generator_never_saw(project):
    zero = {"generator.unlabelled": [True], "synthetic.style_share": [0.5], "generator.see_styles": [True, False]}
    study = Study(config_of(experiment(axes=zero)), project)
    base, (seen, unseen) = study.plans[0], (variant.plans[0] for variant in study.experiments[0].variants)
    labelled = base.labelled(1, 0)
    everyone = set(base.unlabelled(labelled))
    assert len(everyone) == 2 and base.styles(labelled, 0) == base.seen(labelled, 0) == sorted(everyone)
    for plan in (seen, unseen):
        assert len(plan.styles(labelled, 0)) == 1 and plan.styles(labelled, 0) == seen.styles(labelled, 0)
    assert set(seen.seen(labelled, 0)) == everyone
    assert set(unseen.seen(labelled, 0)) == everyone - set(unseen.styles(labelled, 0))
    assert seen.generator(1, 0) == base.generator(1, 0)
    assert unseen.generator(1, 0).id != base.generator(1, 0).id
    assert seen.synthetic(1, 0, "multi-patch").id != base.synthetic(1, 0, "multi-patch").id
    # The null style is nobody's.
    assert seen.synthetic(1, 0, "none").id == base.synthetic(1, 0, "none").id
    with pytest.raises(UserError, match="see_styles false needs"):
        parse_config(MINI | {"generator": MINI["generator"] | {"see_styles": False}})


# ---- the tables


def test_a_table_of_an_experiment_holds_what_its_scores_say(tmp_path):
    arms = {"real": (0.4, 0.2), "synthetic": (0.6, 0.1)}
    first, second = fake_scores(budgets=(1,), arms=arms), fake_scores(budgets=(1,), arms=arms, rng_seed=9)
    second = pd.concat([first[first["arm"] == "real"], second[second["arm"] == "synthetic"]])

    def expected(name):
        return [
            {"arm": arm, "budget": 1, "seed": seed, "id": f"{arm}-{seed}-{name if arm == 'synthetic' else ''}"}
            for arm in arms
            for seed in (0, 1, 2)
        ]

    pair = [
        report.Variant({"a.scale": "1", "a.kind": "k"}, first, expected("x")),
        report.Variant({"a.scale": "3", "a.kind": "k"}, second, expected("y")),
    ]
    one = report.Experiment("e", "Title", "Why?", list(arms), pair, ["scale 9"])
    made = report.tabulate(one, resamples=200)
    # The arm without synthetic images has the same runs in both: one row, compared with nothing.
    assert made.raw[["a.scale", "arm", "reference"]].to_numpy().tolist() == [
        ["any", "real", False], ["1", "synthetic", True], ["3", "synthetic", False],
    ]  # fmt: skip
    assert made.shown["Difference of mean IoU [95 %]"].iloc[:2].tolist() == ["—", "reference"]
    sides = [table(per_patient(scores), "synthetic", 1, "last") for scores in (second, first)]
    truth = compare(*sides, resamples=200)
    row = made.raw.iloc[2]
    for name in ("difference", "difference_low", "difference_high", "ratio", "ratio_high", "wilcoxon"):
        assert row[name] == truth[name]
    assert row["mean"] == pytest.approx(np.nanmean(sides[0].to_numpy()))
    assert row["missing_seeds"] == [2] and "missing: 2" in made.shown["Mean, each seed"].iloc[2]
    assert row["runs"] == [f"synthetic-{seed}-y" for seed in (0, 1, 2)]
    assert "a.kind k" in made.caption and "scale 9" in made.caption and "scale 1" in made.caption
    picture = report.draw(one, made, tmp_path)
    assert (tmp_path / "experiment-e.png").is_file() and (tmp_path / "experiment-e.pdf").is_file()
    assert picture.name == "experiment-e"


def test_without_axes_arms_are_compared_with_the_first():
    arms = {"real": (0.4, 0.2), "synthetic": (0.6, 0.1), "oracle": (0.8, 0.1)}
    scores = fake_scores(arms=arms)
    expected = [
        {"arm": arm, "budget": budget, "seed": seed, "id": f"{arm}-k{budget}-s{seed}"}
        for arm in arms
        for budget in ((None,) if arm == "oracle" else (1, 3))
        for seed in (0, 1)
    ]
    one = report.Experiment("e", "Title", "Why?", list(arms), [report.Variant({}, scores, expected)], [])
    rows = report.tabulate(one, resamples=200).raw.set_index(["arm", "budget"])
    patients = per_patient(scores)
    for key, against in ((("synthetic", 3), 3), (("oracle", pd.NA), 1)):
        budget = None if key[1] is pd.NA else key[1]
        truth = compare(table(patients, key[0], budget, "last"), table(patients, "real", against, "last"))
        found = rows[rows.index.get_level_values(0) == key[0]].iloc[-1]
        assert found["difference"] == pytest.approx(truth["difference"])
    assert rows.loc[("real", 1), "reference"] and rows.loc[("real", 3), "reference"]
    # Corrected for the three comparisons of the table; the spread over runs is pooled over them, of which two share
    # their reference: 2 / (1 + 1 / 4) and 1.
    compared = rows[~rows["reference"]]
    assert compared["holm"].tolist() == holm(compared["wilcoxon"].tolist()) and len(compared) == 3
    assert rows.loc[rows["reference"], ["holm", "runs_low"]].isna().all(axis=None)
    as_pairs = [row | {"seeds": row["compared_seeds"]} for row in compared.to_dict("records")]
    assert list(zip(compared["runs_low"], compared["runs_high"], strict=True)) == with_runs(as_pairs, 2.6)
    assert "corrected for all comparisons of this table" in report.tabulate(one, resamples=200).caption
    [again] = unpack(pack([one]), [replace(one, variants=[])])
    pd.testing.assert_frame_equal(report.tabulate(again, resamples=200).raw, rows.reset_index(), check_like=True)


def test_arms_of_an_experiment_answer_what_synthetic_images_add(tmp_path):
    """Pseudo-labels are trained by an experiment alone; the run's own arms stand for those that both have."""
    own = {"real": (0.4, 0.2), "real-colour": (0.5, 0.2), "synthetic-colour": (0.6, 0.1)}
    more = {"real-colour": (0.1, 0.2), "pseudo-labels": (0.5, 0.2), "synthetic-pseudo": (0.65, 0.1)}
    scores, others = (fake_scores(arms=arms, budgets=(1,)) for arms in (own, more))
    one = report.Experiment("e", "Title", "Why?", list(more), [report.Variant({}, others, [])], [])
    varied = report.Experiment("v", "Title", "Why?", list(more), [report.Variant({"a.b": "1"}, others, [])], [])
    build_report(
        out=tmp_path, title="t", scores=scores, runs=[], ledger=[], expected=[], experiments=[one, varied], resamples=50
    )
    rows = pd.read_csv(tmp_path / "tables" / "on-top.csv").set_index("beside")
    assert rows.index.tolist() == ["colour augmentation", "pseudo-labels"]
    patients = per_patient(scores)
    truth = compare(*(table(patients, arm, 1, "last") for arm in ("synthetic-colour", "real-colour")), resamples=50)
    assert rows.loc["colour augmentation", "difference"] == pytest.approx(truth["difference"])
    assert "pseudo-labels" not in set(pd.read_csv(tmp_path / "tables" / "headline.csv")["arm"])
    page = (tmp_path / "report.html").read_text()
    assert 'id="on-top"' in page and page.count("On top of pseudo-labels, with 1 labelled patient") == 1


SMALL = MINI | {
    "budgets": [1],
    "generator": MINI["generator"] | {"steps": 3, "checkpoint_every": 9},
    "synthetic": {"count": 8, "steps": 2, "micro_batch": 8},
    "segmenter": MINI["segmenter"] | {"steps": 3, "checkpoint_every": 9, "validate_every": 3},
}


def test_an_experiment_runs_and_stands_in_the_report(project):
    axes = {"generator.unlabelled": [True], "synthetic.style_share": [0.5], "generator.see_styles": [True, False]}
    named = [
        experiment("zero", title="Zero", axes=axes),
        experiment("share", axes={"segmenter.synthetic_share": [0.8, 0.2]}),
    ]
    study = Study(parse_config(SMALL | {"experiments": named}), project)
    for stage in ("cohort", "tiles", "generator", "synthetic", "segmenter", "scores"):
        for name in study.all[stage]:
            getattr(stages, f"make_{stage}")(*study.find(stage, name))
    stages.make_report(study)
    view = study.view
    base = pd.read_parquet(view / "scores.parquet")
    assert set(base["segmenter"]) == {run.inputs["segmenter"].id for run in study.scores}
    headline = pd.read_csv(view / "tables" / "headline.csv")
    assert headline["arm"].tolist() == ["real", "synthetic"]
    varied = pd.read_parquet(view / "experiments.parquet")
    for name, keys in (("zero", ["True", "False"]), ("share", ["0.8", "0.2"])):
        for suffix in ("csv", "md", "tex"):
            assert "missing" not in (view / "tables" / f"experiment-{name}.{suffix}").read_text().split("\n", 1)[1]
        rows = pd.read_csv(view / "tables" / f"experiment-{name}.csv")
        assert rows["arm"].tolist() == ["real", "synthetic", "synthetic"]
        assert rows.iloc[1:, 0].astype(str).str.capitalize().tolist() == keys
        assert rows["mean"].notna().all() and rows["difference"].notna().tolist() == [False, False, True]
        assert (view / "figures" / f"experiment-{name}.pdf").stat().st_size > 0
        own = varied[varied["experiment"] == name]
        assert set(own["segmenter"]) == set(";".join(rows["runs"]).split(";"))
    page = (view / "report.html").read_text()
    assert 'id="experiments"' in page and "Zero" in page and "What is asked?" in page
    # Images drawn in unseen styles are of patients whose tiles the generator was not given.
    plan = study.experiments[0].variants[1].plans[0]
    run = plan.synthetic(1, 0, "multi-patch")
    trained = run.inputs["generator"].settings["unlabelled"]
    from stedm.tiles.store import TileStore

    drawn = set(TileStore(*run.parts(1)).column("style_patient"))
    assert drawn and not drawn & {*trained, *plan.labelled(1, 0)}


# ---- several cohorts, and the paper's experiments


def test_the_phantom_runs_the_same_experiments_as_the_paper(clone):
    paper, phantom = load_configs(Path("config/paper.yaml")), load_config(Path("config/paper-phantom.yaml"))
    named = {one.name: one for config in paper for one in config.experiments}
    assert named == {one.name: one for one in phantom.experiments}
    assert set(named) == {path.stem for path in Path("config/experiments").glob("*.yaml")}
    assert [config.name for config in paper] == ["paper-flowers", "paper-her2", "paper-catch"]
    assert len(phantom.seeds) >= 3 and phantom.draw is None
    # Beside the preset, what models are is what the demo says.
    demo = load_config(Path("config/demo.yaml"))
    for section in ("cohort", "tiles", "generator", "synthetic", "segmenter"):
        assert getattr(phantom, section) == getattr(demo, section)
    assert set(SAMPLINGS) == {"flowers", "her2", "catch", "phantom"}


def test_a_dry_run_of_the_paper_lists_all_of_it(tmp_path):
    root = copy_project(tmp_path / "clone")
    done = command(root, "snakemake", "--dry-run", "--quiet", "rules", "--configfile", "config/paper.yaml")
    counts = {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)}
    assert counts["cohort"] == counts["tiles"] == counts["report"] == 3
    assert counts["total"] >= 300
    assert not (root / "results").exists() or not list((root / "results").rglob("*.yaml"))


def test_a_collection_finds_a_run_by_its_id(clone):
    studies = Studies(load_configs(Path("config/paper.yaml")))
    for study in studies.all:
        for stage in ("cohort", "generator", "scores"):
            name = list(study.all[stage])[-1]
            assert studies.having(stage, name) is study
    with pytest.raises(UserError, match="segmenter: no configuration has a run 'real-k9'") as error:
        studies.having("segmenter", "real-k9")
    with pytest.raises(UserError, match=r"includes several runs; name one.*results/paper-her2/config\.yaml"):
        load_config(Path("config/paper.yaml"))
    assert "\n" not in str(error.value)


# ---- prices


def priced(root: Path, name: str) -> dict[str, list[str]]:
    """Return the cells of each row of `stedm plan`."""
    said = command(root, "stedm", "plan", f"config/{name}.yaml").stdout
    rows = [re.split(r"\s{2,}", line.strip()) for line in said.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) > 3}


def test_a_plan_prices_what_is_missing_by_benchmarks_and_says_so(finished):
    values = MINI | {"name": "other", "experiments": [experiment(axes={"segmenter.synthetic_share": [0.8, 0.2]})]}
    values = json.loads(json.dumps(values))
    values["segmenter"]["steps"] = 60
    write_config(finished, MINI)
    nothing = priced(finished, "mini")
    assert nothing["total"][1:4] == ["0", "0.0", "0.0"]
    seconds = 7200.0
    for path in (finished / "results/benchmarks/phantom/segmenter").glob("*.tsv"):
        head, row = path.read_text().splitlines()
        cells = dict(zip(head.split("\t"), row.split("\t"), strict=True)) | {"s": str(seconds)}
        path.write_text("\t".join(cells) + "\n" + "\t".join(cells.values()) + "\n")
    write_config(finished, yaml.safe_load(yaml.safe_dump(MINI | {"seeds": [0, 1]})))
    found = priced(finished, "mini")
    # Two segmenters of seed 0 are there; those of seed 1 take as long as they did.
    assert found["segmenter"][:4] == ["4", "2", "0.0", "4.0"] and found["segmenter"][-1] == "benchmarks"
    write_config(finished, values, "other")
    other = priced(finished, "other")
    # None of this configuration's own segmenters was measured: the rule's limit of 24 hours, three times.
    assert other["segmenter"][:4] == ["3", "3", "0.0", "≤ 72.0"] and other["segmenter"][-1] == "declared"
    assert other["one"][:2] == ["10", "6"] and other["one"][-1].startswith("2 jobs")
