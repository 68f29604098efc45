"""Report and verification in a real browser: whole, quiet, sortable, narrow enough, by keyboard, and on paper."""

import math
import re
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
from browser import Browser, executable
from conftest import PROJECT
from test_report import LEDGER, expected_of, fake_runs, fake_scores

from stedm.report import build_report
from stedm.report.variants import Experiment, Variant
from stedm.verify import show
from stedm.verify.records import STATES
from stedm.verify.reference import Reference
from stedm.verify.values import cells

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="no chromium here (Debian: apt-get install chromium)"),
]
DEMO = PROJECT / "results" / "reference" / "demo"
INTERACTIVE = "a[href], button, summary, input, select, [tabindex='0']"


def demo_report(out):
    """The recorded results of the demo."""
    scores = pd.read_parquet(DEMO / "scores.parquet").astype({"budget": "Int64"})
    about = {"title": "Demo", "runs": [], "ledger": LEDGER, "expected": expected_of(scores)}
    build_report(out=out, scores=scores, resamples=50, **about)
    return out / "report.html"


def small_report(out):
    """Few patients with all that a page can hold: pictures, slides, curves, provenance, an experiment, a gap."""
    arms = {"real-colour": (0.4, 0.2), "synthetic-colour": (0.6, 0.1), "oracle-colour": (0.8, 0.1)}
    scores = fake_scores(patients=5, budgets=(1,), arms=arms)
    other = fake_scores(patients=5, budgets=(1,), arms=arms, rng_seed=3)
    variants = [Variant({"synthetic.guidance": value}, own, []) for value, own in (("1.0", scores), ("3.0", other))]
    build_report(
        out=out,
        title="A small report of a_name_without_any_place_to_break_the_line_in_it",
        scores=scores,
        runs=fake_runs(out / "runs", scores, comparable=False, side=32),
        ledger=LEDGER,
        expected=[*expected_of(scores), {"arm": "real-colour", "budget": 1, "seed": 7}],
        experiments=[Experiment("guidance", "Guidance", "How strongly?", list(arms), variants, ["guidance 9"])],
        resamples=50,
    )
    return out / "report.html"


def verification(out):
    """The recorded results of the demo with every state."""
    reference, records = Reference(DEMO, PROJECT), []
    for name, frame in reference.tables.items():
        for place, (cell, (expected, _)) in enumerate(cells(name, frame).items()):
            record = reference.record("T0", cell, expected, expected)
            state = list(STATES)[place % len(STATES)]
            why = f"a reason; `snakemake --cores all --configfile {PROJECT}/config/demo.yaml` makes it"
            records += [record, replace(record, tier="T3", state=state, why=why, published="0.5 (page 11)")]
    return show.write_files(out, records, "Verification of demo")[1]


