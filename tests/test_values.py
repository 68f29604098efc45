"""Numbers in pages: taken from files, never typed, and the same as what the files hold now."""

import json
import re
import shutil

import pytest
from conftest import PROJECT

from stedm.errors import UserError
from stedm.tools.reference import write_values
from stedm.tools.values import fill, marked, pages


@pytest.fixture
def root(tmp_path):
    (tmp_path / "a.csv").write_text(
        "arm,budget,claim,x,x_low,x_high,estimate,low,high\n"
        "real,1.0,raises the mean,0.5,-0.25,0.75,2,1,3\n"
        "real,3.0,raises the mean,0.7,,,,,\n"
    )
    (tmp_path / "b.json").write_text(json.dumps({"rows": [{"name": "one", "share": 0.934}], "list": [1, 2]}))
    return tmp_path


def filled(root, what: str) -> str:
    (root / "README.md").write_text(f"It is <!-- {what} -->old<!-- end -->, he said.")
    return re.fullmatch(r"It is <!-- .+? -->(.*)<!-- end -->, he said\.", fill(root / "README.md", root), re.S)[1]


@pytest.mark.parametrize(
    ("what", "shown"),
    [
        ("value a.csv budget=1 x .2f", "0.50"),
        ("value a.csv arm=real budget=3 x +.1f", "+0.7"),
        ("value a.csv budget=1 x_low .2f", "−0.25"),
        ("value a.csv 'claim=raises the mean' budget=1 x interval", "0.500 [−0.250, 0.750]"),
        ("value a.csv budget=1 estimate +interval", "+2.000 [+1.000, +3.000]"),
        ("value a.csv budget=1 claim s", "raises the mean"),
        ("value b.json rows name=one share .1%", "93.4 %"),
        ("value b.json list 1 .0f", "2"),
        ("table a.csv", "\n| arm | budget | claim | x"),
    ],
)
def test_a_marked_place_shows_what_its_file_holds(root, what, shown):
    assert filled(root, what).startswith(shown)


def test_a_table_of_records_has_a_column_for_each_key(root):
    (root / "c.json").write_text('{"rows": [{"a": "x", "ok": true}, {"a": "y", "ok": false, "n": 3}]}')
    assert filled(root, "table c.json rows").strip().split("\n") == [
        "| a | ok | n |",
        "| --- | --- | --- |",
        "| x | yes |  |",
        "| y | no | 3 |",
    ]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("value none.csv x .2f", "No such file"),
        ("value a.csv arm=real x .2f", "2 rows fit"),
        ("value a.csv arm=other x .2f", "0 rows fit"),
        ("value a.csv budget=1 y .2f", "'y'"),
        ("value a.csv budget=3 x interval", "could not convert"),
        ("value b.json rows name=two share .1%", "0 elements fit"),
        ("value b.json list 7 .0f", "out of range"),
        ("table a.csv rows", "shown whole, not rows"),
    ],
)
def test_a_place_that_cannot_be_filled_is_named(root, what, said):
    with pytest.raises(UserError, match=said) as error:
        filled(root, what)
    assert str(error.value).startswith(str(root / "README.md")) and what in str(error.value)
    assert "\n" not in str(error.value)


def test_filling_twice_changes_nothing_and_the_rest_of_a_page_is_kept(root):
    page = root / "README.md"
    page.write_text(
        "a <!-- value a.csv budget=1 x .2f --><!-- end -->\n```\nb 0.123\n```\n<!-- table a.csv -->\n<!-- end -->\n"
    )
    assert write_values(root) == [page]
    once = page.read_text()
    write_values(root)
    assert page.read_text() == once
    assert marked(once) == "a \n```\nb 0.123\n```\n\n"


def test_every_page_shows_what_its_files_hold():
    """Where this fails, `make docs` fills the pages anew."""
    for page in pages(PROJECT):
        assert page.read_text() == fill(page, PROJECT), page


def test_measured_numbers_stand_in_marked_places_only():
    """Three decimals are a measurement of ours, but in the page that is made of the schema: it comes from a file."""
    for page in set(pages(PROJECT)) - {PROJECT / "docs" / "configuration.md"}:
        found = re.findall(r"(?<![\d./-])\d+\.\d{3}(?!\d)", marked(page.read_text()))
        assert found == [], page


def test_a_changed_result_drifts(tmp_path):
    for name in ("README.md", "results/reference"):
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy(PROJECT / name, tmp_path / name)
    page = tmp_path / "README.md"
    assert fill(page, tmp_path) == page.read_text()
    claims = tmp_path / "results/reference/demo/claims.csv"
    claims.write_text(claims.read_text().replace("supported", "refuted", 1))
    assert fill(page, tmp_path) != page.read_text()
