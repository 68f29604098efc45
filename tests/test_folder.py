"""Slides of a user's own: a folder with QuPath annotations and a table of patients."""

import hashlib
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from conftest import command, copy_project

from stedm.cohort import dvc, load_cohort, read_manifest
from stedm.cohort.files import write_manifest
from stedm.config import CohortConfig, load_config
from stedm.errors import UserError
from stedm.runs import Plan
from stedm.tiles.store import TileStore

SQUARE = [[10, 10], [110, 10], [110, 110], [10, 110], [10, 10]]


def cohort(root, name, **options):
    return load_cohort(CohortConfig(name=name, manifest=Path("config/cohorts/own.csv"), options=options), root)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(90, 210, (160, 192, 3)).astype(np.uint8)
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb")


def geojson(path, name="tumour"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"type": "Polygon", "coordinates": [SQUARE]}
    feature = {"type": "Feature", "geometry": shape, "properties": {"classification": {"name": name}}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))


@pytest.fixture
def own(tmp_path):
    """A user's folder: two classes, ten patients each, one of them with two slides, in a subfolder."""
    data = tmp_path / "data/own"
    rows = ["slide;patient;class"]
    for group in ("a", "b"):
        for number in range(10):
            rows.append(f"{group}{number}.tif;p{group}{number};{group}")
            picture(data / "slides" / group / f"{group}{number}.tif")
            geojson(data / "annotations" / f"{group}{number}.geojson")
    picture(data / "slides/b0-second.tif")
    geojson(data / "annotations/b0-second.geojson")
    rows.append("b0-second;pb0;b")
    (data / "patients.csv").write_text("\ufeff" + "\r\n".join(rows) + "\r\n", encoding="utf-8")
    return tmp_path


def manifested(root, name="folder", **options):
    opened = cohort(root, name, **options)
    rows, comment = opened.list_slides()
    write_manifest(root / "config/cohorts/own.csv", rows, comment)
    return cohort(root, name, **options), read_manifest(root / "config/cohorts/own.csv")


# Own data


def test_a_table_without_splits_is_drawn_by_patient_and_class(own):
    opened, slides = manifested(own, test=0.3, validation=0.2, seed=4)
    assert len(slides) == 21 and opened.slide_path(slides[0]).name == "a0.tif"
    for group in "ab":
        names = sorted(f"p{group}{n}" for n in range(10))
        names.sort(key=lambda name: hashlib.sha256(f"4/{name}".encode()).digest())
        expected = dict(zip(names, ["test"] * 3 + ["validation"] * 2 + ["train"] * 5, strict=True))
        assert {s.patient: s.split for s in slides if s.group == group} == expected
    head = (own / "config/cohorts/own.csv").read_text().splitlines()[0]
    assert "drawn by patient (seed 4, validation 0.2, test 0.3)" in head


def test_own_slides_are_verified_and_changes_are_accepted_knowingly(own):
    opened, slides = manifested(own, mpp=0.5)
    facts = opened.acquire(slides)
    assert (facts["data"], facts["origin"]) == ("unverified", "found")
    assert opened.state(slides) == "whole" and opened.mpp(slides[0]) == 0.5
    [polygon] = opened.annotation(slides[0])
    np.testing.assert_array_equal(polygon.exterior, SQUARE)
    geojson(own / "data/own/annotations/a3.geojson", "stroma")
    assert opened.state(slides) == "damaged: a3"
    with pytest.raises(UserError, match=r"a3\.geojson: changed; bring the file back, or accept .*--freeze"):
        opened.acquire(slides)
    opened.freeze()
    frozen = read_manifest(own / "config/cohorts/own.csv")
    assert all(slide.md5 and slide.annotation_md5 for slide in frozen)
    opened = cohort(own, "folder", mpp=0.5)
    assert opened.acquire(frozen)["data"] == "verified"
    found = {
        p.relative_to(own / "data/own").as_posix(): p.read_bytes() for p in own.glob("data/own/**/*") if p.is_file()
    }
    out = dvc.tracked(own, "data/own")
    assert out.md5 == dvc.directory_hash({name: hashlib.md5(data).hexdigest() for name, data in found.items()})
    assert out.nfiles == len(found) == 43
    picture(own / "data/own/slides/a/a4.tif")
    (own / "data/own/slides/a/a4.tif").write_bytes(b"half a slide")
    with pytest.raises(UserError, match=r"a4\.tif: changed"):
        opened.acquire(frozen)


