import json

import numpy as np
import pytest
import shapely
from conftest import shared

from stedm.cohort.annotations import check_polygons, read_geojson
from stedm.cohort.base import Polygon
from stedm.errors import UserError

SQUARE = [[10, 10], [30, 10], [30, 30], [10, 30], [10, 10]]
HOLE = [[15, 15], [20, 15], [20, 20], [15, 20], [15, 15]]


def feature(name, geometry, **properties):
    classified = {} if name is None else {"classification": name}
    return {"type": "Feature", "geometry": geometry, "properties": {**classified, **properties}}


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def written(folder, content):
    path = folder / "a.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    "classification",
    [{"name": "Tumour", "color": [200, 0, 0]}, {"name": " tumour ", "colorRGB": -3670016}, "TUMOUR"],
)
def test_class_names_are_read_in_every_form(tmp_path, classification):
    path = written(tmp_path, {"type": "FeatureCollection", "features": [feature(classification, polygon(SQUARE))]})
    found = read_geojson(path, classes=["tumour"])
    assert [p.annotated for p in found] == ["tumour"]


def test_derived_classes_are_joined_as_qupath_shows_them(tmp_path):
    path = written(tmp_path, [feature({"names": ["Tumor", "Positive"]}, polygon(SQUARE))])
    assert read_geojson(path)[0].annotated == "Tumor: Positive"


def test_holes_multipolygons_and_single_features(tmp_path):
    many = {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [[[40, 40], [50, 40], [50, 50]]]]}
    found = read_geojson(written(tmp_path, feature({"name": "a"}, many)))
    assert [len(p.holes) for p in found] == [1, 0]
    assert found[0].exterior.dtype == np.float64
    np.testing.assert_array_equal(found[0].holes[0], HOLE)


def test_features_without_class_and_points_are_left_out_and_counted(tmp_path, caplog):
    point = feature({"name": "a"}, {"type": "Point", "coordinates": [1, 2]})
    content = [feature(None, polygon(SQUARE)), point, feature({"name": "a"}, polygon(SQUARE))]
    path = written(tmp_path, content)
    with caplog.at_level("WARNING", "stedm"):
        assert len(read_geojson(path)) == 1
    assert "1 areas without a class" in caplog.text
    assert "1 points or lines" in caplog.text
    assert [p.annotated for p in read_geojson(path, unclassified="b")] == ["b", "a"]


def test_only_areas_without_class_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"none of its 1 areas has a class"):
        read_geojson(written(tmp_path, [feature(None, polygon(SQUARE))]))


def test_an_empty_collection_is_no_error(tmp_path):
    assert read_geojson(written(tmp_path, {"type": "FeatureCollection", "features": []})) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("7", "no GeoJSON features"),
        ({"type": "FeatureCollection"}, "no GeoJSON features"),
        ([feature({"name": "a"}, polygon([[0, 0], [5, 5], [0, 0]]))], "ring of 2 points"),
        ([feature({"name": "a"}, polygon([[0, 0], [5, float("nan")], [5, 0]]))], "no finite number"),
        ([feature({"name": "a"}, polygon([[0, 0], [5], [5, 0]]))], "no list of"),
        ([feature({"name": "a"}, {"type": "Circle", "coordinates": []})], "geometry 'Circle'"),
        ([feature({"name": "a"}, None)], "geometry None"),
        ([feature({"name": "a"}, polygon())], "no coordinates"),
    ],
)
def test_bad_files_are_named_in_one_sentence(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        read_geojson(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.geojson"):
        read_geojson(tmp_path / "absent.geojson")


def test_a_real_export_of_qupath():
    path = shared("qupath/polygon.geojson")
    with pytest.raises(UserError, match="has a class"):
        read_geojson(path)
    found = read_geojson(path, unclassified="tumour")
    expected = shapely.from_geojson(path.read_text())
    assert len(found) == len(shapely.get_parts(expected))
    area = sum(shapely.Polygon(p.exterior, p.holes).area for p in found)
    assert area == pytest.approx(expected.area)
    assert check_polygons(found, width=10000, height=10000, classes=["tumour"], source=path) == found


def checked(*rings, annotated="a", size=(100, 100)):
    shape = Polygon(annotated, np.array(rings[0], float), tuple(np.array(ring, float) for ring in rings[1:]))
    return check_polygons([shape], width=size[0], height=size[1], classes=["a", "b"], source="x.geojson")


def test_sound_polygons_pass_unchanged():
    (found,) = checked(SQUARE, HOLE)
    np.testing.assert_array_equal(found.exterior, SQUARE)


@pytest.mark.parametrize("edge", [-0.9, 0.9])
def test_a_pixel_over_the_edge_is_tolerated(edge):
    assert len(checked(np.array(SQUARE) + (-10 if edge < 0 else 70) + edge)) == 1


@pytest.mark.parametrize("shift", [[-12, 0], [0, 72], [500, 500]])
def test_polygons_beyond_the_slide_are_refused(shift):
    with pytest.raises(UserError, match=r"x\.geojson: polygon 1 \(a\) spans .* beyond the slide of 100 × 100"):
        checked(np.array(SQUARE) + shift)


def test_unknown_classes_are_refused():
    with pytest.raises(UserError, match=r"polygon 1 \(tumor\) is of an unknown class.*\(a, b\)"):
        checked(SQUARE, annotated="tumor")


def test_crossing_outlines_become_what_they_enclose():
    found = checked([[10, 10], [30, 30], [30, 10], [10, 30]])
    assert len(found) == 2
    assert sum(shapely.Polygon(p.exterior).area for p in found) == pytest.approx(200)


def test_outlines_without_area_are_refused():
    with pytest.raises(UserError, match="encloses no area"):
        checked([[10, 10], [20, 20], [30, 30]])
