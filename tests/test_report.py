"""The report from fake scores and previews: whole, self-contained, escaped, and the same bytes each time."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stedm.report import build_report, headline_text
from stedm.report.formats import Table, latex, latex_escape

ARMS = {
    "real": (0.46, 0.20),
    "real-colour": (0.70, 0.15),
    "synthetic-null": (0.55, 0.19),
    "synthetic": (0.69, 0.16),
    "synthetic-colour": (0.76, 0.10),
    "oracle": (0.72, 0.15),
    "oracle-colour": (0.80, 0.06),
}
GROUPS = ("0", "1+", "2+", "3+")


def fake_scores(*, patients: int = 24, budgets=(1, 3), seeds=(0, 1), arms=ARMS, rng_seed: int = 7) -> pd.DataFrame:
    """Scores as the counting job stores them: patients of four groups, harder patients harder in every arm."""
    rng = np.random.default_rng(rng_seed)
    hardness = rng.standard_normal(patients)
    rows = []
    for arm, (centre, spread) in arms.items():
        for budget in (None,) if arm.startswith("oracle") else budgets:
            for seed in seeds:
                for checkpoint in ("last", "best"):
                    lift = 0 if budget is None else 0.03 * (budget - 1)
                    noise = 0.75 * hardness + 0.66 * rng.standard_normal(patients)
                    iou = np.clip(centre + lift + spread * noise, 0, 0.97)
                    for place, value in enumerate(iou):
                        truth, other = 40_000 + 500 * place, 90_000
                        # Equal misses and false alarms m give IoU = (t - m) / (t + m).
                        missed = round(truth * (1 - value) / (1 + value))
                        one = {
                            "cohort": "phantom", "arm": arm, "budget": budget, "seed": seed,
                            "segmenter": f"{arm}-k{budget}-s{seed}", "checkpoint": checkpoint,
                            "slide": f"T{place:02d}", "patient": f"T{place:02d}", "group": GROUPS[place % 4],
                        }  # fmt: skip
                        empty = place == 0
                        rows.append(
                            one
                            | {
                                "annotated": "tumour",
                                "foreground": True,
                                "predicted_foreground": 0 if empty else truth - missed,
                                "predicted_background": 0 if empty else missed,
                            }
                        )
                        rows.append(
                            one
                            | {
                                "annotated": "unannotated",
                                "foreground": False,
                                "predicted_foreground": 0 if empty else missed,
                                "predicted_background": other,
                            }
                        )
    return pd.DataFrame(rows).astype({"budget": "Int64"})


def expected_of(scores: pd.DataFrame) -> list[dict]:
    there = scores[["arm", "budget", "seed"]].drop_duplicates()
    return [
        {"arm": a, "budget": None if pd.isna(b) else int(b), "seed": int(s)}
        for a, b, s in there.itertuples(index=False)
    ]


def _tissue(rng, hue, mask) -> np.ndarray:
    height, width = mask.shape
    base = np.array([[235, 225, 230], hue], dtype=float)[mask.astype(int)]
    return np.clip(base + rng.normal(0, 14, (height, width, 1)), 0, 255).astype(np.uint8)


def _mask(rng, side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side] / side
    cy, cx, r = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(0.2, 0.35)
    wave = 0.05 * np.sin(6 * np.arctan2(y - cy, x - cx))
    return (np.hypot(y - cy, x - cx) < r + wave).astype(np.uint8)


def fake_runs(folder: Path, scores: pd.DataFrame, *, comparable: bool = True, side: int = 64) -> list[dict]:
    """Runs of every stage with the previews that the stages leave."""
    rng = np.random.default_rng(3)

    def record(seconds: float, **more) -> dict:
        return {
            "commit": "0f3a91c2b7d4e5f6", "dirty": False, "device": "cpu", "threads": 2,
            "wall_seconds": seconds, "peak_mb": 1834.0, "comparable": comparable,
            "command": "stedm train --config config/demo.yaml --out results/runs/phantom/x",
            "platform": "Linux-6.1-x86_64", "time": "2025-01-02T03:04:05+00:00",
            "versions": {"python": "3.11.7", "numpy": "2.4.6", "torch": "2.9.0"},
        } | more  # fmt: skip

    def preview(name: str) -> Path:
        path = folder / name / "preview"
        path.mkdir(parents=True)
        return path

    runs = [{"stage": "tiles", "id": "tiles-1a", "folder": folder / "tiles", "provenance": record(12.2)}]
    at = preview("tiles")
    for slide in range(8):
        mask = _mask(rng, 120)
        Image.fromarray(_tissue(rng, rng.integers(90, 200, 3), mask)).save(at / f"T{slide:02d}.png")

    steps = np.arange(0, 1500, 10)
    runs.append(
        {
            "stage": "generator",
            "id": "k3-s0-gen",
            "folder": str(folder / "gen"),
            "budget": 3,
            "seed": 0,
            "provenance": record(185.0),
        }
    )
    curve = 0.2 + 0.8 * np.exp(-steps / 250) + rng.normal(0, 0.02, len(steps))
    pd.DataFrame({"step": steps, "loss": curve}).to_csv(preview("gen") / "curves.csv", index=False)

    runs.append(
        {
            "stage": "synthetic",
            "id": "k3-s0-multi-patch",
            "folder": folder / "syn",
            "budget": 3,
            "seed": 0,
            "provenance": None,
        }
    )
    layouts = np.stack([_mask(rng, side) for _ in range(4)])
    hues = rng.integers(70, 200, (5, 3))
    full = np.ones((side, side), np.uint8)
    np.savez(
        preview("syn") / "grid.npz",
        layouts=layouts,
        layout_images=np.stack([_tissue(rng, (150, 90, 130), m) for m in layouts]),
        styles=np.stack([[_tissue(rng, hue, full) for _ in range(10)] for hue in hues]),
        images=np.stack([[_tissue(rng, hue, m) for hue in hues] for m in layouts]),
        null_images=np.stack([_tissue(rng, (128, 128, 128), m) for m in layouts]),
        style_names=np.array([f"U{i:02d} (2+)" for i in range(5)]),
        layout_names=np.array([f"L{i:02d}" for i in range(4)]),
    )
    tiles = np.stack([_mask(rng, side) for _ in range(5)])
    images = np.stack([_tissue(rng, rng.integers(80, 190, 3), m) for m in tiles])
    for run in expected_of(scores):
        name = f"{run['arm']}-k{run['budget']}-s{run['seed']}"
        runs.append(
            {
                "stage": "segmenter",
                "id": name,
                "folder": folder / name,
                **run,
                "validation_labels": 4,
                "provenance": record(15.4),
            }
        )
        at = preview(name)
        steps = np.arange(0, 250, 5)
        loss = np.exp(-steps / 90) + rng.normal(0, 0.01, len(steps)) + 0.2
        validation = np.where(steps % 25 == 0, loss + 0.1, np.nan)
        pd.DataFrame({"step": steps, "loss": loss, "validation_loss": validation}).to_csv(
            at / "curves.csv", index=False
        )
        predictions = np.stack([np.roll(m, rng.integers(-6, 7, 2), (0, 1)) for m in tiles])
        np.savez(
            at / "examples.npz",
            images=images,
            truths=tiles,
            predictions=predictions,
            names=np.array([f"T{i:02d} x3" for i in range(5)]),
        )
    return runs


LEDGER = [{"paper": "512 px <tiles>", "ours": "64 px & a_b", "why": "50 % of {a} CPU"}]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A report whose oracle-colour was expected at a seed that never ran."""
    base = tmp_path_factory.mktemp("report")
    scores = fake_scores(patients=12)
    runs = fake_runs(base / "runs", scores, comparable=False, side=32)
    expected = [*expected_of(scores), {"arm": "oracle-colour", "budget": None, "seed": 7}]
    given = {
        "title": "A <demo> & more",
        "scores": scores,
        "runs": runs,
        "ledger": LEDGER,
        "expected": expected,
        "resamples": 200,
    }
    summary = build_report(out=base / "out", **given)
    return base, given, summary


