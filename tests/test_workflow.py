"""The real workflow on small projects: reruns, kills, damage, bad input, reports, a new cohort."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import MINI, PROJECT, command, copy_project, small_disk, write_config

from stedm.config import load_config
from stedm.runs import Plan

SNAKEMAKE = ("snakemake", "--cores", "2", "--configfile", "config/mini.yaml")


def scores(root: Path) -> pd.DataFrame:
    return pd.read_parquet(root / "results" / "mini" / "scores.parquet")


def run_again(root: Path) -> str:
    return command(root, *SNAKEMAKE).stderr


# ---- the finished run


def test_everything_is_there(built):
    view = built / "results" / "mini"
    for name in ("report.html", "claims.csv", "config.yaml", "scores.parquet"):
        assert (view / name).stat().st_size > 0
    assert {path.suffix for path in (view / "tables").iterdir()} == {".csv", ".md", ".tex"}
    assert {path.suffix for path in (view / "figures").glob("[!.]*")} == {".pdf", ".png"}
    table = scores(built)
    assert set(table["arm"]) == {"real", "synthetic"}
    assert set(table["checkpoint"]) == {"last", "best"}
    assert table["slide"].nunique() == 4
    # Each pixel of a stored tile inside the slide is counted once, whatever was predicted.
    pixels = table["predicted_foreground"] + table["predicted_background"]
    assert len(set(pixels.groupby([table["segmenter"], table["checkpoint"]]).sum())) == 1


def test_scores_are_those_of_the_predictions(built):
    """An independent count: paint each prediction and label as a picture and compare."""
    from stedm.config import load_config
    from stedm.runs import Plan
    from stedm.tiles.store import OUTSIDE, TileStore

    plan = Plan(load_config(built / "config" / "mini.yaml"), built)
    run, store = plan.segmenter("real", 1, 0), TileStore(plan.tiles.folder)
    predicted = pd.read_parquet(run.folder / "predictions.parquet")
    side = store.tile
    table = scores(built)
    for slide, rows in predicted.groupby("slide"):
        tp = fp = fn = 0
        for row in rows.itertuples():
            mask = np.unpackbits(np.frombuffer(row.last, np.uint8)).reshape(side, side).astype(bool)
            _, label = store.window(slide, row.x, row.y, side, side)
            truth, inside = label == 1, label != OUTSIDE
            tp += (mask & truth & inside).sum()
            fp += (mask & ~truth & inside).sum()
            fn += (~mask & truth & inside).sum()
        own = table[(table.segmenter == run.id) & (table.slide == slide) & (table.checkpoint == "last")]
        tumour, rest = own[own.foreground].iloc[0], own[~own.foreground].iloc[0]
        assert (tumour.predicted_foreground, tumour.predicted_background, rest.predicted_foreground) == (tp, fn, fp)


def test_a_second_run_does_nothing(finished):
    assert "Nothing to be done" in run_again(finished)


def test_products_match_their_checksums_and_say_where_they_come_from(built):
    sums = sorted((built / "results" / "runs").rglob("SHA256SUMS"))
    assert len(sums) == 9 - 1
    for path in sums:
        subprocess.run(["sha256sum", "--check", "--quiet", path.name], cwd=path.parent, check=True)
        record = json.loads((path.parent / "provenance.json").read_text())
        assert record["command"].startswith("stedm ") and record["settings"] is not None
        assert record["comparable"] is True and record["wall_seconds"] > 0
        for source in record["inputs"].values():
            assert len(source["sha256"]) == 64
    leftovers = [p for p in (built / "results" / "runs").rglob(".*") if not p.name.endswith(".lock")]
    assert leftovers == []


def test_one_job_at_a_time_gives_the_same_scores(built, project):
    command(project, "snakemake", "--cores", "1", "--configfile", "config/mini.yaml")
    pd.testing.assert_frame_equal(scores(project), scores(built))
    for name in ("tables/headline.csv", "claims.csv"):
        assert (project / "results/mini" / name).read_bytes() == (built / "results/mini" / name).read_bytes()


def test_a_log_has_plain_lines_with_rate_and_time(built):
    [log] = (built / "results" / "logs" / "phantom" / "generator").glob("*.log")
    lines = log.read_text().splitlines()
    assert any("30 steps in" in line for line in lines)
    assert all("\r" not in line and "\x1b" not in line for line in lines)


def test_jobs_find_their_commands_where_a_login_shell_forgot_the_environment(project):
    run = Plan(load_config(project / "config/mini.yaml"), project).tiles.inputs["cohort"]
    target = str(run.folder.relative_to(project) / "SHA256SUMS")
    snakemake = (sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "config/mini.yaml")
    command(project, *snakemake, "--", target, PATH="/usr/bin:/bin")
    assert (project / target).is_file()


# ---- reruns


def test_a_changed_setting_reruns_only_what_depends_on_it(finished):
    values = json.loads(json.dumps(MINI))
    values["segmenter"]["steps"] = 31
    write_config(finished, values)
    plan = command(finished, *SNAKEMAKE, "--dry-run").stdout
    counts = dict(re.findall(r"^(\w+) +(\d+)$", plan, re.MULTILINE))
    assert counts.keys() == {"segmenter", "scores", "report", "all", "total"}


def test_a_second_configuration_shares_runs(finished):
    write_config(finished, MINI | {"name": "other", "arms": ["real"]}, "other")
    done = command(finished, "snakemake", "--cores", "2", "--configfile", "config/other.yaml")
    counts = dict(re.findall(r"^(\w+) +(\d+)$", done.stderr, re.MULTILINE))
    assert counts == {"all": "1", "report": "1", "total": "2"}
    table = pd.read_parquet(finished / "results" / "other" / "scores.parquet")
    expected = scores(finished)
    expected = expected[expected.arm == "real"].reset_index(drop=True)
    pd.testing.assert_frame_equal(table, expected)


# ---- kills


@pytest.mark.parametrize("stage", ["cohort", "tiles", "generator", "synthetic", "segmenter", "scores"])
def test_a_killed_snakemake_goes_on(built, finished, stage):
    """Kill -9 while a stage is at work, then run again: the same scores."""
    shutil.rmtree(finished / "results" / "mini")
    if stage == "cohort":
        shutil.rmtree(finished / "data")
    runs = finished / "results" / "runs" / "phantom"
    stages = ["cohort", "tiles", "generator", "synthetic", "segmenter", "scores"]
    for later in stages[stages.index(stage) :]:
        shutil.rmtree(runs / later)
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    log = (finished / "killed.log").open("w")
    process = subprocess.Popen(SNAKEMAKE, cwd=finished, env=env, stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while not list((runs / stage).rglob(".*.partial")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (finished / "results" / "mini" / "report.html").exists()
    run_again(finished)
    pd.testing.assert_frame_equal(scores(finished), scores(built))


# ---- damage and bad input


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_byte_stops_the_run_and_repair_mends_it(finished):
    slide = sorted((finished / "data" / "mini" / "slides").iterdir())[2]
    flip_byte(slide)
    done = command(finished, *SNAKEMAKE, check=False)
    assert done.returncode != 0
    assert slide.name in done.stderr and "--repair" in done.stderr
    command(finished, "stedm", "cohort", "config/mini.yaml", "--repair")
    run_again(finished)
    assert "Nothing to be done" in run_again(finished)


def test_a_lost_slide_stops_the_run(finished):
    slide = sorted((finished / "data" / "mini" / "slides").iterdir())[0]
    slide.unlink()
    done = command(finished, *SNAKEMAKE, check=False)
    assert done.returncode != 0 and slide.name in done.stderr


def test_a_slide_changed_between_cohort_and_tiles_is_caught(project):
    command(project, "stedm", "cohort", "config/mini.yaml")
    slide = sorted((project / "data" / "mini" / "slides").iterdir())[1]
    times = slide.stat()
    flip_byte(slide)
    os.utime(slide, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = command(project, "stedm", "tiles", "config/mini.yaml", check=False)
    assert done.returncode == 2 and slide.name in done.stderr and "Traceback" not in done.stderr


def test_another_cohort_s_missing_data_does_not_disturb(finished):
    """One cohort's missing data neither stops nor reruns another's work."""
    done = command(finished, "snakemake", "--cores", "1", "--configfile", "config/monusac.yaml", check=False)
    assert done.returncode != 0 and "data/monusac" in done.stderr
    assert "Nothing to be done" in run_again(finished)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"generater": {}}, "unknown key 'generater'"),
        ({"budgets": [9]}, "9 labelled patients of class"),
        ({"cohort": {"name": "phantom", "manifest": "config/cohorts/none.csv"}}, "none.csv: No such file"),
        ({"tiles": {"mpp": 1.0, "tile": 32, "classes": ["Carcinoma"], "foreground": ["Carcinoma"]}}, "tumour"),
        ({"tiles": {"mpp": 0.1, "tile": 32}}, "0.25"),
        ({"execution": {"device": "cuda"}}, "no GPU"),
    ],
    ids=["typo", "budget", "manifest", "class", "resolution", "device"],
)
def test_bad_settings_are_one_sentence(project, change, said):
    if "execution" in change:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    write_config(project, MINI | change)
    done = command(project, *SNAKEMAKE, check=False)
    assert done.returncode != 0
    [sentence] = {line for line in done.stderr.splitlines() if line.startswith("error: ")}
    assert said in sentence
    assert "Traceback" not in done.stderr
    assert not list((project / "results" / "runs").rglob("store.json")) or said == "no GPU"
    if (project / "results" / "logs").exists():
        # Of a job that has begun, Snakemake's last words are its lines and its command.
        summary = done.stderr.split("\nFailed: ")[1]
        [alone] = [line for line in summary.splitlines() if line.startswith("    stedm ")]
        assert sentence in summary.split("again, alone:")[0]
        if said == "0.25":
            again = command(project, *alone.split(), check=False)
            assert again.returncode == 2 and again.stderr.splitlines()[-1] == sentence


def test_a_truncated_slide_and_a_polygon_outside(project):
    """Of a cohort without checksums, so that the file itself is judged."""
    manifest = project / "config" / "cohorts" / "mini.csv"
    lines = [line for line in manifest.read_text().splitlines() if not line.startswith("#")]
    manifest.write_text("\n".join(",".join([*line.split(",")[:4], "", ""]) for line in lines[1:]))
    manifest.write_text("slide,patient,class,split,md5,annotation_md5\n" + manifest.read_text())
    (project / "data.dvc").unlink()
    shutil.rmtree(project / ".stedm")
    slides = sorted((project / "data" / "mini" / "slides").iterdir())
    whole = slides[0].read_bytes()
    slides[0].write_bytes(whole[: len(whole) // 2])
    done = command(project, "stedm", "cohort", "config/mini.yaml", check=False)
    if done.returncode == 0:
        done = command(project, "stedm", "tiles", "config/mini.yaml", check=False)
    assert done.returncode == 2 and slides[0].name in done.stderr and "Traceback" not in done.stderr
    slides[0].write_bytes(whole)
    annotation = project / "data" / "mini" / "annotations" / f"{slides[0].stem}.geojson"
    values = json.loads(annotation.read_text())
    values["features"][0]["geometry"]["coordinates"][0][0] = [99999, 99999]
    annotation.write_text(json.dumps(values))
    shutil.rmtree(project / ".stedm")
    command(project, "stedm", "cohort", "config/mini.yaml")
    done = command(project, "stedm", "tiles", "config/mini.yaml", check=False)
    assert done.returncode == 2 and "beyond the slide" in done.stderr and slides[0].stem in done.stderr
    assert not list((project / "results" / "runs" / "phantom" / "tiles").glob("*/store.json"))


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_done(project):
    """On a real file system of one megabyte."""
    runs = project / "results" / "runs"
    runs.mkdir(parents=True)
    with small_disk(runs, 1):
        command(project, "stedm", "cohort", "config/mini.yaml")
        # The preflight asks for room for the tiles; a disk that fills up afterwards is the other case.
        done = command(project, "stedm", "tiles", "config/mini.yaml", check=False)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "MB" in done.stderr and "free" in done.stderr
        assert not list(runs.rglob("store.json"))


def test_a_disk_that_fills_up_at_work_is_one_sentence(tmp_path):
    from stedm.errors import UserError
    from stedm.provenance import product

    small = tmp_path / "small"
    small.mkdir()
    with small_disk(small, 1):
        with (
            pytest.raises(UserError, match="the disk is full"),
            product(small / "out", stage="scores", settings={}) as making,
        ):
            (making.folder / "big.bin").write_bytes(bytes(2 * 2**20))
        assert not (small / "out").exists()


def test_two_processes_make_a_product_once(tmp_path):
    """The second waits for the first, is told that nothing is left to do, and the product is whole."""
    code = (
        "import sys, time; from pathlib import Path; from stedm.errors import MadeMeanwhile\n"
        "from stedm.provenance import product\n"
        "try:\n"
        "    with product(Path(sys.argv[1]), stage='scores', settings={}) as making:\n"
        "        (making.folder / 'a').write_text('a'); time.sleep(2); (making.folder / 'b').write_text('b')\n"
        "except MadeMeanwhile:\n"
        "    sys.exit(3)\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "out")]
    first, second = subprocess.Popen(arguments), subprocess.Popen(arguments)
    assert sorted((first.wait(), second.wait())) == [0, 3]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a", "b", "SHA256SUMS", "provenance.json"}


# ---- without data


def test_dry_run_lint_and_graphs_need_no_data(template, tmp_path):
    root = copy_project(tmp_path / "clone")
    shutil.copytree(template / "config", root / "config", dirs_exist_ok=True)
    dry = command(root, *SNAKEMAKE, "--dry-run").stdout
    counts = dict(re.findall(r"^(\w+) +(\d+)$", dry, re.MULTILINE))
    expected = dict.fromkeys(("cohort", "tiles", "generator", "synthetic", "report", "all"), "1")
    assert counts == expected | {"segmenter": "2", "scores": "2", "total": "10"}
    assert not (root / "results").exists() and not (root / "data").exists()
    command(root, *SNAKEMAKE, "--lint")
    graph = command(root, *SNAKEMAKE, "--rulegraph", "mermaid-js").stdout
    assert "flowchart" in graph and all(stage in graph for stage in ("cohort", "tiles", "generator", "segmenter"))


def test_snakemake_s_own_report(finished):
    command(finished, *SNAKEMAKE, "--report", "report.html")
    assert (finished / "report.html").stat().st_size > 100_000


def test_the_default_profile_names_no_resources():
    profile = yaml.safe_load((PROJECT / "profiles" / "default" / "config.yaml").read_text())
    assert not {"resources", "default-resources", "set-resources", "set-threads", "cores", "jobs"} & set(profile)


# ---- a new cohort


def test_adding_a_cohort_as_documented(tmp_path):
    """docs/add-a-cohort.md to the letter: a module, a manifest, a YAML."""
    page = (PROJECT / "docs" / "add-a-cohort.md").read_text()
    files = dict(re.findall(r"^## \d\. .*?`([^`]+)`$.*?^```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    assert set(files) == {"src/stedm/cohort/discs.py", "config/cohorts/discs.csv", "config/discs.yaml"}
    module = files.pop("src/stedm/cohort/discs.py")
    assert len(module.splitlines()) <= 80
    root = copy_project(tmp_path / "clone")
    shutil.copytree(PROJECT / "src", root / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    (root / "src/stedm/cohort/discs.py").write_text(module)
    for path, text in files.items():
        (root / path).write_text(text)
    [line] = re.findall(r"^snakemake .*discs.*$", page, re.MULTILINE)
    command(root, *line.split(), PYTHONPATH=str(root / "src"))
    table = pd.read_csv(root / "results" / "discs" / "tables" / "headline.csv")
    assert list(table["arm"]) == ["real", "synthetic"] and table["mean"].notna().all()


def test_the_command_line_says_errors_in_one_sentence(tmp_path):
    done = command(tmp_path, "stedm", "generator", "none.yaml", "x", check=False)
    assert done.returncode == 2 and done.stderr.strip().splitlines() == [
        "error: none.yaml: No such file or directory; name a configuration such as config/demo.yaml."
    ]


def test_slides_by_path(project, tmp_path):
    """`stedm tiles` on a slide alone, with and without annotations, as the README shows."""
    from stedm.tiles.store import TileStore

    data = project / "data" / "mini"
    slide = sorted((data / "slides").iterdir())[0]
    annotation = data / "annotations" / f"{slide.stem}.geojson"
    command(project, "stedm", "tiles", str(slide), "--mpp", "1.0", "--tile", "64", "--out", "tiles")
    again = ("--downsample", "4", "--tile", "64", "--annotations", str(annotation), "--out", "tiles-2")
    command(project, "stedm", "tiles", str(slide), *again)
    plain, labelled = TileStore(project / "tiles"), TileStore(project / "tiles-2")
    assert (project / "tiles" / "preview" / f"{slide.stem}.png").stat().st_size > 0
    assert len(plain) == len(labelled) > 0
    assert max(plain.tile_at(row)[1].max() for row in range(len(plain))) in (0, 255)
    assert any((labelled.tile_at(row)[1] == 1).any() for row in range(len(labelled)))
