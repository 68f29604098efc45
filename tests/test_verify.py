"""The verification: each state occurs, and what is altered changes the cells concerned and the exit code."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import MINI, PROJECT, command, copy_project, one_sentence
from test_report import fake_scores

from stedm.config import load_config
from stedm.errors import UserError
from stedm.report import experiments
from stedm.report.variants import Variant, pack
from stedm.runs import Plan
from stedm.stages import described_experiments
from stedm.study import Study
from stedm.tools.record import record_again, record_reference
from stedm.verify import show, stored
from stedm.verify.command import verify_results
from stedm.verify.evidence import from_scores, from_stored, retrained, retrained_experiments, verify
from stedm.verify.records import (
    DIFFERS,
    NOISE,
    NOT_HERE,
    NOT_RUN,
    REPRODUCED,
    Cell,
    Record,
    Tolerance,
    judge,
    settled,
    summary,
)
from stedm.verify.reference import Reference
from stedm.verify.tolerances import FILE, tolerances
from stedm.verify.values import OF_RUN, run_values


@pytest.fixture(scope="session")
def recorded(built, tmp_path_factory):
    """A project whose finished run is recorded; to be copied or read, not changed."""
    root = tmp_path_factory.mktemp("recorded") / "project"
    subprocess.run(["cp", "-a", str(built), str(root)], check=True)
    record_reference(study_of(root))
    return root


@pytest.fixture(scope="session")
def whole(recorded):
    """States of the recorded project as it is."""
    return states(recorded)


@pytest.fixture
def root(recorded, tmp_path):
    """A copy whose files may be altered."""
    subprocess.run(["cp", "-a", str(recorded), str(tmp_path / "project")], check=True)
    return tmp_path / "project"


def study_of(root: Path) -> Study:
    return Study(load_config(root / "config/mini.yaml"), root)


def reference_plan(root: Path) -> Plan:
    return study_of(root).plans[0]


def reference(root: Path) -> Reference:
    return Reference(root / "results/reference/mini", root)


def states(root: Path, tiers=(from_scores, "T1", "T2", retrained)) -> dict:
    known = reference(root)
    found = [r for t in tiers for r in (from_stored(known, t) if isinstance(t, str) else t(known))]
    return {(r.tier, r.cell.table, r.cell.row, r.cell.column): r.state for r in found}


def changed(root: Path, whole: dict) -> dict:
    now = states(root)
    assert now.keys() == whole.keys()
    return {key: state for key, state in now.items() if state != whole[key]}


def alter_scores(path: Path, arm: str) -> None:
    """Move half of the pixels that an arm's last checkpoint found on a slide to those that it missed."""
    frame = pd.read_parquet(path)
    rows = (frame["arm"] == arm) & (frame["checkpoint"] == "last") & frame["foreground"]
    at = frame[rows]["predicted_foreground"].idxmax()
    pixels = frame.loc[at, "predicted_foreground"] // 2
    assert pixels > 100
    frame.loc[at, "predicted_foreground"] -= pixels
    frame.loc[at, "predicted_background"] += pixels
    frame.to_parquet(path, index=False)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def exit_code(root: Path) -> int:
    return command(root, "stedm", "verify", "config/mini.yaml", check=False).returncode


def of_run(tier: str, arm: str, state: str, columns=OF_RUN) -> dict:
    return {(tier, "runs", f"{arm}, 1 label, seed 0", column): state for column in columns}


# ---- each state, from what is altered


def test_what_was_recorded_is_reproduced_at_every_tier(recorded, whole):
    assert set(whole.values()) == {REPRODUCED}
    tiers = {tier: sum(key[0] == tier for key in whole) for tier in ("T0", "T1", "T2", "T3")}
    assert tiers["T1"] == tiers["T2"] == 2 * len(OF_RUN)
    # Two arms: 5 values of the headline, 2 of the best checkpoint, 2 groups; one comparison with 6 numbers, 2 claims.
    assert tiers["T0"] == 2 * (5 + 2 + 2) + 6 + 2
    assert tiers["T3"] == 2 * len(OF_RUN) + 2 * (5 + 2) + 2 + 2


