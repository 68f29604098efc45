"""A run as an RO-Crate: what the profiles ask of its metadata, and that it says what happened."""

import datetime
import hashlib
import json
from pathlib import Path

import pytest
from conftest import one_sentence

from stedm.config import load_config
from stedm.errors import UserError
from stedm.study import Study
from stedm.tools.crate import write_crate


def many(value) -> list:
    """Return the values of a property."""
    return value if isinstance(value, list) else [value]


def check(crate: Path) -> dict[str, dict]:
    """Hold a crate to RO-Crate 1.1 and the Workflow Run Crate profile; return its entities."""
    metadata = json.loads((crate / "ro-crate-metadata.json").read_text())
    assert metadata["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    graph = metadata["@graph"]
    entities = {entity["@id"]: entity for entity in graph}
    assert len(entities) == len(graph)
    descriptor, root = entities["ro-crate-metadata.json"], entities["./"]
    assert descriptor["@type"] == "CreativeWork" and descriptor["about"] == {"@id": "./"}
    assert {"@id": "https://w3id.org/ro/crate/1.1"} in descriptor["conformsTo"]
    for key in ("name", "description", "license", "datePublished"):
        assert root[key], key
    datetime.datetime.fromisoformat(root["datePublished"])
    profiles = {one["@id"] for one in root["conformsTo"]}
    wanted = {f"https://w3id.org/ro/wfrun/{name}/0.5" for name in ("process", "workflow", "provenance")}
    assert wanted < profiles <= entities.keys()
    assert entities["Snakefile"]["hasPart"]["@id"] in entities
    assert {"File", "SoftwareSourceCode", "ComputationalWorkflow"} <= set(entities[root["mainEntity"]["@id"]]["@type"])

    def references(value):
        if isinstance(value, dict):
            yield from (
                [value["@id"]] if set(value) == {"@id"} else [r for one in value.values() for r in references(one)]
            )
        elif isinstance(value, list):
            yield from (r for one in value for r in references(one))

    # RO-Crate 1.1 recommends values alone rather than lists of one.
    lists = {(name, key): value for name, one in entities.items() for key, value in one.items() if many(value) is value}
    assert [where for where, value in lists.items() if len(value) < 2] == []
    dangling = {
        name for entity in graph for name in references(list(entity.values())) if not name.startswith("http")
    } - entities.keys()
    assert dangling == set()
    parts = {one["@id"] for one in root["hasPart"]}
    described = {name for name, entity in entities.items() if "File" in entity["@type"]}
    there = {path.relative_to(crate).as_posix() for path in crate.rglob("*") if path.is_file()}
    assert described == there - {"ro-crate-metadata.json"} and described <= parts
    for name in described:
        content = (crate / name).read_bytes()
        assert entities[name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert entities[name]["contentSize"] == str(len(content))
    actions = {name: entity for name, entity in entities.items() if entity["@type"] == "CreateAction"}
    assert set(actions) == {one["@id"] for one in root["mentions"]}
    for action in actions.values():
        kinds = entities[action["instrument"]["@id"]]["@type"]
        assert kinds == "SoftwareApplication" or "ComputationalWorkflow" in kinds
        assert action["name"] and action["description"] and action["object"] and action["result"]
        assert action["startTime"] <= action["endTime"]
    return entities


def test_a_finished_run_is_a_crate_that_says_what_was_made_of_what(built, tmp_path):
    study = Study(load_config(built / "config" / "mini.yaml"), built)
    entities = check(write_crate(study, tmp_path / "crate").parent)
    run = study.plans[0].segmenter("synthetic", 1, 0)
    made = entities[f"#runs/phantom/segmenter/{run.id}"]
    assert made["description"].startswith(f"stedm segmenter results/mini/config.yaml {run.id}")
    assert made["result"] == {"@id": f"runs/phantom/segmenter/{run.id}/"}
    [synthetic] = run.inputs["synthetic"].parts(1)
    sources = {one["@id"] for one in many(made["object"])}
    assert sources == {
        "config.yaml",
        f"runs/phantom/tiles/{study.tiles.id}/",
        f"runs/phantom/synthetic/{synthetic.parent.name}/{synthetic.name}/",
    }
    # What a job was made of was there before it began (times are whole seconds).
    makers = {action["result"]["@id"]: action for name, action in entities.items() if name.startswith("#runs/")}
    second = datetime.timedelta(seconds=1)
    for action in makers.values():
        began = datetime.datetime.fromisoformat(action["startTime"])
        for source in many(action["object"]):
            if source["@id"] in makers:
                assert datetime.datetime.fromisoformat(makers[source["@id"]]["endTime"]) <= began + second
    assert not any("author" in entity or "agent" in entity for entity in entities.values())
    with pytest.raises(UserError, match=r"crate exists; name a new folder\."):
        write_crate(study, tmp_path / "crate")


def test_a_crate_names_who_ran_it(built, tmp_path):
    study, orcid = Study(load_config(built / "config" / "mini.yaml"), built), "https://orcid.org/0000-0002-1825-0097"
    for name, given, identifier in (("by name", None, "#author"), ("by orcid", orcid, orcid)):
        entities = check(write_crate(study, tmp_path / name, author="Ada Lovelace", orcid=given).parent)
        assert entities[identifier] == {"@id": identifier, "@type": "Person", "name": "Ada Lovelace"}
        agents = [entity["agent"] for entity in entities.values() if entity["@type"] == "CreateAction"]
        assert [entities["./"]["author"], *agents] == [{"@id": identifier}] * (len(agents) + 1) and agents
    for author, given in (("Ada Lovelace", "0000-0002-1825-0097"), (None, orcid)):
        with pytest.raises(UserError, match=r"--orcid: .*; give https://orcid.org/") as error:
            write_crate(study, tmp_path / "none", author=author, orcid=given)
        one_sentence(error)
    assert not (tmp_path / "none").exists()


def test_a_run_without_a_report_is_no_crate(template, tmp_path):
    study = Study(load_config(template / "config" / "mini.yaml"), template)
    with pytest.raises(UserError, match=r"report.html: missing; run `snakemake`"):
        write_crate(study, tmp_path / "crate")
    assert not (tmp_path / "crate").exists()
