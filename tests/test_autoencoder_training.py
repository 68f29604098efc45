"""An autoencoder trained on the cohort's tiles: its losses, its folder, and the generator that uses it."""

import json

import numpy as np
import pytest
import torch
from conftest import MINI, command, one_sentence, write_config
from published import autoencoder_diffusers
from safetensors.torch import load_file
from stores import squares

from stedm.autoencoder.train import (
    AutoencoderTraining,
    TileBatches,
    autoencoder_shape,
    reconstruction,
    train_autoencoder,
)
from stedm.config import AutoencoderConfig, FirstStageConfig, load_config, parse_config
from stedm.errors import UserError
from stedm.generator.autoencoder import Autoencoder, AutoencoderShape
from stedm.generator.autoencoder_files import WEIGHTS, load_autoencoder, save_autoencoder
from stedm.generator.latents import Pixels
from stedm.provenance import Product
from stedm.report import html
from stedm.runs import Plan
from stedm.stages import make_autoencoder, make_generator
from stedm.training import fit

CPU = torch.device("cpu")
SMALL = {"channels": [16, 32], "steps": 60, "batch": 4, "lr": 1.5e-3, "codes": 32, "checkpoint_every": 5}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return squares(tmp_path_factory.mktemp("store"), "abcdefv")


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_a_saved_folder_has_the_published_names_and_reads_back(tmp_path, kind):
    torch.manual_seed(0)
    codes = 8 if kind == "vq" else None
    scale = 1.0 if codes else 1 / 0.75
    stage = Autoencoder(AutoencoderShape(widths=(32, 64), latent=4, codes=codes, scale=scale)).eval()
    save_autoencoder(tmp_path, stage)
    saved = {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / WEIGHTS).items()}
    assert saved == autoencoder_diffusers((32, 64), z=4, codes=codes)
    again = load_autoencoder(kind, tmp_path).eval()
    assert again.shape == stage.shape
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        assert torch.equal(again.encode(images), stage.encode(images))
        assert torch.equal(again.decode(again.encode(images)), stage.decode(stage.encode(images)))


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_it_learns_to_reconstruct_tiles_it_has_not_seen(store, tmp_path, kind):
    making = Product(tmp_path)
    config = AutoencoderConfig(**SMALL | {"steps": 120})
    train_autoencoder(making, store=store, patients="abcdef", validation="v", kind=kind, config=config, device="cpu")
    found = making.facts["reconstruction"]
    tiles = np.stack([store.tile_at(row)[0] for row in np.flatnonzero(store.column("patient") == "v")])
    assert (found["split"], found["tiles"]) == ("validation", 9)
    flat = -10 * np.log10(np.square(tiles / 255 - tiles.mean((0, 1, 2)) / 255).mean())
    assert found["psnr_db"] > flat + 0.5, "better than the mean colour of these very tiles"
    stage = load_autoencoder(kind, tmp_path).eval()
    assert reconstruction(stage, tiles, CPU)["psnr_db"] == pytest.approx(found["psnr_db"], abs=0.02)
    if kind == "kl":
        batch = TileBatches(store, "ab", config)[0]
        with torch.no_grad():
            assert float(stage.encode(batch).std()) == pytest.approx(1, abs=0.3)


def test_a_killed_training_ends_with_the_same_weights(store, tmp_path):
    class Killed(AutoencoderTraining):
        def loss(self, batch, number):
            if number == 7 and self.killed:
                raise KeyboardInterrupt
            return super().loss(batch, number)

    config = AutoencoderConfig(**SMALL | {"steps": 10})

    def train(name, killed=False):
        torch.manual_seed(0)
        module = Killed(Autoencoder(autoencoder_shape("vq", config)), config)
        module.killed = killed
        (tmp_path / name).mkdir(exist_ok=True)
        fit(module, TileBatches(store, "ab", config), folder=tmp_path / name, device=CPU, label="test")
        return module.state_dict()

    whole = train("whole")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train("killed", killed=True)
    resumed = train("killed")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_reconstruction_of_a_known_error():
    class Brighter(Pixels):
        def decode(self, latents):
            return super().decode(latents) + 0.2

    tiles = np.full((3, 16, 16, 3), 100, np.uint8)
    assert reconstruction(Brighter(2), tiles, CPU) == {"tiles": 3, "l1": 0.1, "psnr_db": 20.0}


def test_the_divergence_and_the_sample_are_those_of_a_normal_distribution():
    config = AutoencoderConfig(**SMALL, kl_weight=1.0)
    module = AutoencoderTraining(Autoencoder(autoencoder_shape("kl", config)), config)
    mean, log_variance = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    latents, bound = module._sampled(torch.cat([mean, log_variance], 1), 5, 10)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    nats = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1)).sum((1, 2, 3)).mean()
    assert float(bound) == pytest.approx(float(nats) / 10, rel=1e-5)
    again, _ = module._sampled(torch.cat([mean, log_variance], 1), 5, 10)
    other, _ = module._sampled(torch.cat([mean, log_variance], 1), 6, 10)
    assert torch.equal(latents, again) and not torch.equal(latents, other)
    assert float(((latents - mean) / posterior.stddev).std()) == pytest.approx(1, abs=0.25)