def test_an_altered_recorded_score_changes_the_cells_of_its_arm(root, whole):
    alter_scores(root / "results/reference/mini/scores.parquet", "real")
    found = changed(root, whole)
    assert set(found.values()) == {DIFFERS}
    assert {key[2].partition(",")[0] for key in found} == {"real", "synthetic vs real"}
    assert not [key for key in found if key[3].startswith("best")]
    numbers = {"mean", "std", "dice", "pooled_iou"}
    for tier, table in (("T0", "headline"), ("T1", "runs"), ("T2", "runs"), ("T3", "runs")):
        assert numbers <= {key[3] for key in found if key[:2] == (tier, table)}
    assert {key[3] for key in found if key[:2] == ("T0", "comparisons")} >= {"difference", "ratio"}
    assert len([key for key in found if key[:2] == ("T0", "groups")]) == 1
    # A table that is as recorded is no evidence for its retraining: T3 compares with tables, which were not altered.
    assert not [key for key in found if key[:2] == ("T3", "headline")]
    assert exit_code(root) == 1


def test_an_altered_tolerance_changes_its_column_alone(root):
    run = reference_plan(root).segmenter("real", 1, 0)
    alter_scores(reference_plan(root).scores(run).folder / "scores.parquet", "real")
    before = states(root, (retrained,))
    path = root / "results/reference/mini" / FILE
    frame = pd.read_csv(path)
    assert frame.loc[frame["tier"] == "T3", "noise"].isna().all(), "one seed has no known spread"
    assert before["T3", "runs", "real, 1 label, seed 0", "mean"] == DIFFERS
    frame.loc[(frame["tier"] == "T3") & (frame["table"] == "runs") & (frame["column"] == "mean"), "noise"] = 0.5
    frame.to_csv(path, index=False)
    after = states(root, (retrained,))
    different = {key: state for key, state in after.items() if state != before[key]}
    assert different == of_run("T3", "real", NOISE, ["mean"])


def test_a_run_that_is_not_there_is_not_a_number(root, whole):
    plan = reference_plan(root)
    shutil.rmtree(plan.scores(plan.segmenter("synthetic", 1, 0)).folder)
    found = changed(root, whole)
    expected = {key for key in whole if key[0] == "T3" and "synthetic" in key[2]}
    assert found == dict.fromkeys(expected, NOT_RUN)
    records = [r for r in retrained(reference(root)) if r.state == NOT_RUN]
    assert {r.found for r in records} == {None}
    assert exit_code(root) == 0, "a missing run is no difference"


@pytest.mark.parametrize(("file", "tier"), [("predictions.parquet", "T1"), ("last.safetensors", "T2")])
def test_a_flipped_byte_of_a_stored_file_changes_its_tier_and_run_alone(root, whole, file, tier):
    plan = reference_plan(root)
    flip(root / "results/reference/mini/runs" / plan.segmenter("real", 1, 0).id / file)
    assert changed(root, whole) == of_run(tier, "real", DIFFERS)
    assert exit_code(root) == 1


def test_predictions_that_count_otherwise_differ_whatever_their_checksum_says(root, whole):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from stedm.provenance import checksum

    folder = root / "results/reference/mini/runs" / reference_plan(root).segmenter("real", 1, 0).id
    path, table = folder / "predictions.parquet", pq.read_table(folder / "predictions.parquet")
    masks = table["last"].to_pylist()
    masks = [bytes(np.full(len(mask), 255, np.uint8)) for mask in masks]
    column = table.column_names.index("last")
    pq.write_table(table.set_column(column, "last", pa.array(masks, pa.binary())), path)
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    sums = [f"{checksum(path)}  {path.name}" if line.endswith(path.name) else line for line in sums]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    found = changed(root, whole)
    assert found.items() <= of_run("T1", "real", DIFFERS).items()
    assert {"mean", "dice", "pooled_iou"} <= {key[3] for key in found} <= set(OF_RUN[:5])


