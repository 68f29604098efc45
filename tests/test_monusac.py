"""MoNuSAC: the split and its folds, the files at hand, and the official release."""

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import PROJECT, command, shared
from test_formats import imagescope

from stedm.cohort import labelled_patients, load_cohort, read_manifest
from stedm.cohort.files import write_manifest
from stedm.cohort.monusac import TESTING, TRAINING
from stedm.config import CohortConfig, TilesConfig, load_config
from stedm.errors import UserError
from stedm.study import Study
from stedm.tiles.cut import cut_cohort
from stedm.tiles.store import UNKNOWN, TileStore

FOLDS = ("split", "split-fold1", "split-fold2")


def monusac(**options):
    return CohortConfig(name="monusac", manifest=Path("config/cohorts/monusac.csv"), options=options)


def test_monusac_missing_folder_is_one_sentence(tmp_path):
    slides = read_manifest(PROJECT / "config/cohorts/monusac.csv")
    cohort = load_cohort(monusac(), tmp_path)
    assert cohort.state(slides) == "whole"
    with pytest.raises(UserError, match=r"data/monusac: no such folder; set cohort\.options\.path"):
        cohort.acquire(slides)


def rows():
    lines = (PROJECT / "config/cohorts/monusac.csv").read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def test_monusac_splits_are_the_documented_ones():
    organ = {row["patient"]: row["organ"] for row in rows()}
    assert len(rows()) == 45 and len(organ) == 14
    assert all(row["patient"] == row["slide"][:12] for row in rows())
    tested = {"kidney": (1, 2, 2), "lung": (2, 1, 2), "breast": (1, 1, 0), "prostate": (1, 1, 0)}
    for fold, column in enumerate(FOLDS):
        slides = read_manifest(PROJECT / "config/cohorts/monusac.csv", column)
        split = {slide.patient: slide.split for slide in slides}
        for name, counts in tested.items():
            patients = [patient for patient in organ if organ[patient] == name]
            patients.sort(key=lambda patient: hashlib.sha256(f"0/{patient}".encode()).digest())
            begin, test = sum(counts[:fold]), counts[fold]
            validation = test + (name in ("kidney", "lung"))
            for rank, patient in enumerate(patients[begin:] + patients[:begin]):
                assert split[patient] == ("test" if rank < test else "validation" if rank < validation else "train")
        train = {slide.patient for slide in slides if slide.split == "train"}
        assert len(train) - len(labelled_patients(slides, 2, 0)) >= 5


def test_each_patient_is_tested_in_one_fold():
    for patient in {row["patient"] for row in rows()}:
        splits = [{row[column] for row in rows() if row["patient"] == patient} for column in FOLDS]
        assert all(len(split) == 1 for split in splits) and splits.count({"test"}) == 1


def test_folds_are_runs_of_their_own():
    study = Study(load_config(PROJECT / "config/monusac.yaml"), PROJECT)
    assert [plan.config.cohort.split for plan in study.plans] == list(FOLDS)
    assert set().union(*(plan.patients("test") for plan in study.plans)) == {row["patient"] for row in rows()}
    assert len(study.all["cohort"]) == len(study.all["tiles"]) == 1
    for stage in ("generator", "synthetic", "segmenter", "scores"):
        ids = [set(plan.all[stage]) for plan in study.plans]
        assert sum(map(len, ids)) == len(set.union(*ids)) == len(study.all[stage])


