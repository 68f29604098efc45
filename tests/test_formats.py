"""Annotations in the forms of CATCH's JSON, SlideRunner's databases (and a real one) and ImageScope's XML."""

import json
import sqlite3

import numpy as np
import pytest
import shapely
from conftest import shared

from stedm.cohort.annotations import check_polygons, read_coco, read_imagescope, read_sliderunner
from stedm.errors import UserError


def coco():
    return {
        "images": [
            {"id": 1, "file_name": "SCC_01_1.svs", "width": 900, "height": 700},
            {"id": 2, "file_name": "MCT_02_1.svs", "width": 900, "height": 700},
        ],
        "categories": [{"id": 3, "name": "Dermis"}, {"id": 11, "name": "SCC"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [10, 20, 210, 20, 210, 320, 10, 320]},
            {"id": 2, "image_id": 1, "category_id": 11, "segmentation": [20, 30, 60, 30, 60.5, 90]},
            {"id": 3, "image_id": 1, "category_id": 11, "segmentation": [[0, 0, 5, 0, 5, 5], [9, 9, 9, 12, 12, 12]]},
        ],
    }


def written(folder, content):
    path = folder / "CATCH.json"
    path.write_text(json.dumps(content))
    return path


def test_flat_lists_and_lists_of_lists_become_polygons(tmp_path):
    path = written(tmp_path, coco())
    found = read_coco(path, "SCC_01_1.svs")
    assert [p.annotated for p in found] == ["Dermis", "SCC", "SCC", "SCC"]
    np.testing.assert_array_equal(found[0].exterior, [[10, 20], [210, 20], [210, 320], [10, 320]])
    assert found[1].exterior[2, 0] == 60.5
    assert read_coco(path, "MCT_02_1.svs") == []
    assert check_polygons(found, width=900, height=700, classes=["Dermis", "SCC"], source=path) == found


def test_a_new_version_of_the_file_is_read(tmp_path):
    assert len(read_coco(written(tmp_path, coco()), "SCC_01_1.svs")) == 4
    content = coco()
    del content["annotations"][1:]
    assert len(read_coco(written(tmp_path, content), "SCC_01_1.svs")) == 1


def change(path, value):
    content = coco()
    *parents, last = path
    inner = content
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (change(["annotations", 1, "image_id"], 7), "annotation 2 is of image 7, which the file does not list"),
        (change(["annotations", 0, "category_id"], 9), "annotation 1 is of category 9"),
        (change(["annotations", 0, "segmentation"], [1, 2, 3, 4]), r"annotation 1 \(Dermis\) has a ring of 2 points"),
        (change(["annotations", 0, "segmentation"], [1, 2, 3, 4, 5, 6, 7]), "no list of"),
        (change(["annotations", 0, "segmentation"], None), "not of COCO's form"),
        (change(["images", 1, "file_name"], "SCC_01_1.svs"), "two images have the same file_name"),
        (change(["annotations"], None), "not of COCO's form"),
        ([], "not of COCO's form"),
    ],
)
def test_faulty_json_is_one_sentence(tmp_path, content, words):
    with pytest.raises(UserError, match=words) as error:
        read_coco(written(tmp_path, content), "SCC_01_1.svs")
    assert "\n" not in str(error.value)


def test_a_slide_that_the_json_does_not_know_is_named(tmp_path):
    with pytest.raises(UserError, match=r"lists no image 'PNST_01_1\.svs'"):
        read_coco(written(tmp_path, coco()), "PNST_01_1.svs")
    with pytest.raises(UserError, match="No such file"):
        read_coco(tmp_path / "none.json", "a.svs")


