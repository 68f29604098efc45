"""CATCH and HER2: their official facts, their forms of annotations, and how cohorts are fetched."""

import json
import logging
import shutil
from collections import Counter

import numpy as np
import pytest
import yaml
from conftest import PROJECT, command, copy_project, shared
from servers import PASSWORD, USER, ExactServer, serve
from test_exact import annotation, made
from test_folder import cohort, picture
from test_formats import coco, database

from stedm.cohort import load_cohort, read_manifest
from stedm.cohort.base import REGION, Consensus, cohort_names
from stedm.cohort.catch import CLASSES
from stedm.cohort.files import write_manifest
from stedm.config import load_config
from stedm.errors import UserError
from stedm.runs import Plan
from stedm.tools.fetch import fetch_cohort

# CATCH


def test_the_split_of_catch_is_the_official_one(tmp_path):
    (tmp_path / "data/catch").mkdir(parents=True)
    shutil.copy(shared("catch/datasets.csv"), tmp_path / "data/catch")
    rows, comment = cohort(tmp_path, "catch").list_slides()
    write_manifest(tmp_path / "again.csv", rows, comment)
    assert (tmp_path / "again.csv").read_bytes() == (PROJECT / "config/cohorts/catch.csv").read_bytes()


def test_the_manifest_of_catch():
    slides = read_manifest(PROJECT / "config/cohorts/catch.csv")
    assert Counter(slide.split for slide in slides) == {"train": 245, "validation": 35, "test": 70}
    assert Counter(slide.group for slide in slides) == {name: 50 for name in CLASSES.values() if name}
    splits = {slide.patient: {s.split for s in slides if s.patient == slide.patient} for slide in slides}
    assert len(splits) == 282 and all(len(own) == 1 for own in splits.values())
    tiles = load_config(PROJECT / "config/catch.yaml").tiles
    assert tiles.classes == list(CLASSES) and len(CLASSES) == 13
    assert tiles.foreground == [name for name, subtype in CLASSES.items() if subtype]
    assert tiles.downsample == 8 and len(tiles.foreground) == 7


def official(folder):
    lines = ["Slide;Dataset;Scanner"]
    names = {"train": "train", "validation": "val", "test": "test"}
    for slide in read_manifest(PROJECT / "config/cohorts/catch.csv"):
        lines.append(f"{slide.slide}.svs;{names[slide.split]};AT2")
    (folder / "datasets.csv").write_text("\n".join(lines))
    return lines


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("SCC_01_1.svs;train", "SCC_01_1.svs;test", "244 slides for train, the official split has 245"),
        ("val;", "valid;", r"not CATCH's split"),
        ("SCC_01_1", "XYZ_01_1", "unknown subtype 'XYZ'"),
        ("Slide;", "File;", "not CATCH's split"),
    ],
)
def test_another_split_of_catch_is_refused(tmp_path, old, new, words):
    lines = "\n".join(official(tmp_path))
    assert old in lines
    (tmp_path / "datasets.csv").write_text(lines.replace(old, new))
    with pytest.raises(UserError, match=words):
        cohort(tmp_path, "catch", path=tmp_path).list_slides()