def test_every_file_is_there_and_nothing_half_written(built):
    base, _, summary = built
    names = {path.relative_to(base / "out").as_posix() for path in (base / "out").rglob("*") if path.is_file()}
    tables = (
        "headline",
        "checkpoints",
        "comparisons",
        "references",
        "patients",
        "groups",
        "labels",
        "on-top",
        "distance",
    )
    figures = (
        "iou-per-patient",
        "iou-vs-budget",
        "variability-vs-budget",
        "layouts-styles",
        "segmentations",
        "training-curves",
    )
    assert names == {
        "claims.csv",
        "report.html",
        *(f"tables/{name}.{suffix}" for name in tables for suffix in ("csv", "md", "tex")),
        *(f"figures/{name}.{suffix}" for name in figures for suffix in ("pdf", "png")),
    }
    assert summary["missing"] == ["oracle-colour, seed 7"]
    # 3 arms with synthetic images, 2 baselines, 2 budgets, 2 claims.
    assert summary["claims"] == 24 == len(pd.read_csv(base / "out" / "claims.csv"))
    assert summary["supported"] + summary["refuted"] + summary["undecided"] == 24


def test_two_builds_are_the_same_bytes(built, tmp_path):
    base, given, _ = built
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "stale.png").write_bytes(b"of an older report")
    build_report(out=tmp_path, **given)
    assert not (tmp_path / "figures" / "stale.png").exists()
    for path in sorted(path for path in (base / "out").rglob("*") if path.is_file()):
        assert (tmp_path / path.relative_to(base / "out")).read_bytes() == path.read_bytes(), path.name