PAGES = {"demo": demo_report, "small": small_report, "verification": verification}
REPORTS = ("demo", "small")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Each page, made when it is first asked for."""
    made = {}

    def page(name):
        if name not in made:
            made[name] = PAGES[name](tmp_path_factory.mktemp(name))
        return made[name]

    return page


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_quiet_and_whole(browser, pages, name):
    path = pages(name)
    browser.open(path)
    sizes = browser.evaluate(
        "Promise.all([...document.images].map(async (i) => { i.loading = 'eager'; await i.decode();"
        "return [i.alt, i.naturalWidth]; }))"
    )
    assert all(alt and width > 0 for alt, width in sizes), sizes
    assert len(sizes) >= {"demo": 3, "small": 14, "verification": 0}[name]
    assert browser.errors() == []
    assert all(url.startswith(("file:", "data:")) for url in browser.requests()), "a page fetches nothing"
    assert [url for url in browser.requests() if url.startswith("file:")] == [path.resolve().as_uri()]
    for link in browser.evaluate("[...document.querySelectorAll('a')].map((a) => a.getAttribute('href'))"):
        file, _, fragment = link.partition("#")
        assert ":" not in file and (not file or (path.parent / file).exists()), link
        assert file or browser.evaluate(f"document.getElementById({fragment!r}) !== null"), link


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_is_no_wider_than_its_window(browser, pages, name, width):
    browser.open(pages(name), width=width)
    # What cannot be narrower scrolls inside its own frame.
    wide = """(() => { const found = [];
      for (const e of document.querySelectorAll("body *")) {
        if (e.matches(".hidden") || e.parentElement.closest(".scroll, .plate, .skip, .hidden, svg")) continue;
        if (e.getBoundingClientRect().right > innerWidth + 1) found.push(e.outerHTML.slice(0, 120));
      }
      return found; })()"""
    assert browser.evaluate(wide) == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.body.scrollWidth") <= width


@pytest.mark.parametrize("name", PAGES)
def test_everything_to_operate_is_reached_by_tab_and_seen(browser, pages, name):
    browser.open(pages(name))
    number = browser.evaluate(
        f"""(() => {{ window.all = [...document.querySelectorAll("{INTERACTIVE}")]
          .filter((e) => e.matches("summary") || !e.closest("details:not([open])")); return all.length; }})()"""
    )
    reached = []
    for _ in range(number + 1):
        browser.press("Tab")
        place, outline = browser.evaluate(
            "[all.indexOf(document.activeElement), getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert place == -1 or outline != "none", "where the focus is cannot be seen"
        reached.append(place)
    assert set(range(number)) <= set(reached), "not reached by Tab"
    assert reached[:number] == sorted(reached[:number]), "not in the order of the page"


def in_order(keys: list[str], *, descending: bool) -> bool:
    """Say whether keys are sorted: numbers as numbers, those that are undefined last either way."""
    known = [key for key in keys if key != ""]
    if keys != known + [""] * (len(keys) - len(known)):
        return False
    values: list = known
    try:
        values = [float(key) for key in known]
    except ValueError:
        # Digits within words count as numbers.
        values = [[int(p) if p.isdigit() else p.lower() for p in re.split(r"(\d+)", key)] for key in known]
    return values == sorted(values, reverse=descending)


@pytest.mark.parametrize("name", REPORTS)
def test_every_column_sorts(browser, pages, name):
    browser.open(pages(name))
    columns = browser.evaluate(
        """[...document.querySelectorAll("table.sortable")].flatMap((table) =>
          [...table.tHead.rows[0].cells].map((head, column) => {
            const keys = () => [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.key);
            const texts = () => [...table.tBodies[0].rows].map((row) => row.textContent);
            const found = [[head.ariaSort, keys(), texts()]];
            for (let i = 0; i < 3; i++) {
              head.querySelector("button").click();
              found.push([head.ariaSort, keys(), texts()]);
            }
            return [head.textContent, found];
          }))"""
    )
    assert len(columns) > 20
    for title, (before, up, down, after) in columns:
        assert [state for state, _, _ in (before, up, down, after)] == ["none", "ascending", "descending", "none"]
        assert in_order(up[1], descending=False) and in_order(down[1], descending=True), (title, up[1], down[1])
        assert Counter(up[2]) == Counter(before[2]) and after == before


@pytest.mark.parametrize("key", ["Enter", "Space", None])
def test_a_table_sorts_by_mouse_and_by_keyboard(browser, pages, key):
    browser.open(pages("small"))
    button = "#results table.sortable thead th:nth-child(3) button"
    sort = f"document.querySelector({button!r}).closest('th').ariaSort"
    keys = "[...document.querySelectorAll('#results tbody tr')].map((row) => Number(row.cells[2].dataset.key))"
    before = browser.evaluate(keys)
    for expected in ("ascending", "descending", "none"):
        if key is None:
            browser.click(button)
        else:
            browser.evaluate(f"document.querySelector({button!r}).focus()")
            browser.press(key)
        assert browser.evaluate(sort) == expected
        found = browser.evaluate(keys)
        assert found == {"ascending": sorted(before), "descending": sorted(before)[::-1], "none": before}[expected]
    assert len(set(before)) == len(before) > 2 and not any(map(math.isnan, before))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_prints(browser, pages, name):
    browser.open(pages(name))
    closed = "document.querySelectorAll('details:not([open])').length"
    was = browser.evaluate(closed)
    printed = browser.pdf()
    assert printed.startswith(b"%PDF-") and printed.rstrip().endswith(b"%%EOF")
    boxes = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)\s*\]", printed)
    assert 2 <= len(boxes) <= 40 and len(set(boxes)) == 1
    assert float(boxes[0][0]) < float(boxes[0][1]), "upright"
    assert name == "verification" or was > 0 == browser.evaluate(closed), "on paper nothing is folded away"