def test_what_cannot_be_checked_says_why(root, whole):
    plan = reference_plan(root)
    shutil.rmtree(root / "results/reference/mini/runs" / plan.segmenter("synthetic", 1, 0).id)
    shutil.rmtree(plan.tiles.folder)
    found = changed(root, whole)
    assert found == {
        **of_run("T1", "synthetic", NOT_HERE),
        **of_run("T2", "synthetic", NOT_HERE),
        **of_run("T1", "real", NOT_RUN),
        **of_run("T2", "real", NOT_RUN),
    }
    said, sound = verify_results(root / "config/mini.yaml", root=root)
    assert sound and "the tiles are not cut" not in said.partition("Not checked:")[0]
    assert "-- cut` cuts them" in said and "predictions are not stored" in said
    assert said.splitlines()[-2].startswith(summary(verify(reference(root))))


def test_a_result_of_other_settings_is_not_reproducible_here(root, whole):
    config = root / "results/reference/mini/config.yaml"
    config.write_text(config.read_text().replace("steps: 30", "steps: 31"))
    found = changed(root, whole)
    assert set(found.values()) == {NOT_HERE} and {key[0] for key in found} == {"T1", "T2", "T3"}
    reasons = {r.why for r in verify(reference(root)) if r.state == NOT_HERE}
    assert all("today's settings name" in reason for reason in reasons)


# ---- tables that some results have


def test_labels_saved_and_experiments_are_verified(project):
    """Of two budgets labels are saved, without end where a baseline never gets there; an experiment varies a value."""
    arms = {"real": (0.3, 0.1), "synthetic": (0.8, 0.1), "real-colour": (0.5, 0.1), "synthetic-colour": (0.6, 0.1)}
    more = {"pseudo-labels": (0.5, 0.2), "synthetic-pseudo": (0.65, 0.1)}
    scores, folder = fake_scores(patients=8, arms=arms), project / "results/reference/two"
    others, own = fake_scores(patients=8, arms=more, budgets=(1,)), scores[scores["arm"] == "synthetic"]
    guided = [
        Variant({"synthetic.guidance": value}, own.assign(segmenter=own["segmenter"] + value), [])
        for value in ("1.0", "3.0")
    ]
    varied = [
        experiments.Experiment("arms", "T", "Q?", list(more), [Variant({}, others, [])], []),
        experiments.Experiment("scale", "T", "Q?", ["synthetic"], guided, []),
    ]
    names = [{"name": one.name, "title": "T", "question": "Q?", "arms": one.arms} for one in varied]
    names[1]["axes"] = {"synthetic.guidance": [1.0, 3.0]}
    folder.mkdir(parents=True)
    copy = MINI | {"name": "two", "experiments": [one | {"cohorts": ["phantom"]} for one in names]}
    (folder / "config.yaml").write_text(yaml.safe_dump(copy))
    scores.to_parquet(folder / "scores.parquet")
    pack(varied).to_parquet(folder / "experiments.parquet")
    (folder / "tables").mkdir()
    (folder / "figures").mkdir()
    (folder / "tables/checkpoints.csv").write_text("arm,budget,validation_labels\n")
    study = Study(load_config(folder / "config.yaml"), project)
    record_again(study)

    def found() -> dict:
        records = from_scores(Reference(folder, project))
        show.write_files(project, records, "two")
        return {(r.cell.table, r.cell.row, r.cell.column): r for r in records}

    before = found()
    assert {r.state for r in before.values()} == {REPRODUCED}
    assert before["labels", "synthetic vs real, 1 label", "labels"].expected == float("inf")
    assert ("on-top", "synthetic-pseudo vs pseudo-labels, 1 label", "mean_verdict") in before
    assert ("experiment-scale", "synthetic, 1 label, guidance 3.0", "difference") in before
    assert ("experiment-scale", "synthetic, 1 label, guidance 1.0", "difference") not in before
    content = (project / "verification.json").read_text()
    assert "Infinity" not in content and '"inf"' in content and "∞" in (project / "verification.html").read_text()
    altered = {
        ("labels", "synthetic vs real, 1 label", "labels"),
        ("on-top", "synthetic-colour vs real-colour, 1 label", "difference"),
        ("experiment-scale", "synthetic, 1 label, guidance 1.0", "std"),
    }
    kept = {path: path.read_bytes() for path in (folder / "tables").iterdir()}
    for name, _, column in altered:
        path = folder / "tables" / f"{name}.csv"
        frame = pd.read_csv(path)
        frame.loc[0, column] = 0.125
        frame.to_csv(path, index=False)
    assert {key for key, r in found().items() if r.state == DIFFERS} == altered
    for path, content in kept.items():
        path.write_bytes(content)
    # What only the recorded table holds is no number made again.
    (folder / "experiments.parquet").unlink()
    lost = {key[0] for key, r in found().items() if r.state == DIFFERS}
    assert lost == {"experiment-arms", "experiment-scale", "on-top"}