def test_the_page_is_whole_and_fetches_nothing(built):
    base, _, _ = built
    page = (base / "out" / "report.html").read_text(encoding="utf-8")
    assert "<title>A &lt;demo&gt; &amp; more</title>" in page
    assert "512 px &lt;tiles&gt;" in page
    targets = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert targets
    assert all(target.startswith(("data:", "#")) for target in targets)
    assert not re.search(r"url\(|@import|<iframe|fetch\(|<link[^>]+stylesheet", page)
    images = re.findall(r"<img [^>]*>", page)
    # 6 figures and 8 slides, each with a text for those who cannot see it.
    assert len(images) == 14
    assert all(re.search(r'alt="[^"]{10,}"', image) for image in images)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)
    assert "scores are not comparable bit for bit" in page
    assert "Missing runs." in page
    assert 'aria-sort="none"><button' in page
    assert len(re.findall(r'class="badge (?:supported|refuted|undecided)"', page)) == 24


def test_without_any_preview_or_record_the_page_says_so(tmp_path):
    scores = fake_scores(
        patients=5, budgets=(1,), seeds=(0,), arms={name: ARMS[name] for name in ("real", "synthetic")}
    )
    runs = [
        {
            "stage": "segmenter",
            "id": "x",
            "folder": tmp_path / "nowhere",
            "arm": "real",
            "budget": 1,
            "seed": 0,
            "provenance": None,
        }
    ]
    build_report(out=tmp_path / "out", title="t", scores=scores, runs=runs, ledger=[], expected=[], resamples=50)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for sentence in (
        "No synthetic run left",
        "No segmenter left",
        "No tiles run left",
        "No deviation was recorded",
        "no record",
    ):
        assert sentence in page
    assert "Not comparable" not in page


def test_nothing_scored_lists_every_run_as_missing(tmp_path):
    expected = [{"arm": arm, "budget": 1, "seed": 0} for arm in ("real", "synthetic")]
    summary = build_report(
        out=tmp_path, title="t", scores=fake_scores().iloc[:0], runs=[], ledger=[], expected=expected, resamples=50
    )
    assert summary["missing"] == ["real, 1 label, seed 0", "synthetic, 1 label, seed 0"]
    assert summary["undecided"] == summary["claims"] == 2
    headline = pd.read_csv(tmp_path / "tables" / "headline.csv")
    assert headline["mean"].isna().all()
    assert "missing" in headline_text(tmp_path)