def test_codes_learn_from_latents_and_unused_ones_move_to_them():
    config = AutoencoderConfig(**SMALL | {"codes": 4, "commitment": 0.5})
    module = AutoencoderTraining(Autoencoder(autoencoder_shape("vq", config)), config)
    codes = module.stage.quantize.embedding.weight
    latents = torch.randn(1, 3, 8, 8, requires_grad=True)
    out, bound = module._quantised(latents, 0)
    rows = latents.detach().movedim(1, -1).flatten(0, 2)
    assert all((rows == code).all(1).any() for code in codes.detach()), "all codes start on latents"
    nearest = codes[torch.cdist(rows, codes.detach()).argmin(1)].view(1, 8, 8, 3).movedim(-1, 1)
    assert torch.allclose(out, nearest) and module.used.sum() == len(codes)
    assert float(bound.detach()) == pytest.approx(1.5 * float((nearest - latents).detach().pow(2).mean()), rel=1e-5)
    (out.sum() + 0 * bound).backward()
    assert torch.equal(latents.grad, torch.ones_like(latents)), "gradients pass the quantiser"
    # Two codes far from everything go unused and are put on latents; the others stay.
    with torch.no_grad():
        codes[2:] = 100.0
        module.used.zero_()
    module._quantised(latents, 1)
    before = codes.detach().clone()
    module._quantised(latents, 100)
    assert torch.equal(codes[:2], before[:2]) and float(codes[2:].detach().abs().max()) < 10


def test_settings_without_training_are_what_they_were():
    """The key enters no identity where it is not used."""
    assert "train" not in FirstStageConfig().model_dump(mode="json")
    assert "train" not in parse_config(MINI).generator.model_dump_json()
    given = FirstStageConfig(kind="kl", train=SMALL)
    assert FirstStageConfig.model_validate_json(given.model_dump_json()) == given


@pytest.mark.parametrize(
    ("first_stage", "said"),
    [
        ({"kind": "pca", "train": {}}, "a path belongs to the kinds vq and kl, and to no other; so does train"),
        ({"kind": "vq"}, "a path belongs to the kinds vq and kl, or train in its place"),
        ({"kind": "vq", "path": "a", "train": {}}, "or train in its place"),
        ({"kind": "vq", "train": {}}, "patch 2 does not fit train.channels, whose factor is 4"),
    ],
)
def test_a_first_stage_is_given_or_trained(first_stage, said):
    with pytest.raises(UserError, match=said):
        parse_config(MINI | {"generator": {"first_stage": first_stage}})


def test_the_generator_of_a_cohort_without_published_weights(finished):
    first_stage = {"kind": "kl", "patch": 2, "train": SMALL | {"steps": 4}}
    values = MINI | {}
    values["generator"] = MINI["generator"] | {"steps": 4, "first_stage": first_stage}
    write_config(finished, values, "own")
    plan = Plan(load_config(finished / "config" / "own.yaml"), finished)
    run, generator = plan.autoencoder, plan.generator(1, 0)
    assert run.id.startswith("kl-f2-") and list(plan.all["autoencoder"]) == [run.id]
    assert generator.inputs["autoencoder"] is run
    planned = command(finished, "snakemake", "-n", "--configfile", "config/own.yaml").stdout
    assert f"stedm autoencoder results/mini/config.yaml {run.id}" in planned
    make_autoencoder(plan, run)
    make_generator(plan, generator)
    record = json.loads((generator.folder / "provenance.json").read_text())
    assert record["inputs"]["autoencoder"]["path"] == str(run.folder)
    own, trained = load_file(generator.folder / "weights.safetensors"), load_autoencoder("kl", run.folder).state_dict()
    assert all(torch.equal(own[f"first_stage.{name}"], value) for name, value in trained.items())
    made = {
        "stage": "autoencoder",
        "id": run.id,
        "provenance": json.loads((run.folder / "provenance.json").read_text()),
    }
    [row] = html.run_rows([made])
    assert row["note"].startswith("PSNR ") and row["note"].endswith("validation tiles")


def test_an_unprepared_autoencoder_is_one_sentence(finished):
    values = MINI | {"generator": MINI["generator"] | {"first_stage": {"kind": "kl", "train": SMALL}}}
    write_config(finished, values, "own")
    plan = Plan(load_config(finished / "config" / "own.yaml"), finished)
    with pytest.raises(UserError, match="missing; run the stage that makes it first") as error:
        make_generator(plan, plan.generator(1, 0))
    one_sentence(error)