def test_make_runs_all_folds(tmp_path):
    """Through make itself, with recorders in place of snakemake and stedm."""
    said = tmp_path / "said"
    for name in ("snakemake", "stedm"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" >> {said}\n')
        (tmp_path / name).chmod(0o755)
    command(PROJECT, "make", "-o", "setup", f"BIN={os.path.relpath(tmp_path, PROJECT)}", "monusac", "DATA=/d")
    words = said.read_text().splitlines()
    assert words.count("snakemake") == 1 and "config/monusac.yaml" in words and "results/monusac/config.yaml" in words
    [cohort] = [json.loads(word.removeprefix("cohort=")) for word in words if word.startswith("cohort=")]
    assert cohort == {"options": {"path": "/d"}}


def test_real_monusac(tmp_path):
    import cv2

    cohort = load_cohort(monusac(path=shared("monusac")), tmp_path)
    slides = read_manifest(PROJECT / "config/cohorts/monusac.csv")
    assert cohort.acquire(slides)["data"] == "verified"
    assert cohort.state(slides) == "whole"
    mask = cohort.annotation(slides[0])
    image = cv2.imread(str(cohort.slide_path(slides[0])))
    pixels = cv2.imread(str(mask.path), cv2.IMREAD_GRAYSCALE)
    assert pixels.shape == image.shape[:2] and mask.annotated == "nucleus"
    assert 0.39 < (pixels > mask.threshold).mean() < 0.41
    assert cohort.mpp(slides[0]) == 0.25


TRAINED = [f"TCGA-A{n}-0000" for n in range(8)]
OFFICIAL = {"path": "release", "layout": "official"}
CLASSES = ["Epithelial", "Lymphocyte", "Macrophage", "Neutrophil"]


def square(x, y, side):
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]


@pytest.fixture
def release(tmp_path):
    """The official release in small: a folder a patient, each image as .svs and .tif, and its XML."""
    layers = [
        ("", "Epithelial", [(0, square(4, 4, 20), 0)]),
        ("", "Neutrophil", [(0, square(40, 8, 12), 0)]),
        ("", "Ambiguous", [(0, square(10, 10, 40), 0)]),
    ]
    for top, patients in ((TRAINING, TRAINED), (TESTING, ["TCGA-B0-0000"])):
        for patient in patients:
            for number in (1, 2):
                name = f"{patient}-01Z-00-DX1"
                path = tmp_path / "release" / top / name / f"{name}_{number}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = np.random.default_rng(number).integers(90, 210, (64, 96, 3), np.uint8)
                tifffile.imwrite(path, picture, photometric="rgb")
                path.with_suffix(".svs").write_bytes(path.read_bytes())
                path.with_suffix(".xml").write_text(imagescope(layers))
    return tmp_path


def test_the_official_release_is_read(release):
    config = CohortConfig(name="monusac", manifest=Path("m.csv"), options=OFFICIAL)
    cohort = load_cohort(config, release)
    write_manifest(release / "m.csv", *cohort.list_slides())
    slides = read_manifest(release / "m.csv")
    split = {slide.patient: slide.split for slide in slides}
    first = min(TRAINED, key=lambda patient: hashlib.sha256(f"0/{patient}".encode()).digest())
    assert len(slides) == 18 and {slide.slide[:12] for slide in slides} == set(split)
    assert split == dict.fromkeys(TRAINED, "train") | {first: "validation", "TCGA-B0-0000": "test"}
    assert set(cohort.acquire(slides)["md5"]) == {slide.slide for slide in slides}
    tiles = TilesConfig(mpp=0.25, tile=32, classes=CLASSES, foreground=CLASSES, min_tissue=0)
    cut_cohort(cohort, slides[:1], tiles, release / "store")
    _, label = TileStore(release / "store").window(slides[0].slide, 0, 0, 96, 64)
    expected = np.zeros((64, 96), np.uint8)
    expected[4:24, 4:24], expected[8:20, 40:52] = 1, 4
    # What the challenge does not score is unknown, also where a nucleus was drawn.
    expected[10:50, 10:50] = UNKNOWN
    np.testing.assert_array_equal(label, expected)


def test_what_is_not_the_official_release_is_named(release):
    def listed(**options):
        return load_cohort(CohortConfig(name="monusac", manifest=Path("m.csv"), options=options), release).list_slides()

    with pytest.raises(UserError, match=r"m\.csv: only of the official release"):
        listed(path="release")
    stray = release / "release" / "TCGA-A0-0000_9.tif"
    stray.write_bytes(b"")
    with pytest.raises(UserError, match=r"TCGA-A0-0000_9\.tif: lies in neither"):
        listed(**OFFICIAL)
    stray.unlink()
    shutil.rmtree(release / "release" / TESTING)
    with pytest.raises(UserError, match=f"{TESTING}: has no images"):
        listed(**OFFICIAL)
