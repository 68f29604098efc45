"""How a generator is trained: pictures on the way, speed and memory in the log, compiled networks."""

import copy
import logging
import os
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from stores import squares
from torch import nn

from stedm.config import GeneratorConfig
from stedm.device import compile_network
from stedm.errors import UserError
from stedm.generator.train import train_generator
from stedm.provenance import Product

CONFIG = GeneratorConfig(
    steps=6,
    batch=4,
    unet={"channels": [8, 16], "blocks": 1},
    style={"size": 16, "channels": [8], "dim": 8, "count": 2},
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return squares(tmp_path_factory.mktemp("store"))


def train(store, folder, **how):
    making = Product(folder)
    folder.mkdir()
    people = {"labelled": ["a"], "unlabelled": ["b"]}
    train_generator(making, store=store, **people, config=CONFIG, seed=0, device="cpu", **how)
    return load_file(folder / "weights.safetensors"), making.facts


@pytest.fixture(scope="module")
def plain(store, tmp_path_factory):
    return train(store, tmp_path_factory.mktemp("plain") / "run")


def test_pictures_on_the_way_change_nothing(store, plain, tmp_path):
    weights, _ = train(store, tmp_path / "run", pictures=2)
    pictures = sorted((tmp_path / "run" / "preview").glob("*.png"))
    assert [path.name for path in pictures] == ["samples-000002.png", "samples-000004.png", "samples.png"]
    assert all(torch.equal(weights[name], value) for name, value in plain[0].items())
    first, _, last = (Image.open(path) for path in pictures)
    assert first.size == last.size == (4 * 32, 4 * 32)
    # The rows above are the samples; what is drawn in the last one follows the weights.
    assert first.crop((0, 0, 128, 96)).tobytes() == last.crop((0, 0, 128, 96)).tobytes()
    assert first.tobytes() != last.tobytes()


def test_speed_and_memory_are_recorded_and_logged(store, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("stedm.progress.LINE_SECONDS", 0)
    monkeypatch.setattr(logging.getLogger("stedm"), "propagate", True)
    with caplog.at_level(logging.INFO, "stedm"):
        _, facts = train(store, tmp_path / "run")
    assert facts["processes"] == 1 and facts["samples_per_second"] > 0 and facts["compiled"] is False
    lines = [line for line in caplog.messages if "samples/s" in line]
    assert len(lines) == CONFIG.steps - 1 and "left" in lines[0] and "GB resident" in lines[0]


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8))

    def forward(self, x):
        return x * (x * self.weight).sigmoid()


def test_a_compiled_network_computes_the_same_to_rounding():
    """One layer alone: a whole U-Net takes minutes to compile, and its weights after six steps differ by 3e-6."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("there is no C++ compiler here")
    torch.manual_seed(0)
    plain = Gate()
    compiled, x = copy.deepcopy(plain), torch.randn(5, 8)
    compile_network(compiled, torch.device("cpu"))
    for network in (plain, compiled):
        network(x).pow(2).mean().backward()
    assert compiled._compiled_call_impl is not None
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5)


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"execution.compile needs the C\+\+ compiler 'no-such-compiler'"):
        compile_network(torch.nn.Linear(1, 1), torch.device("cpu"))


def test_the_order_of_tensors_changes_rounding_alone(store, plain, tmp_path):
    weights, facts = train(store, tmp_path / "run", channels_last=False)
    assert facts["channels_last"] is False
    assert max(float((weights[name] - value).abs().max()) for name, value in plain[0].items()) < 1e-4
