"""The client of EXACT against a real HTTP server on loopback: recorded answers, and small ones of the same form."""

import json

import numpy as np
import pytest
import shapely
from conftest import shared
from servers import PASSWORD, USER, ExactServer, send, serve

from stedm.cohort.annotations import read_exact
from stedm.cohort.base import REGION
from stedm.cohort.exact import Exact, ExactOptions, export
from stedm.cohort.web import Web
from stedm.errors import UserError

SLIDE = bytes(range(256)) * 900


def annotation(number, kind, xs, ys, *, image=1, user=1, deleted=False):
    vector = {f"x{n}": x for n, x in enumerate(xs, start=1)} | {f"y{n}": y for n, y in enumerate(ys, start=1)}
    # A server gives keys in the order of text: x1, x10, x11, x2, …
    facts = {"id": number, "annotation_type": kind, "image": image, "user": user, "deleted": deleted}
    return facts | {"vector": dict(sorted(vector.items()))}


def ring(count, radius=100, centre=(500, 400)):
    angle = 2 * np.pi * np.arange(count) / count
    xs, ys = centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)
    return xs.round().astype(int).tolist(), ys.round().astype(int).tolist()


def kind(number, name, vector_type, product):
    return {"id": number, "name": name, "vector_type": vector_type, "product": product}


def made():
    return {
        "images/image_sets": [{"id": 7, "name": "Test", "images": [1, 2], "product_set": [1, 2]}],
        "images/images": [
            {"id": 1, "name": "101_HER2.svs", "width": 2000, "height": 1000, "mpp": 0.0, "image_set": 7},
            {"id": 2, "name": "102_HER2.svs", "width": 2000, "height": 1000, "mpp": 0.25, "image_set": 7},
        ],
        "administration/products": [
            {"id": 1, "name": "Tissue", "imagesets": [7]},
            {"id": 2, "name": "ROI", "imagesets": [7]},
            {"id": 3, "name": "Other", "imagesets": [7]},
        ],
        "annotations/annotation_types": [
            kind(1, "Tumour", 5, 1),
            kind(2, "Mitosis", 2, 1),
            kind(3, "Set 1", 1, 2),
            kind(4, "Vessel", 5, 3),
        ],
        "annotations/annotations": [
            annotation(1, 3, [300, 800], [200, 500]),
            annotation(2, 1, *ring(12)),
            annotation(3, 1, *ring(9, 80), user=2),
            annotation(4, 1, *ring(20, 50), deleted=True),
            annotation(5, 2, [10], [20]),
            annotation(6, 4, *ring(5)),
            annotation(7, 1, *ring(6), image=2, user=2),
        ],
    }


def recorded():
    def results(name):
        return json.loads((folder / f"{name}.json").read_text())["body"]["results"]

    folder = shared("exact")
    drawn = results("annotations_image") + results("annotations_12gon")
    types = results("annotation_types_tissue") + results("annotation_types_roi")
    return {
        "images/image_sets": results("image_sets"),
        "images/images": results("images"),
        "administration/products": results("products"),
        "annotations/annotation_types": types,
        "annotations/annotations": [*drawn, {**drawn[0], "id": 99, "deleted": True}],
    }


def client(address, *, user=USER, password=PASSWORD):
    return Exact(address, Web((user, password), pause=0))


def area(polygon):
    return shapely.Polygon(polygon.exterior).area


def test_pages_are_followed_and_deleted_annotations_left_out():
    server = ExactServer(made())
    with serve(server) as address:
        found = client(address).annotations(1)
        one = client(address).annotations(1, user=2)
    assert [entry["id"] for entry in found] == [1, 2, 3, 5, 6]
    assert [entry["id"] for entry in one] == [3]
    offsets = [query.get("offset") for path, query in server.asked]
    assert offsets == [None, "2", "4", None]
    assert all(query["deleted"] == "False" for _, query in server.asked)


def test_an_image_set_becomes_a_folder_that_is_read_back(tmp_path):
    server = ExactServer(made(), {1: SLIDE, 2: SLIDE[::-1]})
    options = ExactOptions(image_sets=("Test",))
    with serve(server) as address:
        assert export(client(address), options, tmp_path) == 2
        asked = len(server.asked)
        export(client(address), options, tmp_path)
    assert (tmp_path / "slides/101_HER2.svs").read_bytes() == SLIDE
    assert sum("download" in path for path, _ in server.asked[asked:]) == 0
    path = tmp_path / "annotations/101_HER2.json"
    found = read_exact(path, product="Tissue", regions=["Set 1"])
    assert {user: [p.annotated for p in own] for user, own in found.items()} == {1: [REGION, "Tumour"], 2: ["Tumour"]}
    region, tumour = found[1]
    np.testing.assert_array_equal(region.exterior, [[300, 200], [800, 200], [800, 500], [300, 500]])
    # The points in the order of their numbers enclose the disc; in the order of text they would cross.
    assert area(tumour) == pytest.approx(3 * 100**2, rel=0.02)
    assert list(read_exact(path, users=[2], product="Tissue")) == [2]
    assert {p.annotated for own in read_exact(path).values() for p in own} == {"Set 1", "Tumour", "Vessel"}
    # An export that somebody else made may hold what was deleted.
    content = json.loads(path.read_text())
    for entry in content["annotations"][1:]:
        entry["deleted"] = True
    path.write_text(json.dumps(content))
    assert [p.annotated for own in read_exact(path).values() for p in own] == ["Set 1"]
    only = ExactOptions(image_sets=("Test",), users=(2,))
    with serve(server) as address:
        export(client(address), only, tmp_path)
    assert [e["id"] for e in json.loads(path.read_text())["annotations"]] == [3]