def test_experiments_are_held_to_retrained_runs_row_by_row(project):
    """A missing run takes its rows and what is compared with it; a changed one its own numbers."""
    folder = project / "results/reference/varied"
    one = {"name": "scale", "title": "T", "question": "Q?", "arms": ["synthetic"], "cohorts": ["phantom"]}
    one["axes"] = {"synthetic.guidance": [1.0, 3.0, 5.0]}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump(MINI | {"name": "varied", "experiments": [one], "seeds": [0, 1]})
    )
    study = Study(load_config(folder / "config.yaml"), project)
    read = {}
    for number, (_, run) in enumerate(study.scored):
        arm, seed = run.facts["arm"], run.facts["seed"]
        rows = fake_scores(patients=8, arms={arm: (0.5, 0.1)}, budgets=(1,), seeds=(seed,), rng_seed=number)
        read[run.id] = rows.assign(segmenter=run.inputs["segmenter"].id)
        run.folder.mkdir(parents=True)
        read[run.id].to_parquet(run.folder / "scores.parquet")
    pd.concat([read[run.id] for run in study.scores]).to_parquet(folder / "scores.parquet")
    pack(described_experiments(study, read)).to_parquet(folder / "experiments.parquet")
    for name in ("tables", "figures"):
        (folder / name).mkdir()
    (folder / "tables/checkpoints.csv").write_text("arm,budget,validation_labels\n")
    record_again(study)

    def found() -> dict[tuple[str, str], str]:
        records = retrained_experiments(Reference(folder, project))
        assert {r.tier for r in records} == {"T3"} and all(
            (r.found is None) == (r.state in (NOT_RUN, NOT_HERE)) for r in records
        )
        return {(r.cell.row, r.cell.column): r.state for r in records}

    before = found()
    rows = {value: f"synthetic, 1 label, guidance {value}" for value in ("1.0", "3.0", "5.0")}
    assert before == {
        **{(row, column): REPRODUCED for row in rows.values() for column in ("mean", "std")},
        **{(rows[value], column): REPRODUCED for value in ("3.0", "5.0") for column in ("difference", "ratio")},
    }
    [scale] = study.experiments
    first, second, _ = ([run.folder / "scores.parquet" for _, run in variant.scores] for variant in scale.variants)
    kept = second[1].read_bytes()
    second[1].unlink()
    after = found()
    assert {key for key in after if after[key] != before[key]} == {key for key in before if key[0] == rows["3.0"]}
    assert {after[key] for key in after if key[0] == rows["3.0"]} == {NOT_RUN}
    second[1].write_bytes(kept)
    # Of what is compared with the first variant, only the comparison lacks it.
    kept = first[0].read_bytes()
    first[0].unlink()
    gone = {key for key, state in found().items() if state == NOT_RUN}
    assert gone == {key for key in before if key[0] == rows["1.0"] or key[1] in ("difference", "ratio")}
    first[0].write_bytes(kept)
    alter_scores(second[0], "synthetic")
    after = found()
    changed = {key for key in after if after[key] in (NOISE, DIFFERS)}
    assert changed == {key for key in before if key[0] == rows["3.0"]}
    # Settings of today that name other runs.
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("guidance:\n    - 1.0\n    - 3.0", "guidance:\n    - 1.0\n    - 4.0"))
    after = found()
    assert {key for key in after if after[key] == NOT_HERE} == {key for key in before if key[0] == rows["3.0"]}


