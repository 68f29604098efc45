"""First stages: published names, shapes and formats; what encoding and decoding are."""

import json

import pytest
import torch
from published import autoencoder_diffusers, broken, diffusers_config, tensors, vq_original
from safetensors.torch import save_file

from stedm.config import FirstStageConfig, GeneratorConfig
from stedm.errors import UserError
from stedm.generator.autoencoder import VQ_F4, Attention, Autoencoder, AutoencoderShape, Codebook
from stedm.generator.autoencoder_files import load_autoencoder
from stedm.generator.build import build_first_stage, weight_files
from stedm.generator.latents import Pixels, kept_variance
from stedm.generator.model import Generator, load_generator, save_generator

WIDTHS = (32, 64)


def folder(path, kind="kl", shapes=None, **changed):
    """Write a small autoencoder in diffusers' format."""
    sizes = {"z": 4, "codes": 16 if kind == "vq" else None}
    path.mkdir()
    shapes = shapes or autoencoder_diffusers(WIDTHS, **sizes)
    save_file(tensors(shapes), path / "diffusion_pytorch_model.safetensors")
    (path / "config.json").write_text(json.dumps(diffusers_config(kind, WIDTHS, **sizes) | changed))
    return path


def shapes_of(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def test_vq_f4_is_the_published_architecture():
    with torch.device("meta"):
        stage = Autoencoder(VQ_F4)
    assert shapes_of(stage) == vq_original()
    # 55.3 M, as the released training logs print it.
    assert sum(p.numel() for p in stage.parameters()) == 55_322_782
    assert (stage.channels, stage.factor) == (3, 4)


def test_the_kl_autoencoder_of_stable_diffusion_has_its_published_size():
    with torch.device("meta"):
        stage = Autoencoder(AutoencoderShape(widths=(128, 256, 512, 512), latent=4, codes=None))
    assert sum(p.numel() for p in stage.parameters()) == 83_653_863
    assert sum(torch.Size(shape).numel() for shape in autoencoder_diffusers().values()) == 83_653_863
    assert stage.factor == 8


def expanded(shapes):
    """Tensors of these shapes that take no room in a file."""
    return {name: torch.full((1,), 0.01).expand(shape) for name, shape in shapes.items()}


def test_the_original_checkpoint_loads_and_a_faulty_one_is_named(tmp_path):
    path = tmp_path / "vq-f4.ckpt"
    loss = {
        "loss.discriminator.main.0.weight": (64, 3, 4, 4),
        "loss.perceptual_loss.lin0.model.1.weight": (1, 64, 1, 1),
    }
    torch.save({"state_dict": expanded(vq_original() | loss)}, path)
    stage = load_autoencoder("vq", path)
    assert stage.shape == VQ_F4 and all(bool((tensor == 0.01).all()) for tensor in stage.state_dict().values())
    for shapes, said in broken(vq_original(), "decoder.up.1.block.2.conv1.weight"):
        torch.save({"state_dict": expanded(shapes)}, path)
        with pytest.raises(UserError, match=said) as error:
            load_autoencoder("vq", path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_a_folder_of_diffusers_loads_and_a_faulty_one_is_named(tmp_path, kind):
    stage = load_autoencoder(kind, folder(tmp_path / "good", kind))
    shapes = autoencoder_diffusers(WIDTHS, z=4, codes=16 if kind == "vq" else None)
    written = tensors(shapes)
    assert torch.equal(stage.decoder.up[1].block[0].conv1.weight, written["decoder.up_blocks.0.resnets.0.conv1.weight"])
    query = written["encoder.mid_block.attentions.0.to_q.weight"]
    assert torch.equal(stage.encoder.mid.attn_1.q.weight[:, :, 0, 0], query)
    for n, (faulty, said) in enumerate(broken(shapes, "decoder.mid_block.attentions.0.to_out.0.weight")):
        with pytest.raises(UserError, match=said):
            load_autoencoder(kind, folder(tmp_path / str(n), kind, faulty))


def test_folders_from_before_attention_was_renamed(tmp_path):
    old = autoencoder_diffusers(WIDTHS, z=4, old_attention=True)
    stage = load_autoencoder("kl", folder(tmp_path / "old", shapes=old))
    value = tensors(old)["decoder.mid_block.attentions.0.value.bias"]
    assert torch.equal(stage.decoder.mid.attn_1.v.bias, value)


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"_class_name": "VQModel"}, "_class_name is 'VQModel'"),
        ({"act_fn": "relu"}, "act_fn is 'relu'"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "down_block_types"),
        ({"latents_mean": [0.0] * 4}, "latents_mean"),
        ({"latent_channels": None}, "latent_channels is missing"),
        ({"block_out_channels": [32, 96]}, "has the shape"),
    ],
)
def test_another_architecture_is_an_error(tmp_path, changed, said):
    with pytest.raises(UserError, match=said):
        load_autoencoder("kl", folder(tmp_path / "other", **changed))