def test_the_recorded_answers_of_a_real_server(tmp_path):
    server = ExactServer(recorded(), {1: SLIDE, 2: SLIDE})
    with serve(server) as address:
        export(client(address), ExactOptions(image_sets=("SkinDemo",)), tmp_path)
    found = read_exact(tmp_path / "annotations/CMU-1-Small-Region.json", regions=["ROI"])
    assert {user: [p.annotated for p in own] for user, own in found.items()} == {
        1: [REGION, "Dermis", "Epidermis", "Melanoma"],
        2: ["Epidermis"],
    }
    assert area(found[1][0]) == (1700 - 600) * (2400 - 900)
    # Twelve points on a circle of radius 300 (y) and 200 (x).
    assert area(found[1][3]) == pytest.approx(3 * 200 * 300, rel=0.01)
    assert read_exact(tmp_path / "annotations/tcga-cr-7395-01a-01-ts1.json") == {}


def test_the_recorded_page_and_refusal_have_the_form_that_the_server_here_has():
    page = json.loads((shared("exact") / "annotations_page1.json").read_text())["body"]
    refusal = json.loads((shared("exact") / "error_bad_password.json").read_text())
    answers = {"annotations": page, "refused": refusal["body"]}
    pages = [page, {**page, "next": None, "results": recorded()["annotations/annotations"][2:4]}]
    with serve(lambda handler, path, query: send(handler, 200, pages["offset" in query])) as address:
        assert [entry["id"] for entry in client(address).annotations(1)] == [1, 2, 3, 4]
    with (
        serve(lambda handler, *_: send(handler, refusal["status"], answers["refused"])) as address,
        pytest.raises(UserError, match=r"refused \(403: Invalid username/password\); check user"),
    ):
        client(address).images("Test")


def test_a_wrong_password_is_one_sentence():
    with serve(ExactServer(made())) as address, pytest.raises(UserError, match=r"\(403: Invalid username/password\)"):
        client(address, password="wrong").images("Test")


def test_an_unknown_image_set_is_named():
    with serve(ExactServer(made())) as address, pytest.raises(UserError, match="no image set 'Tset' that you may see"):
        client(address).images("Tset")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../101.svs"}, "no safe file name"),
        ({"name": "102_HER2.tiff"}, "have the same name"),
    ],
)
def test_dangerous_and_double_names_are_refused(tmp_path, change, words):
    tables = made()
    tables["images/images"][0] |= change
    with serve(ExactServer(tables, {1: SLIDE, 2: SLIDE})) as address, pytest.raises(UserError, match=words):
        export(client(address), ExactOptions(image_sets=("Test",)), tmp_path / "data")
    assert not list(tmp_path.glob("*.svs"))


def test_entries_that_go_missing_between_pages_are_noticed():
    with (
        serve(lambda h, *_: send(h, 200, {"count": 3, "next": None, "results": [{}]})) as address,
        pytest.raises(UserError, match="gave 1 of 3 entries"),
    ):
        client(address).annotations(1)


def test_pages_without_end_are_noticed():
    body = {"count": 9, "next": "http://x/?limit=50&offset=2", "results": [{}]}
    with serve(lambda h, *_: send(h, 200, body)) as address, pytest.raises(UserError, match="its pages do not end"):
        client(address).annotations(1)


def test_credentials_come_from_the_environment_and_never_travel_in_the_clear(monkeypatch):
    monkeypatch.delenv("EXACT_USER", raising=False)
    with pytest.raises(UserError, match="EXACT_USER: not set"):
        Exact.open("https://exact.example.org")
    monkeypatch.setenv("EXACT_USER", USER)
    monkeypatch.setenv("EXACT_PASSWORD", PASSWORD)
    with pytest.raises(UserError, match=r"http://exact\.example\.org: no https address"):
        Exact.open("http://exact.example.org")
    with serve(ExactServer(made())) as address:
        assert len(Exact.open(address).images("Test")) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["annotations"][0].update(image=5), "annotation 1 is of image 5, the file of image 1"),
        (lambda c: c["annotations"][0].update(annotation_type=9), "is of type 9, which the file does not list"),
        (lambda c: c.pop("image"), "not as `stedm fetch` writes"),
        (lambda c: c["annotations"][1].update(vector={"x1": 1, "y1": 2}), "ring of 1 points"),
    ],
)
def test_faulty_files_are_one_sentence(tmp_path, change, words):
    tables = made()
    drawn = tables["annotations/annotations"][:3]
    types = tables["annotations/annotation_types"]
    content = {"image": tables["images/images"][0], "annotation_types": types, "annotations": drawn}
    change(content)
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        read_exact(tmp_path / "a.json")
