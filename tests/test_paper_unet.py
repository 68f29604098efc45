"""The paper's U-Net: published names and size, the start from a checkpoint, layout and style."""

import pytest
import torch
from published import broken, landscape, tensors
from torch.nn import functional

from stedm.config import UNetConfig
from stedm.errors import UserError
from stedm.generator.build import build_unet
from stedm.generator.latents import Pixels
from stedm.generator.paper_unet import NEW, PREFIX, Attention, PaperUNet, load_landscape

SMALL = {"latent": 3, "factor": 4, "channels": [32, 64], "blocks": 1, "style": 16}
SHAPES = landscape(ch=32, mult=(1, 2), blocks=1)


@pytest.fixture
def unet():
    """A small one whose every layer has something to say, which zeros at the start prevent."""
    torch.manual_seed(0)
    unet = PaperUNet(**SMALL).eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return unet


def inputs(batch=2):
    torch.manual_seed(1)
    layout = torch.rand(batch, 1, 32, 32).round()
    return {
        "x": torch.randn(batch, 3, 8, 8),
        "noise": torch.tensor([3.0, 900.0]),
        "style": torch.randn(batch, 16),
        "layout": layout,
        "has_layout": torch.ones(batch, dtype=torch.bool),
    }


def test_it_is_the_published_architecture_with_layout_and_style():
    with torch.device("meta"):
        unet = PaperUNet(latent=3, factor=4, channels=[128, 512, 1024], blocks=2, style=512)
    state = {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    ours = {name: shape for name, shape in state.items() if name.startswith(NEW)}
    assert {PREFIX + name: shape for name, shape in state.items() if name not in ours} == landscape()
    # The landscape model has 215 M parameters (arXiv 2112.10752, table 15); with the style block the paper's 235 M.
    count = {name: torch.Size(shape).numel() for name, shape in state.items()}
    assert sum(count.values()) - sum(count[name] for name in ours) == 215_229_315
    block = 2 * (9 * 1024**2 + 1024) + 2 * 2 * 1024 + (512 * 1024 + 1024)
    assert sum(count[name] for name in ours) == block + 2 * 3 + 3
    assert sum(count.values()) == 234_635_148


def test_it_starts_from_a_checkpoint_and_a_faulty_one_is_named(tmp_path):
    path = tmp_path / "landscape.ckpt"
    beside = {"betas": torch.ones(1000), "first_stage_model.quant_conv.bias": torch.ones(3)}
    beside |= {"cond_stage_model.channel_mapper.weight": torch.ones(3, 182, 1, 1), "model_ema.decay": torch.ones(())}
    written = tensors(SHAPES)
    torch.save({"state_dict": written | beside}, path)
    torch.manual_seed(0)
    fresh = PaperUNet(**SMALL).state_dict()
    torch.manual_seed(0)
    unet = build_unet(UNetConfig(kind="paper", path=path, channels=[32, 64], blocks=1), _First(), style=16)
    for name, tensor in unet.state_dict().items():
        expected = fresh[name] if name.startswith(NEW) else written[PREFIX + name]
        assert torch.equal(tensor, expected), name
    for shapes, said in broken(SHAPES, f"{PREFIX}middle_block.1.qkv.weight"):
        torch.save({"state_dict": tensors(shapes)}, path)
        with pytest.raises(UserError, match=said):
            load_landscape(unet, path)


class _First(Pixels):
    """A first stage of three channels and factor 4."""

    def __init__(self):
        super().__init__(4)
        self.channels = 3


def test_a_new_style_block_changes_nothing_at_first(unet):
    torch.nn.init.zeros_(unet.style_block.out_layers[3].weight)
    torch.nn.init.zeros_(unet.style_block.out_layers[3].bias)
    first = inputs()
    with torch.no_grad():
        assert torch.equal(unet(**first), unet(**first | {"style": torch.randn(2, 16)}))


def test_the_layout_is_halved_twice_and_mapped_beside_the_latent(unet):
    seen = []
    unet.input_blocks[0][0].register_forward_hook(lambda _, given, __: seen.append(given[0]))
    given = inputs()
    given["has_layout"] = torch.tensor([True, False])
    with torch.no_grad():
        unet(**given)
    onehot = functional.one_hot(given["layout"][:, 0].long(), 2).movedim(-1, 1).float()
    for _ in range(2):
        onehot = functional.interpolate(onehot, scale_factor=0.5, mode="bilinear")
    drawn = torch.einsum("oc,bchw->bohw", unet.layout.weight[:, :, 0, 0], onehot)
    assert seen[0].shape == (2, 6, 8, 8) and torch.equal(seen[0][:, :3], given["x"])
    assert torch.allclose(seen[0][0, 3:], drawn[0], atol=1e-6)
    assert torch.equal(seen[0][1, 3:], unet.null_layout[:, None, None].expand(3, 8, 8))


@pytest.mark.parametrize("name", ["x", "noise", "style", "layout"])
def test_the_output_depends_on_each_input(unet, name):
    given = inputs()
    with torch.no_grad():
        before = unet(**given)
        after = unet(**given | {name: given[name].flip(0)})
    assert before.shape == (2, 3, 8, 8) and not torch.allclose(before, after, atol=1e-5)


def test_every_tensor_gets_a_gradient(unet):
    given = inputs()
    given["has_layout"] = torch.tensor([True, False])
    unet(**given).pow(2).mean().backward()
    silent = [name for name, p in unet.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def test_attention_equals_the_formula_head_by_head():
    torch.manual_seed(0)
    attention = Attention(64)
    torch.nn.init.normal_(attention.proj_out.weight, std=0.1)
    x = torch.randn(2, 64, 3, 4)
    qkv = attention.qkv(attention.norm(x).flatten(2))
    mixed = []
    for head in range(8):
        # Query, key and value of a head lie together, eight channels each.
        q, k, v = qkv[:, head * 24 : head * 24 + 24].split(8, 1)
        weights = (q.transpose(1, 2) @ k / 8**0.5).softmax(-1)
        mixed.append(v @ weights.transpose(1, 2))
    expected = x + attention.proj_out(torch.cat(mixed, 1)).view_as(x)
    assert torch.allclose(attention(x), expected, atol=1e-5)


def test_noise_is_embedded_as_published(unet):
    seen = []
    unet.time_embed[0].register_forward_hook(lambda _, given, __: seen.append(given[0]))
    with torch.no_grad():
        unet(**inputs())
    rates = [10_000 ** (-n / 16) for n in range(16)]
    expected = [[f(t * rate) for f in (torch.cos, torch.sin) for rate in rates] for t in torch.tensor([3.0, 900.0])]
    assert torch.allclose(seen[0], torch.tensor(expected), atol=1e-3)


@pytest.mark.parametrize(
    "values, said",
    [
        ({"path": "landscape.ckpt"}, "a path belongs to the kind paper"),
        ({"kind": "paper", "channels": [48, 96]}, "multiples of 32"),
    ],
)
def test_settings_that_do_not_fit(values, said):
    with pytest.raises(ValueError, match=said):
        UNetConfig(**values)