def database(path, *, deleted=True):
    flag = ", deleted INTEGER DEFAULT 0" if deleted else ""
    with sqlite3.connect(path) as base:
        base.executescript(f"""
            CREATE TABLE Slides (uid INTEGER PRIMARY KEY, filename TEXT, width INTEGER, height INTEGER);
            CREATE TABLE Classes (uid INTEGER PRIMARY KEY, name TEXT);
            CREATE TABLE Annotations (uid INTEGER PRIMARY KEY, slide INTEGER, type INTEGER, agreedClass INTEGER{flag});
            CREATE TABLE Annotations_coordinates (uid INTEGER PRIMARY KEY, coordinateX INTEGER, coordinateY INTEGER,
                slide INTEGER, annoId INTEGER, orderIdx INTEGER);
            INSERT INTO Slides VALUES (4, 'a.svs', 900, 700), (5, 'b.svs', 900, 700), (6, 'b.svs', 900, 700);
            INSERT INTO Classes VALUES (1, 'Dermis'), (2, 'SCC');
        """)
        shapes = [
            (1, 3, 1, [(10, 20), (210, 20), (210, 320), (10, 320)], 0),
            (2, 2, 2, [(100, 100), (150, 180)], 0),
            (3, 5, 2, [(300, 300), (400, 500)], 0),
            (4, 1, 2, [(5, 5)], 0),
            (5, 3, 0, [(0, 0), (9, 0), (9, 9)], 0),
            (6, 3, 2, [(0, 0), (9, 0), (9, 9)], 1),
        ]
        for uid, kind, name, points, gone in shapes:
            row = (uid, 4, kind, name, gone) if deleted else (uid, 4, kind, name)
            if deleted or not gone:
                base.execute(f"INSERT INTO Annotations VALUES ({', '.join('?' * len(row))})", row)
            # Rows are not stored in the order of the outline.
            for order, (x, y) in reversed(list(enumerate(points, start=1))):
                values = (x, y, 4, uid, order)
                columns = "coordinateX, coordinateY, slide, annoId, orderIdx"
                base.execute(f"INSERT INTO Annotations_coordinates ({columns}) VALUES (?, ?, ?, ?, ?)", values)
    return path


@pytest.mark.parametrize("deleted", [True, False])
def test_a_database_of_sliderunner(tmp_path, caplog, deleted):
    path = database(tmp_path / "with space #1.sqlite", deleted=deleted)
    path.chmod(0o444)
    before = path.read_bytes()
    with caplog.at_level("WARNING", "stedm"):
        polygon, box, circle = read_sliderunner(path, "a.svs")
    np.testing.assert_array_equal(polygon.exterior, [[10, 20], [210, 20], [210, 320], [10, 320]])
    assert shapely.Polygon(box.exterior).bounds == (100, 100, 150, 180) and box.annotated == "SCC"
    ellipse = shapely.Polygon(circle.exterior)
    assert ellipse.area == pytest.approx(np.pi * 50 * 100, rel=0.01)
    assert ellipse.bounds == pytest.approx((300, 300, 400, 500), abs=0.5)
    assert "left out 1 spots" in caplog.text and "left out 1 annotations without an agreed class" in caplog.text
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_faulty_databases_are_one_sentence(tmp_path):
    path = database(tmp_path / "a.sqlite")
    with pytest.raises(UserError, match=r"does not know the slide 'c\.svs'"):
        read_sliderunner(path, "c.svs")
    with pytest.raises(UserError, match=r"two entries of the slide 'b\.svs'"):
        read_sliderunner(path, "b.svs")
    path.write_bytes(b"no database at all, " * 100)
    with pytest.raises(UserError, match="no readable SlideRunner database"):
        read_sliderunner(path, "a.svs")
    with pytest.raises(UserError, match="no such SlideRunner database"):
        read_sliderunner(tmp_path / "none.sqlite", "a.svs")
    assert not (tmp_path / "none.sqlite").exists()