# ---- the command


def test_the_command_writes_matrix_json_page_and_signature(root):
    (root / "config/published.csv").write_text(
        'table,row,column,value,page\nheadline,"real, 1 label",mean,0.5,11\nheadline,no such row,mean,0.5,11\n'
    )
    done = command(root, "stedm", "verify", "--all", "--sign", USER="someone", GIT_CONFIG_GLOBAL="/dev/null")
    assert "synthetic vs real, 1 label" in done.stdout and "no such row, mean is no cell" in done.stdout
    content = json.loads((root / "results/verification.json").read_text())
    cells = len({(c["table"], c["row"], c["column"]) for c in content["cells"]})
    assert content["summary"] == f"{cells} of {cells} cells reproduced" and content["summary"] in done.stdout
    [own] = [c for c in content["cells"] if c["tier"] == "T0" and (c["row"], c["column"]) == ("real, 1 label", "mean")]
    assert own["published"] == "0.5 (page 11)" and own["state"] == REPRODUCED and own["expected"] != 0.5
    assert own["source"].endswith("results/reference/mini/tables/headline.csv") and own["tolerance"]["reason"]
    page = (root / "results/verification.html").read_text()
    assert "paper 0.5 (page 11)" in page and content["summary"] in page
    assert not re.search(r'(src|href)="(?!#|data:)', page), "the page opens offline"
    signed = (root / "REPRODUCED.md").read_text().splitlines()
    assert signed[-1].count("|") == 7 and content["summary"] in signed[-1]
    command(root, "stedm", "verify", "config/mini.yaml", "--sign", USER="someone")
    assert len((root / "REPRODUCED.md").read_text().splitlines()) == len(signed) + 1


def test_bad_input_is_one_sentence_and_exit_code_2(root):
    values = (root / "config/mini.yaml").read_text().replace("name: mini", "name: other")
    (root / "config/other.yaml").write_text(values)
    done = command(root, "stedm", "verify", "config/other.yaml", check=False)
    assert done.returncode == 2 and "record the result" in done.stderr
    for text, expected in (("tier,table\n", "not a table of tolerances"), (None, "missing")):
        path = root / "results/reference/mini" / FILE
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(UserError, match=expected):
            reference(root)
    with pytest.raises(UserError, match="not both") as error:
        verify_results(root / "config/mini.yaml", everything=True, root=root)
    one_sentence(error)
    (root / "config/published.csv").write_text("table,value\n")
    with pytest.raises(UserError, match="its columns are"):
        from stedm.verify.published import show_published

        show_published([], root / "config/published.csv")


# ---- parts


def test_a_value_is_judged_by_both_limits():
    limits = Tolerance(0.01, 0.1, "")
    for found, state in ((0.5, REPRODUCED), (0.509, REPRODUCED), (0.59, NOISE), (0.61, DIFFERS), (None, DIFFERS)):
        assert judge((0.5,), (found,), limits) == state
    assert judge((0.5, 0.4), (0.5, 0.2), limits) == DIFFERS, "an end of the interval counts"
    assert judge((0.5,), (0.55,), Tolerance(0.01, None, "")) == DIFFERS
    endless = float("inf")
    assert judge((2.0, endless), (2.001, endless), limits) == judge((None, 2.0), (None, 2.001), limits) == REPRODUCED
    assert judge((endless,), (2.0,), limits) == judge((2.0, 0.5), (2.0, endless), limits) == DIFFERS
    assert judge((None,), (None,), limits) == judge((float("nan"),), (None,), limits) == REPRODUCED
    assert judge(("supported",), ("undecided",), limits) == DIFFERS


