"""Reading published weights: which files, and that nothing in them is executed."""

import pickle

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors.torch import save_file
from torch import nn

from stedm.errors import UserError
from stedm.weights import load_exactly, read_tensors

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


class Executes:
    """A pickle that would make a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_every_format_gives_the_same_tensors(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    torch.save(STATE, tmp_path / "a.pth")
    # As Lightning wrote them when the original checkpoints were made: bookkeeping keyed by classes of its own.
    lightning = {"epoch": 3, "callbacks": {ModelCheckpoint: {"best_model_score": torch.tensor(0.5)}}}
    torch.save(lightning | {"state_dict": STATE}, tmp_path / "a.ckpt")
    for path in tmp_path.iterdir():
        read = read_tensors(path)
        assert read.keys() == STATE.keys() and all(torch.equal(read[name], STATE[name]) for name in STATE), path


@pytest.mark.parametrize("inside", ["beside", "state"])
def test_a_pickle_executes_nothing(tmp_path, inside):
    trace = tmp_path / "trace"
    evil = {"state_dict": STATE, "hook": Executes(trace)} if inside == "beside" else {"weight": Executes(trace)}
    torch.save(evil, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match=r"evil\.ckpt: the weights cannot be read safely"):
        read_tensors(tmp_path / "evil.ckpt")
    assert not trace.exists()


def test_files_that_hold_no_weights(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_tensors(tmp_path / "none.ckpt")
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"found '\.npz'"):
        read_tensors(tmp_path / "a.npz")
    for name in ("a.safetensors", "a.ckpt"):
        (tmp_path / name).write_bytes(b"damaged" * 100)
        with pytest.raises(UserError, match="cannot be read safely"):
            read_tensors(tmp_path / name)
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps({"weight": 3}))
    with pytest.raises(UserError, match="cannot be read safely"):
        read_tensors(tmp_path / "plain.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(UserError, match="expected named tensors"):
        read_tensors(tmp_path / "list.ckpt")


def test_only_named_tensors_keep_their_values():
    module = nn.ModuleDict({"old": nn.Linear(3, 2), "new": nn.Linear(3, 2)})
    before = module["new"].weight.clone()
    tensors = {f"net.old.{name}": value for name, value in STATE.items()}
    load_exactly(module, tensors, "a.ckpt", prefix="net.", new=("new.",))
    assert torch.equal(module["old"].weight, STATE["weight"]) and torch.equal(module["new"].weight, before)
    with pytest.raises(UserError, match=r"a\.ckpt: the tensor 'net\.new\.weight' is missing"):
        load_exactly(module, tensors, "a.ckpt", prefix="net.")