def test_slides_without_annotations_must_be_unlabelled(own):
    (own / "data/own/annotations/a1.geojson").unlink()
    opened, slides = manifested(own)
    with pytest.raises(UserError, match=r"a1\.geojson: missing"):
        opened.acquire(slides)
    table = own / "data/own/patients.csv"
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    rows = [f"{line};{'train' if n % 2 else 'test'}" for n, line in enumerate(lines)]
    rows[0], rows[2], rows[-1] = "slide;patient;class;split", f"{lines[2]};unlabelled", f"{lines[-1]};train"
    assert lines[2].startswith("a1")
    table.write_text("\n".join(rows))
    opened, slides = manifested(own)
    opened.acquire(slides)
    [bare] = [slide for slide in slides if slide.split == "unlabelled"]
    assert opened.annotation(bare) is None and len(opened.annotation(slides[0])) == 1


def cut_table(data, **changes):
    path = data / "patients.csv"
    text = path.read_text(encoding="utf-8-sig")
    for old, new in changes.items():
        text = text.replace(old, new)
    path.write_text(text)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "patients.csv").unlink(), r"patients\.csv: No such file"),
        (lambda d: cut_table(d, patient="animal"), "the column 'patient' is missing"),
        (lambda d: cut_table(d, pa3=""), "row 4 has no patient"),
        (lambda d: (d / "slides/a/a5.tif").unlink(), "has no slide 'a5', which own.csv names"),
        (lambda d: picture(d / "slides/copy/a5.tiff"), "copy/a5.tiff: a/a5.tif is a slide 'a5' too"),
        (lambda d: (d / "slides/x.svs").symlink_to("/etc/hostname"), r"x\.svs: a link to .*outside of the data folder"),
        (lambda d: cut_table(d, **{"pa5;a": "pa4;b"}), "a patient belongs to one split and one class"),
        (
            lambda d: (d / "patients.csv").write_text("slide,patient,class\na1,p,a\na2,q,a\n"),
            "2 patients, too few to draw",
        ),
    ],
)
def test_faulty_folders_are_one_sentence_and_no_manifest(own, spoil, words):
    manifested(own)
    before = (own / "config/cohorts/own.csv").read_bytes()
    spoil(own / "data/own")
    with pytest.raises(UserError, match=words) as error:
        manifested(own)
    assert "\n" not in str(error.value)
    assert (own / "config/cohorts/own.csv").read_bytes() == before


def test_a_link_inside_and_slides_of_nobody_are_no_faults(own, caplog):
    slides = own / "data/own/slides"
    shutil.move(slides / "a/a1.tif", slides / "elsewhere.bin")
    (slides / "a/a1.tif").symlink_to(slides / "elsewhere.bin")
    picture(slides / "spare.tif")
    with caplog.at_level(logging.WARNING, "stedm"):
        manifested(own)
    assert "does not list, so not used: spare" in caplog.text


def test_own_data_from_the_command_line(own, tmp_path):
    """The README's way: a folder, a YAML, and no code."""
    root = copy_project(tmp_path / "project")
    shutil.move(own / "data", root / "data")
    values = {
        "name": "own",
        "cohort": {"name": "folder", "manifest": "config/cohorts/own.csv"},
        "tiles": {"downsample": 2, "tile": 32},
    }
    (root / "config/own.yaml").write_text(yaml.safe_dump(values))
    assert "21 slides" in command(root, "stedm", "manifest", "config/own.yaml").stderr
    command(root, "stedm", "cohort", "config/own.yaml")
    command(root, "stedm", "tiles", "config/own.yaml")
    store = TileStore(Plan(load_config(root / "config/own.yaml"), root).tiles.folder)
    label = store.window("a7", 0, 0, 96, 80)[1]
    assert (label == 1).sum() == 50**2
