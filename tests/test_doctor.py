"""The doctor: every fault of machine, slides, annotations and splits at once, each with its remedy."""

import json
import shutil
import tomllib

import numpy as np
import pytest
import tifffile
from conftest import PROJECT, command, write_config

from stedm.errors import UserError
from stedm.tools import doctor
from stedm.tools.doctor import PYTHON, examine
from stedm.tools.findings import SHOWN, Row, report


def rows_of(rows, what):
    return [row for row in rows if row.what == what]


def one(rows, what):
    [row] = rows_of(rows, what)
    return row


def examined(project):
    return examine(project / "config" / "mini.yaml", root=project)


def feature(name, ring):
    geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": name}}}


def test_a_sound_project_passes(project):
    done = command(project, "stedm", "doctor", "config/mini.yaml", "--json", "found.json")
    found = json.loads((project / "found.json").read_text())
    assert found["ok"] is True
    rows = [Row(**row) for row in found["rows"]]
    assert {row.status for row in rows if row.what != "DVC remote"} == {"PASS"}
    assert one(rows, "slide phantom-01").found == "pyvips, 768 × 768, levels 1, 2, 0.25 µm per pixel, 6 sampled reads"
    assert one(rows, "splits").found == "10 slides of 10 patients, each in one set: train 4, validation 2, test 4"
    assert all(row.found in done.stdout for row in rows)
    # What was found begins in the same column of every line.
    lines = [line for line in done.stdout.splitlines() if line.startswith(("PASS", "WARN"))]
    assert {line.index(row.found) for line, row in zip(lines, rows, strict=True)} == {lines[0].index(rows[0].found)}