def test_an_animal_in_two_sets_is_refused(tmp_path):
    lines = official(tmp_path)
    pairs = {line.rsplit("_", 1)[0] for line in lines if "_2.svs;train" in line}
    inside = next(n for n, line in enumerate(lines) if line.rsplit("_", 1)[0] in pairs)
    other = next(n for n, line in enumerate(lines) if ";test;" in line)
    lines[inside], lines[other] = lines[inside].replace("train", "test"), lines[other].replace("test", "train")
    (tmp_path / "datasets.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"animal .* is in two sets"):
        cohort(tmp_path, "catch", path=tmp_path).list_slides()


def test_three_forms_of_annotations_give_the_same_polygons(tmp_path):
    data = tmp_path / "data/catch"
    (tmp_path / "config/cohorts").mkdir(parents=True)
    (tmp_path / "config/cohorts/own.csv").write_text("slide,patient,class,split\na,x,SCC,train\n")
    picture(data / "SCC/a.svs")
    database(data / "CATCH.sqlite")
    content = coco()
    content["images"][0]["file_name"] = "a.svs"
    content["annotations"] = content["annotations"][:1]
    (data / "CATCH.json").write_text(json.dumps(content))
    xs, ys = [10, 210, 210, 10], [20, 20, 320, 320]
    exact = {"image": {"id": 1}, "annotation_types": [{"id": 1, "name": "Dermis", "vector_type": 5}]}
    (data / "annotations").mkdir()
    (data / "annotations/a.json").write_text(json.dumps({**exact, "annotations": [annotation(1, 1, xs, ys)]}))
    found = []
    for source in ("CATCH.json", "CATCH.sqlite", "annotations"):
        opened = cohort(tmp_path, "catch", annotations=source)
        slides = read_manifest(tmp_path / "config/cohorts/own.csv")
        assert opened.acquire(slides)["origin"] == "found"
        found.append(next(p for p in opened.annotation(slides[0]) if p.annotated == "Dermis"))
        (tmp_path / ".stedm/catch.json").unlink()
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].exterior, other.exterior)


# HER2


def test_the_scores_of_her2():
    slides = read_manifest(PROJECT / "config/cohorts/her2.csv")
    labelled = [slide for slide in slides if slide.split == "train"]
    assert Counter(slide.group for slide in labelled) == dict.fromkeys(("0", "1+", "2+", "3+"), 6)
    assert {s.slide: s.group for s in labelled}["277850"] == "2+" and len(slides) == 32
    tiles = load_config(PROJECT / "config/her2.yaml").tiles
    assert tiles.downsample == 2 and set(tiles.foreground) < set(tiles.classes)


@pytest.fixture
def her2(tmp_path, monkeypatch):
    """Two slides and their annotations, fetched from a server on loopback."""
    tables = made()
    tables["annotations/annotations"].append(annotation(8, 3, [0, 900], [0, 900], image=2))
    values = {
        "name": "her2",
        "cohort": {
            "name": "her2",
            "manifest": "config/cohorts/own.csv",
            "options": {
                "votes": ["test"],
                "unlabelled": "all.csv",
                "exact": {"image_sets": ["Test"], "product": "Tissue", "regions": ["Set 1"]},
            },
        },
        "tiles": {"downsample": 2},
    }
    (tmp_path / "config/cohorts").mkdir(parents=True)
    (tmp_path / "config/cohorts/own.csv").write_text(
        "# scores\nslide,patient,class,split\n101,101,0,train\n102,102,3+,test\n"
    )
    monkeypatch.setenv("EXACT_USER", USER)
    monkeypatch.setenv("EXACT_PASSWORD", PASSWORD)
    with serve(ExactServer(tables, {1: b"one", 2: b"two"})) as address:
        values["cohort"]["options"]["exact"]["server"] = address
        (tmp_path / "config/her2.yaml").write_text(yaml.safe_dump(values))
        fetch_cohort(tmp_path / "config/her2.yaml", consent=False, root=tmp_path)
        assert not (tmp_path / "data").exists()
        fetch_cohort(tmp_path / "config/her2.yaml", consent=True, root=tmp_path)
    return tmp_path, load_config(tmp_path / "config/her2.yaml").cohort


def test_her2_is_fetched_and_people_vote_where_it_is_said(her2):
    root, config = her2
    opened, slides = load_cohort(config, root), read_manifest(root / config.manifest)
    assert opened.acquire(slides)["data"] == "unverified"
    assert opened.slide_path(slides[0]).name == "101_HER2.svs"
    together = opened.annotation(slides[0])
    assert [p.annotated for p in together] == [REGION, "Tumour", "Tumour"]
    votes = opened.annotation(slides[1])
    assert isinstance(votes, Consensus)
    assert [[p.annotated for p in one] for one in votes.annotators] == [["Tumour"], [REGION]]