def test_the_real_database():
    path = shared("sliderunner/demo.sqlite")
    polygon, circle, box = read_sliderunner(path, "9374efe6ac06388cc877.svs")
    assert (len(polygon.exterior), polygon.annotated, circle.annotated) == (22, "1st class", "2nd class")
    assert shapely.Polygon(polygon.exterior).is_valid
    assert shapely.Polygon(circle.exterior).bounds == pytest.approx((14157, 11318, 14409, 11570), abs=1)
    assert shapely.Polygon(box.exterior).bounds == (17121, 8037, 18303, 8564)
    found = [polygon, circle, box]
    classes = ["1st class", "2nd class"]
    assert check_polygons(found, width=52199, height=40646, classes=classes, source=path) == found


NUCLEUS = [(10.5, 20.25), (18, 20), (19, 31.75), (9, 30)]


def imagescope(layers):
    """XML as ImageScope writes it: of each layer its name, its attribute and its regions (type, vertices, negative)."""
    parts = ['<?xml version="1.0" encoding="UTF-8"?>', '<Annotations MicronsPerPixel="0.252000">']
    for n, (name, attribute, regions) in enumerate(layers, start=1):
        parts += [
            f'<Annotation Id="{n}" Name="{name}" ReadOnly="0" NameReadOnly="0" LineColorReadOnly="0" Incremental="0" '
            'Type="4" LineColor="65280" Visible="1" Selected="1" MarkupImagePath="" MacroName="">',
            f'<Attributes><Attribute Name="{attribute}" Id="0" Value=""/></Attributes><Regions>',
            '<RegionAttributeHeaders><AttributeHeader Id="9999" Name="Region" ColumnWidth="-1"/>',
            "</RegionAttributeHeaders>",
        ]
        for m, (kind, points, negative) in enumerate(regions, start=1):
            vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
            parts.append(
                f'<Region Id="{m}" Type="{kind}" Zoom="1" Selected="0" ImageLocation="" ImageFocus="-1" Length="40" '
                f'Area="80" LengthMicrons="10" AreaMicrons="5" Text="" NegativeROA="{negative}" InputRegionId="0" '
                f'Analyze="0" DisplayId="{m}"><Attributes/><Vertices>{vertices}</Vertices></Region>'
            )
        parts.append("</Regions><Plots/></Annotation>")
    return "\r\n".join([*parts, "</Annotations>"])


def test_imagescope_layers_become_classes(tmp_path, caplog):
    rectangle = [(0, 0), (8, 0), (8, 6), (0, 6)]
    layers = [
        ("", "Epithelial", [(0, NUCLEUS, 0), (1, rectangle, 0)]),
        (
            "Tumour",
            "Description",
            [(0, NUCLEUS[::-1], 0), (2, rectangle[::2], 0), (4, rectangle[:2], 0), (0, NUCLEUS[:2], 0)],
        ),
        ("", "Description", []),
    ]
    path = tmp_path / "a.xml"
    path.write_text(imagescope(layers))
    with caplog.at_level("WARNING", "stedm"):
        found = read_imagescope(path)
    assert [p.annotated for p in found] == ["Epithelial", "Epithelial", "Tumour"]
    for polygon, ring in zip(found, (NUCLEUS, rectangle, NUCLEUS[::-1]), strict=True):
        np.testing.assert_array_equal(polygon.exterior, ring)
    assert "left out 3 regions" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("<Annotations>", "not valid XML"),
        ("<ASAP_Annotations/>", "not ImageScope's"),
        (imagescope([("", "Description", [(0, NUCLEUS, 0)])]), "region 1 of layer 1 .* is of no class"),
        (imagescope([("", "Neutrophil", [(0, NUCLEUS, 1)])]), r"\(Neutrophil\) is a negative region"),
        (imagescope([("", "Neutrophil", [(0, [*NUCLEUS, ("nan", 3)], 0)])]), "no finite number"),
        (imagescope([("", "Neutrophil", [(0, [*NUCLEUS, ("", 3)], 0)])]), "no list of"),
    ],
)
def test_bad_imagescope_files_are_named(tmp_path, text, message):
    path = tmp_path / "a.xml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=rf"a\.xml: .*{message}"):
        read_imagescope(path)
