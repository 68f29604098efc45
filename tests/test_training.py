"""The training loop's random numbers."""

import os
import signal

import pandas as pd
import pytest
import torch
from torch import nn

from stedm.errors import Stopped, UserError
from stedm.provenance import product
from stedm.stages import STATE_FILES
from stedm.team import Team
from stedm.training import STATE, Training, fit


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


class Line(Training):
    """A line through points, whose loss remembers what it saw."""

    def __init__(self, accumulate=1, schedule="cosine", precision="32-true", steps=4):
        super().__init__(
            steps=steps,
            lr=0.1,
            weight_decay=0,
            checkpoint_every=2,
            schedule=schedule,
            accumulate=accumulate,
            precision=precision,
        )
        self.network = nn.Linear(3, 1, bias=False)
        nn.init.ones_(self.network.weight)
        self.numbers, self.kinds, self.rates, self.averaged = [], set(), [], 0

    def loss(self, batch, number):
        if number == getattr(self, "broken", None):
            raise KeyboardInterrupt
        self.numbers.append(number)
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        drawn = self.network(batch)
        self.kinds.add(drawn.dtype)
        return (drawn.float() - 2).pow(2).mean()

    def stepped(self):
        self.averaged += 1


def samples(count, of):
    random = torch.Generator().manual_seed(0)
    whole = torch.randn(4, 8, 3, generator=random)
    return [part for step in whole for part in step.split(of)][: count * 8 // of]


def test_accumulated_batches_make_one_step_of_their_mean(tmp_path):
    whole, parts = Line(), Line(accumulate=4)
    (tmp_path / "a").mkdir()
    fit(whole, samples(4, 8), folder=tmp_path / "a", device=torch.device("cpu"), label="test")
    (tmp_path / "b").mkdir()
    fit(parts, samples(4, 2), folder=tmp_path / "b", device=torch.device("cpu"), label="test")
    assert torch.allclose(parts.network.weight, whole.network.weight, atol=1e-6)
    assert parts.numbers == list(range(16)) and parts.averaged == 4
    for one, other in zip(whole.curve, parts.curve, strict=True):
        assert one["step"] == other["step"] and one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_an_accumulating_training_resumes_at_a_step(tmp_path):
    whole, killed, resumed = Line(accumulate=4), Line(accumulate=4), Line(accumulate=4)
    for name in "ab":
        (tmp_path / name).mkdir()
    fit(whole, samples(4, 2), folder=tmp_path / "a", device=torch.device("cpu"), label="test")
    killed.broken = 10
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(killed, samples(4, 2), folder=tmp_path / "b", device=torch.device("cpu"), label="test")
    fit(resumed, samples(4, 2), folder=tmp_path / "b", device=torch.device("cpu"), label="test")
    assert resumed.numbers == list(range(8, 16))
    assert torch.equal(resumed.network.weight, whole.network.weight)


def test_schedules(tmp_path):
    cosine, constant = Line(steps=40), Line(schedule="constant", steps=40)
    assert [m.learning_rate(0) for m in (cosine, constant)] == [0.05, 0.05]
    assert cosine.learning_rate(2) == constant.learning_rate(39) == 0.1
    assert cosine.learning_rate(21) == pytest.approx(0.05)


def test_bfloat16_computes_the_networks_and_keeps_the_weights(tmp_path):
    full, half = Line(), Line(precision="bf16-mixed")
    for module, name in ((full, "a"), (half, "b")):
        (tmp_path / name).mkdir()
        fit(module, samples(4, 8), folder=tmp_path / name, device=torch.device("cpu"), label="test")
    assert half.kinds == {torch.bfloat16} and full.kinds == {torch.float32}
    assert half.network.weight.dtype == torch.float32
    assert torch.allclose(half.network.weight, full.network.weight, rtol=0.05)
    assert not torch.equal(half.network.weight, full.network.weight)


def test_weights_that_are_no_numbers_are_never_kept(tmp_path):
    """A finite loss whose gradient is not, at the step of a state and at the last one."""

    class Rooted(Line):
        def loss(self, batch, number):
            loss = super().loss(batch, number)
            return loss + (0 * self.network.weight.sum()).sqrt() if number == self.rotten else loss

    for rotten, kept in ((1, None), (3, 2)):
        module, folder = Rooted(), tmp_path / str(rotten)
        module.rotten = rotten
        folder.mkdir()
        with pytest.raises(UserError, match=f"network.weight are not finite after step {rotten + 1}"):
            fit(module, samples(4, 8), folder=folder, device=torch.device("cpu"), label="test")
        state = folder / "state.ckpt"
        assert (torch.load(state, weights_only=True)["global_step"] if state.exists() else None) == kept


@pytest.mark.parametrize("workers", [0, 1])
def test_sigterm_keeps_the_state_of_the_step_at_hand(tmp_path, workers):
    """Amid an accumulated step, between two regular states; afterwards the process's own answer is back."""

    class Warned(Line):
        def loss(self, batch, number):
            if number == 9:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().loss(batch, number)

    def run(module, folder):
        folder.mkdir(exist_ok=True)
        where = torch.device("cpu")
        fit(module, samples(4, 2), folder=folder, device=where, label="test", workers=workers)

    whole, warned, resumed = Line(accumulate=4), Warned(accumulate=4), Line(accumulate=4)
    for module in (whole, warned, resumed):
        module.checkpoint_every = 100
    run(whole, tmp_path / "a")
    with pytest.raises(Stopped, match="after step 3 of 4, state kept"):
        run(warned, tmp_path / "b")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    run(resumed, tmp_path / "b")
    assert resumed.numbers == [12, 13, 14, 15]
    assert torch.equal(resumed.network.weight, whole.network.weight) and resumed.curve == whole.curve


def curve(folder):
    return pd.read_csv(folder / "preview" / "curves.csv")


def test_the_curve_can_be_read_while_it_grows(tmp_path):
    """When it is due, not each step; whole at the end, whatever a killed process left."""

    class Watched(Line):
        def loss(self, batch, number):
            self.seen.append(curve(tmp_path)["step"].tolist() if (tmp_path / "preview").exists() else None)
            self._curve_due = 0 if number == 1 else float("inf")
            return super().loss(batch, number)

    killed, resumed = Watched(), Watched()
    killed.seen, resumed.seen = [], []
    killed.broken = 3
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(killed, samples(4, 8), folder=tmp_path, device=torch.device("cpu"), label="test")
    assert killed.seen == [None, None, [1, 2], [1, 2]]
    (tmp_path / "preview" / ".curves.csv.partial").write_text("half a l")
    fit(resumed, samples(4, 8), folder=tmp_path, device=torch.device("cpu"), label="test")
    assert resumed.seen == [[1, 2], [1, 2]]
    assert curve(tmp_path)["step"].tolist() == [1, 2, 3, 4]
    assert curve(tmp_path)["loss"].tolist() == pytest.approx([row["loss"] for row in resumed.curve], rel=1e-5)
    assert [path.name for path in (tmp_path / "preview").iterdir()] == ["curves.csv"]


def test_a_training_that_stops_leaves_its_curve(tmp_path):
    class Rising(Line):
        def loss(self, batch, number):
            if number == 2 and self.warned:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().loss(batch, number) * (float("inf") if number == 2 and not self.warned else 1)

    for name, warned, error, last in (("warned", True, Stopped, 3), ("infinite", False, UserError, 2)):
        module = Rising()
        module.warned = warned
        (tmp_path / name).mkdir()
        with pytest.raises(error):
            fit(module, samples(4, 8), folder=tmp_path / name, device=torch.device("cpu"), label="test")
        assert curve(tmp_path / name)["step"].tolist() == list(range(1, last + 1))


def test_one_of_several_processes_writes_the_curve(tmp_path, monkeypatch):
    module = Line()
    module.folder, module.team = tmp_path, Team(devices=2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    module.write_curve()
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("LOCAL_RANK", "0")
    module.write_curve()
    assert (tmp_path / "preview" / "curves.csv").exists()


def test_no_part_of_a_state_stays_in_a_product(tmp_path):
    """A process that is killed while it writes a state, and one that goes on without writing another."""
    with product(tmp_path / "made", stage="segmenter", settings={}, keep=STATE_FILES) as making:
        for name in (STATE, f".{STATE}.partial", "weights"):
            (making.folder / name).write_text(name)
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"weights", "SHA256SUMS", "provenance.json"}