def test_unlabelled_slides_of_her2_come_from_their_table(her2):
    root, config = her2
    for name in ("T7_HER2_IHC.svs", "900_HER2_IHC.svs", "901_HER2_IHC.svs", "902_HER2_IHC.svs"):
        (root / "data/her2/slides" / name).write_bytes(b"x")
    rows = ["Tumorblock_ID;HERIHCScore;USE", "T7;2+;", "900;3;", "901;;", "902;1+;no", "903;1+;", "101;0;"]
    (root / "data/her2/all.csv").write_text("\n".join(rows))
    opened = load_cohort(config, root)
    slides, comment = opened.list_slides()
    assert [(s.slide, s.group, s.split) for s in slides] == [
        ("101", "0", "train"),
        ("102", "3+", "test"),
        ("T7", "2+", "unlabelled"),
        ("900", "3+", "unlabelled"),
    ]
    write_manifest(root / config.manifest, slides, comment)
    # Again gives the same: annotated slides from the manifest, unlabelled ones from the table.
    assert opened.list_slides()[0] == slides
    assert opened.annotation(slides[2]) is None and opened.slide_path(slides[2]).name == "T7_HER2_IHC.svs"
    plan = Plan(load_config(root / "config/her2.yaml"), root)
    assert plan.labelled(None, 0) == ["101"] and plan.unlabelled(["101"]) == ["900", "T7"]
    assert plan.unused(["101"]) == []
    (root / "data/her2/all.csv").write_text("Tumorblock_ID;HERIHCScore;USE\n900;9;\n")
    with pytest.raises(UserError, match="900 has the score '9'"):
        opened.list_slides()


def test_a_slide_without_regions_is_refused(her2):
    root, config = her2
    path = root / "data/her2/annotations/101_HER2.json"
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][1:]
    path.write_text(json.dumps(content))
    opened, slides = load_cohort(config, root), read_manifest(root / config.manifest)
    with pytest.raises(UserError, match=r"101_HER2\.json: has no region \(Set 1\)"):
        opened.annotation(slides[0])


# Fetching


def test_every_cohort_says_where_it_comes_from(tmp_path, caplog):
    assert {"catch", "flowers", "folder", "her2", "monusac", "phantom"} == set(cohort_names())
    sources = (PROJECT / "docs/sources.md").read_text()
    for name in ("catch", "flowers", "her2", "monusac"):
        caplog.clear()
        with caplog.at_level(logging.INFO, "stedm"):
            fetch_cohort(PROJECT / f"config/{name}.yaml", consent=False, root=tmp_path)
        source = load_cohort(load_config(PROJECT / f"config/{name}.yaml").cohort, tmp_path).source()
        assert source.licence in caplog.text and source.size in caplog.text
        assert "Nothing was downloaded" in caplog.text or "No command can fetch it" in caplog.text
        assert f"`{name}`" in sources and source.licence.split(":")[0] in sources
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="'phantom' is drawn by code or your own"):
        fetch_cohort(PROJECT / "config/demo.yaml", consent=True, root=tmp_path)


@pytest.mark.parametrize("name", ["catch", "flowers", "her2", "monusac"])
def test_each_configuration_dry_runs_whole_without_data(name, tmp_path):
    root = copy_project(tmp_path / "clone")
    done = command(root, "snakemake", "-n", "--quiet", "rules", "--configfile", f"config/{name}.yaml")
    jobs = dict(line.split() for line in done.stdout.splitlines() if line.split()[1:] and line.split()[1].isdigit())
    stages = {"cohort", "tiles", "generator", "synthetic", "segmenter", "scores", "report", "all", "total"}
    assert set(jobs) == stages and jobs["cohort"] == jobs["tiles"] == "1"
    assert not (root / "data").exists()
