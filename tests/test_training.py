"""The training loop's random numbers."""

import pytest
import torch
from torch import nn

from stedm.training import Training, fit


class Dropping(Training):
    """Least squares through dropout."""

    def __init__(self, seed):
        super().__init__(steps=6, lr=0.1, weight_decay=0, checkpoint_every=3, seed=seed)
        self.network = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 1, bias=False))
        nn.init.ones_(self.network[1].weight)

    def loss(self, batch, step):
        if step == getattr(self, "broken", None):
            raise KeyboardInterrupt
        return self.network(batch).pow(2).mean()


def train(folder, seed, broken=None):
    module = Dropping(seed)
    module.broken = broken
    batches = [torch.full((2, 16), float(n + 1)) for n in range(6)]
    fit(module, batches, folder=folder, device=torch.device("cpu"), label="test")
    return module.network[1].weight.detach()


def test_dropout_comes_from_seed_and_step(tmp_path):
    """Not from what ran before, and not from where a killed training was taken up."""
    torch.manual_seed(1)
    whole = train(tmp_path / "whole", 0)
    torch.manual_seed(2)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tmp_path / "killed", 0, broken=4)
    assert (tmp_path / "killed" / "state.ckpt").exists()
    assert torch.equal(train(tmp_path / "killed", 0), whole)
    assert not torch.equal(train(tmp_path / "other", 1), whole)