def test_the_summary_counts_cells_once_and_differences_first():
    def record(tier, column, state):
        return Record("x", tier, Cell("t", "r", column), 1.0, "f", state=state)

    records = [record("T0", "a", REPRODUCED), record("T3", "a", NOT_RUN), record("T0", "b", REPRODUCED)]
    records += [record("T3", "b", DIFFERS), record("T3", "c", NOT_HERE), record("T0", "d", REPRODUCED)]
    records += [record("T3", "d", NOISE)]
    assert list(settled(records).values()) == [REPRODUCED, DIFFERS, NOT_HERE, NOISE]
    assert summary(records) == "1 of 4 cells reproduced, 1 within noise, 1 differs, 1 not reproducible here"


def test_the_tolerance_of_a_retraining_is_the_spread_over_seeds(recorded):
    """Two arms, two seeds each: Student's t of two degrees of freedom, by hand."""
    scores = pd.read_parquet(recorded / "results/mini/scores.parquet")
    other = scores.assign(seed=1, segmenter=scores["segmenter"] + "-1")
    rows = other["foreground"] & (other["predicted_foreground"] > 200)
    other.loc[rows, "predicted_foreground"] -= 100
    other.loc[rows, "predicted_background"] += 100
    both = pd.concat([scores, other], ignore_index=True)
    made = tolerances(both, {}, {}).set_index(["tier", "table", "column"])
    gaps = [
        run_values(scores[scores["arm"] == arm])["mean"] - run_values(other[other["arm"] == arm])["mean"]
        for arm in ("real", "synthetic")
    ]
    spread = np.sqrt(np.mean([gap**2 / 2 for gap in gaps]))
    assert made.loc[("T3", "runs", "mean"), "noise"] == pytest.approx(4.302653 * spread * np.sqrt(2))
    assert made.loc[("T3", "headline", "mean"), "noise"] == pytest.approx(4.302653 * spread)


def test_a_result_is_made_again_from_its_recorded_scores(root):
    folder = root / "results/reference/mini"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path in [*(folder / "tables").iterdir(), folder / "claims.csv"]:
        if path.name != "checkpoints.csv":
            path.write_text("lost")
    record_again(study_of(root))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_large_files_are_not_stored(root, monkeypatch, tmp_path):
    monkeypatch.setattr(stored, "MOST_BYTES", 1000)
    assert stored.store(study_of(root), tmp_path / "out") == []
    assert not (tmp_path / "out").exists()


# ---- this repository


@pytest.mark.parametrize("folder", sorted((PROJECT / "results/reference").glob("*/scores.parquet")), ids=str)
def test_recorded_tables_are_those_of_the_recorded_scores(folder):
    known = Reference(folder.parent, PROJECT)
    assert {record.state for record in from_scores(known)} == {REPRODUCED}
    for run in (folder.parent / "runs").glob("*"):
        assert stored.changed(run, (stored.PREDICTIONS, *stored.WEIGHTS)) == []


def test_published_values_ship_empty():
    assert (PROJECT / "config/published.csv").read_text() == "table,row,column,value,page\n"


def test_a_review_trains_two_small_segmenters_and_no_generator(tmp_path):
    root = copy_project(tmp_path / "clone")
    done = command(root, "snakemake", "--dry-run", "--configfile", "config/demo.yaml", "--", "reviewer")
    counts = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout, re.MULTILINE))
    del counts["total"]
    assert counts == {"cohort": "1", "tiles": "1", "segmenter": "2", "scores": "2", "reviewer": "1"}
    assert "stedm verify --all" in done.stdout
