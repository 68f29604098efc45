"""What jobs ask for: enough memory, GPUs only where they are used, commands that exist."""

import json
import re

import pytest
import yaml
from conftest import MINI, PROJECT, command, write_config

from stedm.cli import _parser
from stedm.config import load_config, parse_config
from stedm.tools.memory import LARGE_MB, SMALL_MB, memory_mb

RULES = {path.stem: path.read_text() for path in (PROJECT / "workflow" / "rules").glob("*.smk")}
PROFILES = [path.parent.name for path in (PROJECT / "profiles").glob("*/config.yaml")]
RECORDED = sorted((PROJECT / "results" / "reference").glob("*/made-by.json"))


def asked(stage: str, config) -> int:
    """Return the megabytes that a stage's rule asks for."""
    found = re.search(r"mem_mb=(\d+|training_memory)\b", RULES[stage])[1]
    return memory_mb(config) if found == "training_memory" else int(found)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.name)
def test_no_rule_asks_for_less_memory_than_was_seen_to_be_used(path):
    config, seen = load_config(path.with_name("config.yaml")), {}
    for name, record in json.loads(path.read_text())["runs"].items():
        stage = name.split("/")[1]
        seen[stage] = max(seen.get(stage, 0), record["peak_mb"])
    assert {"cohort", "tiles", "segmenter", "scores"} <= seen.keys()
    for stage, peak in seen.items():
        assert asked(stage, config) >= 1.33 * peak, stage
        for profile in PROFILES:
            table = yaml.safe_load((PROJECT / "profiles" / profile / "config.yaml").read_text()).get(
                "set-resources", {}
            )
            assert table.get(stage, {}).get("mem_mb", LARGE_MB) >= 1.33 * peak, (profile, stage)


def test_large_networks_are_given_what_they_were_seen_to_use():
    path = PROJECT / "results" / "reference" / "benchmarks" / "cost-of-paper-cpu-quarter.json"
    seen = json.loads(path.read_text())
    assert {row["preset"] for row in seen["rows"]} == {"paper", "stedm-base"}
    assert 1.33 * seen["peak_mb"]["resident"] <= LARGE_MB
    for name in ("flowers", "her2", "catch"):
        assert memory_mb(load_config(PROJECT / "config" / f"{name}.yaml")) == LARGE_MB
    assert memory_mb(parse_config(MINI)) == SMALL_MB
    # A table that named one number for all would take back what the rules know.
    table = yaml.safe_load((PROJECT / "profiles" / "slurm" / "config.yaml").read_text())["set-resources"]
    assert not [rule for rule in ("autoencoder", "generator", "synthetic", "segmenter") if "mem_mb" in table[rule]]


def test_every_command_of_a_rule_exists():
    found = {verb for text in RULES.values() for verb in re.findall(r"\bstedm ([a-z]+) \{resources", text)}
    assert {"autoencoder", "generator", "scores", "report"} <= found
    options = {"synthetic": ["--part", "0"]}
    for verb in found:
        ids = ["some-id"] if re.search(rf"stedm {verb} \S+ \{{wildcards\.id\}}", "".join(RULES.values())) else []
        _parser().parse_args([verb, "config.yaml", *ids, *options.get(verb, []), "--log", "log"])


PROBE = """
include: "Snakefile"

asked = {}
for stage, runs in studies.all[0].all.items():
    for name, run in runs.items():
        named = "transferred" if run.facts.get("sampling") == "transferred" else stage
        wildcards = {"cohort": "phantom", "id": name, "part": "0", "parts": "1"}
        asked[named] = dict(workflow.get_rule(named).expand_resources(wildcards, [], 1))
with open("asked.json", "w") as file:
    json.dump(asked, file, default=str)
"""


def test_jobs_ask_for_the_gpus_and_nodes_that_they_use(project):
    execution = {"device": "cuda", "threads": 3, "devices": 2, "nodes": 2}
    write_config(project, MINI | {"arms": ["real", "synthetic", "transferred"], "execution": execution})
    (project / "probe.smk").write_text(f"import json\n{PROBE}")
    said = command(
        project, "snakemake", "-s", "probe.smk", "--dry-run", "--configfile", "config/mini.yaml", "--", "all"
    ).stdout
    counts = dict(re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE))
    assert (counts["synthetic"], counts["transferred"], counts["generator"]) == ("1", "1", "1")
    asked = json.loads((project / "asked.json").read_text())
    gpus = {rule: resources.get("gpu", 0) for rule, resources in asked.items()}
    without = dict.fromkeys(("cohort", "tiles", "transferred", "scores"), 0)
    assert gpus == without | {"generator": 4, "synthetic": 1, "segmenter": 1}
    spread = {"nodes": 2, "tasks": 4, "tasks_per_gpu": 1, "cpus_per_task": 3, "mpi": "srun"}
    assert spread.items() <= asked["generator"].items()
    assert not [rule for rule in asked if rule != "generator" and spread.keys() & asked[rule].keys()]