def test_paths_that_are_no_autoencoder(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config\.json: No such file"):
        load_autoencoder("kl", tmp_path / "empty")
    with pytest.raises(UserError, match="a kl first stage is read from a folder"):
        load_autoencoder("kl", tmp_path / "kl.ckpt")
    config = FirstStageConfig(kind="kl", path=folder(tmp_path / "f2"), patch=4)
    with pytest.raises(UserError, match=r"has the factor 2, but generator\.first_stage\.patch is 4"):
        build_first_stage(config)
    with pytest.raises(UserError, match="no such file"):
        weight_files(GeneratorConfig(first_stage=FirstStageConfig(kind="kl", path=tmp_path / "none")))


@pytest.mark.parametrize("values", [{"kind": "vq"}, {"kind": "pixels", "path": "vq-f4.ckpt"}])
def test_a_path_belongs_to_the_kinds_with_weights(values):
    with pytest.raises(ValueError, match="a path belongs to the kinds vq and kl"):
        FirstStageConfig(**values)


def test_the_quantiser_takes_the_nearest_code(monkeypatch):
    # More positions than are compared at once.
    monkeypatch.setattr("stedm.generator.autoencoder.NEAREST_ROWS", 50)
    torch.manual_seed(0)
    codebook = Codebook(97, 3)
    torch.nn.init.normal_(codebook.embedding.weight)
    latents = torch.randn(2, 3, 7, 9)
    quantised = codebook(latents)
    distances = torch.cdist(latents.permute(0, 2, 3, 1).double(), codebook.embedding.weight.double()[None])
    expected = codebook.embedding.weight[distances.argmin(-1)].permute(0, 3, 1, 2)
    assert quantised.shape == latents.shape and torch.equal(quantised, expected)
    assert torch.equal(codebook(quantised), quantised)


def test_latents_are_taken_before_the_quantiser_and_quantised_when_decoded():
    torch.manual_seed(0)
    stage = Autoencoder(AutoencoderShape(widths=WIDTHS, codes=8)).eval()
    torch.nn.init.normal_(stage.quantize.embedding.weight)
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        latents = stage.encode(images)
        assert latents.shape == (1, 3, 8, 8)
        assert torch.equal(latents, stage.quant_conv(stage.encoder(images)))
        moved = stage.quantize(latents)
        assert not torch.equal(moved, latents)
        assert torch.equal(stage.decode(latents), stage.decode(moved))


def test_kl_latents_are_the_mean_in_the_published_scale(tmp_path):
    stage = load_autoencoder("kl", folder(tmp_path / "kl", scaling_factor=0.5, shift_factor=0.25))
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        latents = stage.encode(images)
        mean = stage.quant_conv(stage.encoder(images))[:, :4]
        assert torch.allclose(latents, (mean - 0.25) * 0.5, atol=1e-6)
        assert torch.allclose(stage.decode(latents), stage.decoder(stage.post_quant_conv(mean)), atol=1e-5)
    assert torch.equal(stage.scale, torch.full((4,), 2.0))


def test_attention_equals_the_formula():
    torch.manual_seed(0)
    attention = Attention(32, 8)
    x = torch.randn(2, 32, 3, 4)
    y = attention.norm(x)
    q, k, v = (part(y).flatten(2) for part in (attention.q, attention.k, attention.v))
    weights = torch.einsum("bci,bcj->bij", q, k).div(32**0.5).softmax(2)
    mixed = torch.einsum("bij,bcj->bci", weights, v).view_as(x)
    assert torch.allclose(attention(x), x + attention.proj_out(mixed), atol=1e-5)


def test_pixels_are_kept_and_of_about_unit_variance():
    images = torch.rand(4, 3, 16, 24) * 2 - 1
    stage = build_first_stage(FirstStageConfig(kind="pixels", patch=4))
    latents = stage.encode(images)
    assert latents.shape == (4, 48, 4, 6) == (4, stage.channels, 16 // stage.factor, 24 // stage.factor)
    assert torch.equal(stage.decode(latents), images) and stage.fit(images) == 1.0
    assert torch.equal(latents[0, :, 1, 2].sort()[0], images[0, :, 4:8, 8:12].flatten().sort()[0] / stage.scale)


def test_kept_variance_is_that_of_a_known_loss():
    class Half(Pixels):
        def decode(self, latents):
            return super().decode(latents) / 2

    images = torch.rand(4, 3, 32, 32) * 2 - 1
    images -= images.mean((0, 2, 3), keepdim=True)
    assert kept_variance(Half(4), images) == pytest.approx(0.75, abs=1e-4)


def test_a_saved_generator_needs_no_published_file(tmp_path):
    source = folder(tmp_path / "kl")
    config = GeneratorConfig(
        first_stage={"kind": "kl", "path": source, "patch": 2},
        unet={"channels": [16], "blocks": 1},
        style={"channels": [8], "dim": 8},
    )
    assert weight_files(config) == {"first stage": source / "diffusion_pytorch_model.safetensors"}
    model = Generator(config).eval()
    assert not any(parameter.requires_grad for parameter in model.first_stage.parameters())
    save_generator(tmp_path, model)
    source.rename(tmp_path / "moved")
    again = load_generator(tmp_path, torch.device("cpu"))
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        assert torch.equal(again.first_stage.encode(images), model.first_stage.encode(images))