def test_every_fault_of_slides_is_listed(project):
    slides = project / "data" / "mini" / "slides"
    (slides / "phantom-01.tiff").unlink()
    short = slides / "phantom-02.tiff"
    short.write_bytes(short.read_bytes()[: short.stat().st_size // 2])
    spoilt = slides / "phantom-03.tiff"
    with tifffile.TiffFile(spoilt) as tiff:
        place, length = tiff.pages[1].dataoffsets[0], tiff.pages[1].databytecounts[0]
    data = bytearray(spoilt.read_bytes())
    data[place : place + length] = bytes(length)
    spoilt.write_bytes(data)
    shutil.copy(slides / "phantom-07.tiff", slides / "phantom-08.tiff")
    shutil.copy(slides / "phantom-07.tiff", slides / "stranger.tiff")
    rows = examined(project)
    for name in ("phantom-01", "phantom-02", "phantom-03", "phantom-08"):
        found = [row for row in rows_of(rows, f"slide {name}") if row.status == "FAIL"]
        assert found and all(row.remedy for row in found)
    assert "no such slide file" in one(rows, "slide phantom-01").found
    # Level 1 has 384 pixels, so that all three windows of 256 touch its first tile.
    assert "3 of 6 sampled reads failed" in one(rows, "slide phantom-03").found
    assert "the same file as phantom-07" in rows_of(rows, "slide phantom-08")[0].found
    assert "stranger.tiff" in one(rows, "slides").found
    assert "damaged" in one(rows, "files").found
    assert one(rows, "slide phantom-04").status == "PASS"
    done = command(project, "stedm", "doctor", "config/mini.yaml", check=False)
    assert done.returncode == 1


def test_every_fault_of_annotations_is_listed(project):
    folder = project / "data" / "mini" / "annotations"
    square = [[10, 10], [60, 10], [60, 60], [10, 60]]
    features = [
        feature("tumor", square),
        feature("tumor", square),
        feature("tumour", [[700, 700], [900, 700], [900, 900]]),
        feature("tumour", [[10, 10], [60, 60], [60, 10], [10, 60]]),
        feature("tumour", [[10, 10], [20, 20], [30, 30]]),
        feature("tumour", square),
    ]
    (folder / "phantom-01.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    (folder / "phantom-02.geojson").unlink()
    (folder / "phantom-03.geojson").write_text("{")
    (folder / "phantom-99.geojson").write_text("[]")
    rows = examined(project)
    first = rows_of(rows, "annotations phantom-01")
    assert [row.status for row in first] == ["FAIL", "FAIL", "FAIL", "WARN"]
    unknown, beyond, flat, crossing = (row.found for row in first)
    assert unknown == "polygon 1 (tumor) is of an unknown class (1 more of the kind: unknown class)"
    assert beyond.startswith("polygon 3 (tumour) spans x 700 to 900 and y 700 to 900, beyond the slide of 768 × 768")
    assert flat == "polygon 5 (tumour) encloses no area"
    assert crossing == "1 outlines cross themselves: polygon 4 (tumour)"
    assert one(rows, "annotations phantom-02").status == one(rows, "annotations phantom-03").status == "FAIL"
    orphans = [row for row in rows_of(rows, "annotations") if "phantom-99.geojson" in row.found]
    assert [row.status for row in orphans] == ["WARN"]


def test_every_fault_of_splits_is_listed(project):
    manifest = project / "config" / "cohorts" / "mini.csv"
    lines = manifest.read_text().splitlines()
    first = next(line for line in lines if line.startswith("phantom-01,")).split(",")
    lines += [f"extra,{first[1]},{first[2]},test", "phantom-02,p02,0,train", "other,p77,0,exam", "empty,,0,test"]
    manifest.write_text("\n".join(lines) + "\n")
    found = [row.found for row in rows_of(examined(project), "splits")]
    for text in ("patient 'p01' is in train/0 and in test/0", "'phantom-02' stands in two rows", "'exam'", "an empty"):
        assert sum(text in row for row in found) == 1
    assert len(found) == 4


def test_data_that_are_yet_to_be_drawn_are_no_failure(project):
    shutil.rmtree(project / "data")
    rows = examined(project)
    assert one(rows, "slides").status == "WARN"
    assert not rows_of(rows, "slide phantom-01")


@pytest.mark.parametrize(
    ("name", "status", "remedy"),
    [
        ("catch", "FAIL", "with IBM Aspera"),
        ("flowers", "WARN", "stedm fetch CONFIG --yes"),
        ("her2", "FAIL", "ask for an account"),
        ("monusac", "FAIL", "unpack both into"),
        ("own", "FAIL", "cohort.options.path"),
    ],
)
def test_how_absent_slides_are_had_is_said_once(tmp_path, name, status, remedy):
    shutil.copytree(PROJECT / "config", tmp_path / "config")
    own = {"name": "own", "cohort": {"name": "folder", "manifest": "config/cohorts/catch.csv"}}
    write_config(tmp_path, own | {"tiles": {"downsample": 8}}, "own")
    rows = examine(tmp_path / "config" / f"{name}.yaml", root=tmp_path)
    row = one(rows, "slides")
    assert row.status == status and "none of the" in row.found and remedy in row.remedy
    assert not [row for row in rows if row.what.startswith("slide ")]


def test_votes_regions_and_slides_that_only_give_styles_are_understood(tmp_path):
    """HER2: on the test slide two people vote, one of whom drew the region; both drew a class that nobody knows."""
    types = [
        {"id": n, "name": name, "vector_type": 5, "product_name": "HER2 Tissues"}
        for n, name in ((1, "Set 1"), (2, "HER2 0"), (3, "Stroma"))
    ]
    boxes = [(1, 1, 10, 90), (1, 2, 20, 40), (2, 2, 22, 44), (1, 3, 50, 60), (2, 3, 52, 62)]
    drawn = []
    for number, (user, kind, low, high) in enumerate(boxes):
        vector = {"x1": low, "y1": low, "x2": high, "y2": low, "x3": high, "y3": high, "x4": low, "y4": high}
        drawn.append({"id": number, "user": user, "image": 1, "annotation_type": kind, "vector": vector})
    content = {"image": {"id": 1}, "annotation_types": types, "annotations": drawn}
    data = tmp_path / "data" / "her2"
    for folder in (data / "slides", data / "annotations", tmp_path / "config" / "cohorts"):
        folder.mkdir(parents=True)
    for name in ("1", "2", "3"):
        picture = np.random.default_rng(int(name)).integers(0, 255, (128, 128, 3), np.uint8)
        tifffile.imwrite(data / "slides" / f"{name}.tif", picture, tile=(32, 32), photometric="rgb")
        (data / "annotations" / f"{name}.json").write_text(json.dumps(content))
    (data / "annotations" / "3.json").unlink()
    # The slide's file says more than its name, and so does that of its annotations.
    for folder, suffix in (("slides", "tif"), ("annotations", "json")):
        (data / folder / f"1.{suffix}").rename(data / folder / f"1_HER2_IHC.{suffix}")
    (tmp_path / "config" / "cohorts" / "her2.csv").write_text(
        "slide,patient,class,split\n1,1,0,train\n2,2,0,test\n3,3,0,unlabelled\n"
    )
    shutil.copy(PROJECT / "config" / "her2.yaml", tmp_path / "config" / "her2.yaml")
    rows = examine(tmp_path / "config" / "her2.yaml", root=tmp_path)
    for name in ("1", "2"):
        row = one(rows, f"annotations {name}")
        assert row.found.endswith("(Stroma) is of an unknown class (1 more of the kind: unknown class)")
    assert one(rows, "annotations") == Row("PASS", "annotations", "4 HER2 0, 2 Region*, 4 Stroma")
    (data / "annotations" / "9.json").write_text("{}")
    [orphan] = [
        row for row in examine(tmp_path / "config" / "her2.yaml", root=tmp_path) if "belong to no slide" in row.found
    ]
    assert (orphan.status, orphan.what) == ("WARN", "annotations") and orphan.found.endswith(": 9.json")


def test_a_lost_file_of_all_annotations_is_named_once(tmp_path):
    data = tmp_path / "data" / "catch"
    (tmp_path / "config" / "cohorts").mkdir(parents=True)
    data.mkdir(parents=True)
    lines = ["slide,patient,class,split"]
    for number, split in enumerate(("train", "test"), start=1):
        picture = np.random.default_rng(number).integers(0, 255, (128, 128, 3), np.uint8)
        tifffile.imwrite(data / f"SCC_{number}_1.svs", picture, tile=(32, 32), photometric="rgb")
        lines.append(f"SCC_{number}_1,SCC_{number},SCC,{split}")
    (tmp_path / "config" / "cohorts" / "catch.csv").write_text("\n".join(lines))
    shutil.copy(PROJECT / "config" / "catch.yaml", tmp_path / "config" / "catch.yaml")
    rows = examine(tmp_path / "config" / "catch.yaml", root=tmp_path)
    assert sum("CATCH.json: No such file" in row.found for row in rows) == 1


def test_many_sound_slides_are_counted():
    rows = [Row("PASS", f"slide {n}", "fine") for n in range(SHOWN + 7)] + [Row("FAIL", "slide x", "broken", "mend it")]
    text = report(rows)
    assert f"slide {SHOWN - 1}  " in text and f"slide {SHOWN} " not in text
    assert "… and 7 more slides" in text and "broken" in text and f"{SHOWN + 7} PASS, 0 WARN, 1 FAIL" in text


def test_slides_by_path(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", picture, tile=(32, 32), photometric="rgb", resolutionunit="NONE")
    (tmp_path / "b.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:500])
    rows = examine(slides=[tmp_path / name for name in ("a.tif", "b.tif", "c.tif")], root=tmp_path)
    assert [row.status for row in rows_of(rows, "slide a.tif")] == ["PASS", "WARN"]
    assert "--slide-mpp" in rows_of(rows, "slide a.tif")[1].remedy
    assert rows_of(rows, "slide b.tif")[0].status == one(rows, "slide c.tif").status == "FAIL"


def test_bad_input_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"absent\.yaml"):
        examine(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("url", "status", "found"),
    [
        ("../../here", "PASS", "here"),
        ("../../gone", "FAIL", "no such folder"),
        ("s3://bucket/store", "PASS", "not contacted"),
        (None, "WARN", "none"),
    ],
)
def test_the_remote_is_looked_for(tmp_path, url, status, found):
    """Relative URLs count from the folder of the configuration, as `dvc remote add` writes them."""
    root = tmp_path / "project"
    (root / ".dvc").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    if url:
        (root / ".dvc" / "config").write_text(f"[core]\n    remote = store\n['remote \"store\"']\n    url = {url}\n")
    row = one(examine(root=root), "DVC remote")
    assert (row.status, found in row.found) == (status, True)


def test_disk_and_memory_are_compared_with_the_need(project, monkeypatch):
    usage = shutil.disk_usage(project)._replace(free=100 * 2**20)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(doctor, "available_memory", lambda: 100 * 2**20)
    rows = examined(project)
    assert (one(rows, "disk").status, one(rows, "memory").status) == ("FAIL", "FAIL")
    assert one(rows, "disk").remedy and one(rows, "memory").remedy


def test_memory_is_that_of_this_machine():
    assert 2**26 < doctor.available_memory() < 2**45


def test_python_is_that_of_the_package():
    required = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert required == ">={}.{},<{}.{}".format(*PYTHON[0], *PYTHON[1])
