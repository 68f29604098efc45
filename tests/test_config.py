"""Configuration, plan and identities."""

import json

import pytest
import yaml
from conftest import MINI, PROJECT, write_config

from stedm.config import canonical, load_config, load_configs, parse_config
from stedm.errors import UserError
from stedm.provenance import fingerprint
from stedm.runs import Plan
from stedm.study import Studies
from stedm.tools.reference import render_page, render_schema


def change(path: str, value):
    """Return the small configuration with one value changed, by its dotted path."""
    values = json.loads(json.dumps(MINI))
    place = values
    *parents, last = path.split(".")
    for part in parents:
        place = place.setdefault(part, {})
    place[last] = value
    return values


@pytest.mark.parametrize(
    "path, value, said",
    [
        ("generator.stepz", 3, "unknown key 'generator.stepz'"),
        ("seed", 3, "unknown key 'seed'"),
        ("generator.steps", "many", "generator.steps: .*found 'many'"),
        ("generator.steps", 0, "generator.steps: .*greater than 0.*found 0"),
        ("arms", ["real", "unreal"], "unknown arm 'unreal'"),
        ("seeds", [0, 0], "an entry stands twice"),
        ("tiles.downsample", 4, "exactly one of mpp and downsample"),
        ("tiles.foreground", ["stroma"], "foreground names"),
        ("name", "My run", "name: "),
        ("generator.style.size", 12, "style.size must divide"),
    ],
)
def test_a_faulty_configuration_is_one_sentence(tmp_path, path, value, said):
    with pytest.raises(UserError, match=said) as error:
        parse_config(change(path, value), "mini.yaml")
    assert "\n" not in str(error.value) and str(error.value).startswith("mini.yaml: ")


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("name: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match="expected a mapping"):
        load_config(tmp_path / "list.yaml")


@pytest.fixture
def presets(tmp_path, monkeypatch):
    """An empty project to work in, with a preset `small`."""
    folder = tmp_path / "config" / "presets"
    folder.mkdir(parents=True)
    (folder / "small.yaml").write_text("generator: {steps: 7, unet: {channels: [8, 16], blocks: 2}}")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_preset_holds_where_the_run_is_silent(presets):
    values = change("preset", "small")
    values["generator"] = {"unet": {"blocks": 3}, "style": values["generator"]["style"]}
    config = parse_config(values)
    assert config.generator.steps == 7
    assert (config.generator.unet.channels, config.generator.unet.blocks) == ([8, 16], 3)
    assert config.generator.style.size == 16
    # What a run wrote down in full is read back as it is.
    assert parse_config(config.model_dump(mode="json")) == config


def test_faulty_presets_are_one_sentence(presets):
    with pytest.raises(UserError, match=r"mini.yaml: preset: .*huge.yaml does not exist; there are small\."):
        parse_config(change("preset", "huge"), "mini.yaml")
    (presets / "small.yaml").write_text("cohort: {name: other}")
    with pytest.raises(UserError, match=r"small.yaml: 'cohort' is none of generator, .*own file"):
        parse_config(change("preset", "small"), "mini.yaml")


@pytest.mark.parametrize("name", sorted(path.stem for path in (PROJECT / "config" / "presets").glob("*.yaml")))
def test_each_preset_is_valid(name, monkeypatch):
    monkeypatch.chdir(PROJECT)
    values = {key: MINI[key] for key in ("name", "cohort")} | {"preset": name, "tiles": {"mpp": 1.0, "tile": 512}}
    assert parse_config(values).preset == name


def plan_of(template, values):
    return Plan(parse_config(values), template)


def ids(plan):
    return {stage: set(runs) for stage, runs in plan.all.items()}


def test_equal_runs_are_shared_and_others_are_not(template):
    base, other = plan_of(template, MINI), plan_of(template, change("generator.steps", 31))
    shared = base.segmenter("real", 1, 0)
    assert shared.id == other.segmenter("real", 1, 0).id
    assert base.segmenter("synthetic", 1, 0).id != other.segmenter("synthetic", 1, 0).id
    assert base.tiles.id == other.tiles.id
    assert base.segmenter("oracle", 1, 0).id == base.segmenter("oracle", 2, 0).id
    assert base.segmenter("real", 1, 0).id != base.segmenter("real", 1, 1).id


def test_execution_is_no_part_of_an_identity(template):
    values = change("execution", {"device": "auto", "threads": 2, "slide_workers": 2, "synthetic_jobs": 3})
    values["execution"] |= {"scratch": "$TMPDIR", "gpus": [0, 1], "nodes": 2}
    assert ids(plan_of(template, values)) == ids(plan_of(template, MINI))


def test_every_setting_of_a_stage_changes_its_identity(template):
    base = plan_of(template, MINI)
    for path, value, stage in (
        ("tiles.min_tissue", 0.2, "tiles"),
        ("generator.lr", 1e-3, "generator"),
        ("synthetic.micro_batch", 4, "synthetic"),
        ("segmenter.steps", 31, "segmenter"),
    ):
        other = ids(plan_of(template, change(path, value)))
        assert not ids(base)[stage] & other[stage], path


def test_budgets_share_the_draw_of_a_seed(template):
    plan = plan_of(template, MINI)
    one, two = plan.labelled(1, 0), plan.labelled(2, 0)
    assert set(one) < set(two)
    assert len(one) == 2 and len(two) == 4
    assert not set(two) & set(plan.patients("test"))


def test_one_draw_for_several_seeds(template):
    plan = plan_of(template, MINI | {"seeds": [0, 1], "draw": 0})
    assert plan.labelled(1, 0) == plan.labelled(1, 1)
    assert len(plan.all["generator"]) == len(plan.all["synthetic"]) == 1
    assert plan.segmenter("real", 1, 0).id != plan.segmenter("real", 1, 1).id
    # The first seed's runs are those of a configuration without `draw`.
    alone = plan_of(template, MINI)
    assert plan.segmenter("synthetic", 1, 0).id == alone.segmenter("synthetic", 1, 0).id


def test_impossible_budgets(template):
    with pytest.raises(UserError, match=r"3 labelled patients of class .* has 2"):
        plan_of(template, MINI | {"budgets": [3]})
    with pytest.raises(UserError, match="no unlabelled patient is left"):
        plan_of(template, MINI | {"budgets": [2]})
    plan_of(template, MINI | {"budgets": [2], "arms": ["real", "oracle"]})


def test_unknown_cohort_and_option(template):
    with pytest.raises(UserError, match=r"unknown cohort 'nowhere'.*phantom"):
        plan_of(template, change("cohort.name", "nowhere"))
    with pytest.raises(UserError, match="unknown key 'sizes'"):
        plan_of(template, change("cohort.options.sizes", 3))


def test_reference_pages_are_up_to_date():
    """`make docs` writes them."""
    assert (PROJECT / "docs" / "configuration.md").read_text() == render_page()
    assert (PROJECT / "config" / "schema.json").read_text() == render_schema()


@pytest.mark.parametrize("path", sorted((PROJECT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_each_configuration_of_the_project_is_valid(path):
    for study in Studies(load_configs(path), PROJECT).all:
        assert study.segmenters and study.scored


def test_canonical_form_does_not_depend_on_order(tmp_path):
    values = yaml.safe_load(write_config_in(tmp_path).read_text())
    turned = dict(reversed(values.items()))
    assert canonical(parse_config(values)) == canonical(parse_config(turned))


def write_config_in(folder):
    (folder / "config").mkdir()
    return write_config(folder, MINI)


def test_fingerprint_sees_code_and_not_comments(tmp_path, monkeypatch):
    from stedm import provenance

    package = tmp_path / "stedm"
    (package / "part").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "part" / "__init__.py").write_text('"""Doc."""\nfrom stedm.part.inner import f\n')
    (package / "part" / "inner.py").write_text("from stedm import base\ndef f():\n    return base.x\n")
    (package / "base.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "SOURCE", package)

    def now():
        fingerprint.cache_clear()
        return fingerprint("stedm.part")

    try:
        first = now()
        (package / "base.py").write_text('"""Docstring."""\n\n# A comment.\nx = 1\n')
        (package / "part" / "inner.py").write_text(
            'from stedm import base\ndef f():\n    """Say."""\n    return base.x\n'
        )
        assert now() == first
        (package / "base.py").write_text("x = 2\n")
        assert now() != first
        (package / "base.py").write_text("x = 1\n")
        assert now() == first
        (package / "part" / "new.py").write_text("y = 1\n")
        assert now() != first
    finally:
        monkeypatch.undo()
        fingerprint.cache_clear()


def test_imports_point_one_way():
    """cohort ◀ tiles ◀ generator ◀ synthetic; tiles ◀ segmenter; tiles ◀ scores ◀ report, which know no torch."""
    from stedm.provenance import SOURCE, _imports

    allowed = {
        "phantom": set(),
        "cohort": {"phantom"},
        "tiles": {"cohort"},
        "generator": {"tiles"},
        "synthetic": {"tiles", "generator"},
        "segmenter": {"tiles"},
        "scores": {"tiles"},
        "report": {"scores"},
    }
    import ast

    for stage, may in allowed.items():
        for path in (SOURCE / stage).glob("*.py"):
            tree = ast.parse(path.read_text())
            used = {name.split(".")[1] for name in _imports(tree, f"stedm.{stage}.{path.stem}", False) if "." in name}
            assert used & set(allowed) <= may | {stage}, f"{path}: {used}"
            if stage in ("scores", "report"):
                assert "torch" not in path.read_text().replace("torch-free", "").split("import ")[1:], path
