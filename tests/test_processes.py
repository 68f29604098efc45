"""Several processes that train one generator: what they make is what one makes."""

import json

import pandas as pd
import pytest
import torch
from conftest import MINI, command, one_sentence, write_config
from safetensors.torch import load_file

from stedm.config import load_config, parse_config
from stedm.errors import UserError
from stedm.generator.data import TrainingBatches
from stedm.generator.train import train_generator
from stedm.layers import StochasticDepth
from stedm.provenance import Product, product
from stedm.runs import Plan
from stedm.team import Team, part_of
from stedm.tiles.store import TileStore

TOLERANCE = 1e-5
"""Of weights after a few steps: sums of gradients are taken in another order."""


def few(root, devices=1):
    values = MINI | {"generator": MINI["generator"] | {"steps": 8}}
    values["execution"] = MINI["execution"] | {"devices": devices}
    path = write_config(root, values, "few")
    plan = Plan(load_config(path), root)
    return plan, plan.generator(1, 0)


def test_two_processes_train_what_one_does(finished, tmp_path):
    plan, run = few(finished)
    labelled = run.settings["labelled"]
    one = Product(tmp_path / "one")
    one.folder.mkdir()
    people = {"labelled": labelled, "unlabelled": plan.unlabelled(labelled)}
    store = TileStore(plan.tiles.folder)
    train_generator(one, store=store, **people, config=plan.config.generator, seed=0, device="cpu")
    assert few(finished, devices=2)[1].id == run.id
    done = command(finished, "stedm", "generator", "config/few.yaml", run.id)
    assert done.stderr.count("first stage:") == 1, "the second process speaks too"
    assert json.loads((run.folder / "provenance.json").read_text())["processes"] == 2
    losses, expected = (pd.read_csv(folder / "preview" / "curves.csv") for folder in (run.folder, one.folder))
    assert losses["step"].tolist() == list(range(1, 9))
    assert abs(losses["loss"] - expected["loss"]).max() < TOLERANCE
    again, weights = (load_file(folder / "weights.safetensors") for folder in (run.folder, one.folder))
    assert again.keys() == weights.keys()
    assert max(float((again[name] - weights[name]).abs().max()) for name in weights) < TOLERANCE


def test_parts_make_the_batch(built):
    plan = Plan(load_config(built / "config" / "mini.yaml"), built)
    labelled = plan.labelled(1, 0)
    make = lambda part: TrainingBatches(  # noqa: E731
        TileStore(plan.tiles.folder), labelled, plan.unlabelled(labelled), plan.config.generator, 0, part
    )
    whole, parts = make((0, 1))[3], [make((n, 2))[3] for n in range(2)]
    for key, value in whole.items():
        assert torch.allclose(torch.cat([part[key] for part in parts]).float(), value.float(), atol=1e-6), key
    assert [part_of(10, (n, 3)) for n in range(3)] == [slice(0, 3), slice(3, 6), slice(6, 10)]


def test_stochastic_depth_drops_the_same_samples_in_parts():
    layer, branch = StochasticDepth(0.5), torch.ones(12, 3, 2)
    drawn = {}
    for parts in (1, 3):
        for number in range(parts):
            layer.part = number, parts
            torch.manual_seed(4)
            drawn.setdefault(parts, []).append(layer(branch.split(12 // parts)[number]))
    assert torch.equal(torch.cat(drawn[3]), drawn[1][0]) and 0 < (drawn[1][0] == 0).float().mean() < 1


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "starter", "rank"),
    [
        ({}, 1, 1, "self", 0),
        ({}, 2, 1, "self", 0),
        ({"LOCAL_RANK": "1"}, 2, 1, "self", 1),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "LOCAL_RANK": "1"}, 2, 2, "torchrun", 3),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}, 2, 2, "srun", 2),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "LOCAL_RANK": "1"}, 2, 1, "self", 1),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}, 1, 1, "self", 0),
    ],
)
def test_who_started_a_process_says_its_rank(monkeypatch, environment, devices, nodes, starter, rank):
    for name in ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    team = Team(devices, nodes)
    assert (team.starter, team.rank, team.part) == (starter, rank, (rank, devices * nodes))


def test_several_nodes_need_a_starter(monkeypatch):
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    with pytest.raises(UserError, match="start the command 4 times") as error:
        Team(2, 2).rank  # noqa: B018
    one_sentence(error)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(UserError, match=r"generator.batch 8 must be a multiple of execution.devices"):
        parse_config(MINI | {"execution": {"devices": 3}})


def test_a_helper_waits_for_the_folder_and_writes_nothing(tmp_path, monkeypatch):
    what = {"stage": "scores", "settings": {"a": 1}}
    monkeypatch.setattr("stedm.provenance.PATIENCE", 0.1)
    with (
        pytest.raises(UserError, match="has not prepared this folder") as error,
        product(tmp_path / "run", **what, leads=False),
    ):
        pass
    one_sentence(error)
    with product(tmp_path / "run", **what) as leading, product(tmp_path / "run", **what, leads=False) as helping:
        assert helping.folder == leading.folder
        with pytest.raises(UserError), product(tmp_path / "run", stage="scores", settings={"a": 2}, leads=False):
            pass
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["SHA256SUMS", "provenance.json"]