def test_a_damaged_preview_is_left_out(tmp_path, caplog):
    (tmp_path / "syn" / "preview").mkdir(parents=True)
    (tmp_path / "syn" / "preview" / "grid.npz").write_bytes(b"PK not a zip")
    runs = [{"stage": "synthetic", "id": "x", "folder": tmp_path / "syn", "provenance": None}]
    scores = fake_scores(patients=4, budgets=(1,), seeds=(0,), arms={"real": ARMS["real"]})
    build_report(out=tmp_path / "out", title="t", scores=scores, runs=runs, ledger=[], expected=[], resamples=50)
    assert "grid.npz is left out" in caplog.text


def test_two_cohorts_are_refused(tmp_path):
    scores = fake_scores(patients=2, budgets=(1,), seeds=(0,), arms={"real": ARMS["real"]})
    both = pd.concat([scores, scores.assign(cohort="other")])
    with pytest.raises(ValueError, match="one cohort"):
        build_report(out=tmp_path, title="t", scores=both, runs=[], ledger=[], expected=[])


def test_the_terminal_text_fits_and_tells_the_place(built):
    base, _, _ = built
    text = headline_text(base / "out")
    *lines, last = text.splitlines()
    assert max(map(len, lines)) <= 110
    assert last == f"Report: {base / 'out' / 'report.html'}"
    assert sum(line.startswith(("  supported ", "  refuted ", "  undecided ")) for line in lines) == 24
    assert any(line.startswith("oracle-colour") for line in lines)


def test_the_csv_keeps_what_the_page_rounds(built):
    base, _, _ = built
    table = pd.read_csv(base / "out" / "tables" / "headline.csv")
    assert len(table) == 12
    row = table[(table["arm"] == "real") & (table["budget"] == 3)].iloc[0]
    assert np.mean([float(value) for value in row["mean_seeds"].split(";")]) == pytest.approx(row["mean"], rel=1e-9)
    # One of 12 patients has nothing to find: null in both seeds.
    assert (row["patients"], row["nulls"]) == (11, 2)


def test_latex_is_balanced_and_escaped(built):
    base, _, _ = built
    for path in sorted((base / "out" / "tables").glob("*.tex")):
        text = path.read_text(encoding="utf-8")
        bare = re.sub(r"\\[\\{}&%$#_]", "", text)
        assert bare.count("{") == bare.count("}"), path.name
        begun, ended = (re.findall(rf"\\{word}\{{(\w+)\}}", text) for word in ("begin", "end"))
        assert sorted(begun) == sorted(ended)
        spec = re.search(r"\\begin\{(?:tabular|longtable)\}\{(l+)\}", text)[1]
        inside = bare[
            bare.index(r"\toprule") : bare.index(r"\end{tabular}" if "tabular" in begun else r"\end{longtable}")
        ]
        rows = [line for line in text.splitlines() if line.endswith(r"\\") and not line.startswith(r"\caption")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(spec) - 1}
        assert not re.search(r"[%#_^~<>−–—×]", inside), path.name


def test_latex_escapes_every_special_letter():
    assert latex_escape(r"a_b & 5 % {x} \ ~ ^ # $ <") == (
        r"a\_b \& 5 \% \{x\} \textbackslash{} \textasciitilde{} \textasciicircum{} \# \$ \textless{}"
    )
    shown = pd.DataFrame({"Arm_1": ["a|b"] * 41})
    assert r"\begin{longtable}{l}" in latex(Table("x", "c", shown, shown))


def test_an_arm_nobody_knows_is_shown_too(tmp_path):
    arms = {"real": ARMS["real"], "synthetic-transfer": (0.6, 0.1), "mystery": (0.5, 0.1)}
    scores = fake_scores(patients=6, budgets=(2,), seeds=(0,), arms=arms)
    build_report(out=tmp_path, title="t", scores=scores, runs=[], ledger=[], expected=[], resamples=50)
    claimed = pd.read_csv(tmp_path / "claims.csv")
    assert set(claimed["arm"]) == {"synthetic-transfer"}
    assert "mystery" in (tmp_path / "report.html").read_text(encoding="utf-8")
