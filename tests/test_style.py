"""Style: Swin V2 as published, aggregations, the null style, and what learns."""

import math

import pytest
import torch
from published import broken, swin_v2, tensors
from safetensors.torch import save_file

from stedm.config import StyleConfig
from stedm.errors import UserError
from stedm.generator.aggregation import Attention, LinearAggregation, PooledAggregation, SetAggregation, SetViT
from stedm.generator.build import build_style
from stedm.generator.style import ConvEncoder, StyleNet
from stedm.generator.swin import SwinV2, WindowAttention, load_swin
from stedm.layers import IMAGENET_MEAN, IMAGENET_STD, StochasticDepth

TINY = (12, (2, 2), (2, 3))


def noisy(module):
    """Give every tensor something to say, which zeros at the start prevent."""
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


# ---- Swin V2


def test_swin_v2_t_is_the_published_architecture():
    with torch.device("meta"):
        encoder = SwinV2()
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    head = {"head.weight": (1000, 768), "head.bias": (1000,)}
    assert shapes | head == swin_v2()
    # torchvision states 28,351,570 with its classifier.
    assert sum(p.numel() for p in encoder.parameters()) + 1000 * 769 == 28_351_570


def test_published_weights_load_and_faulty_ones_are_named(tmp_path):
    encoder, path = SwinV2(*TINY), tmp_path / "swin.pth"
    torch.save(tensors(swin_v2(*TINY)), path)
    load_swin(encoder, path)
    assert torch.equal(encoder.norm.weight, tensors(swin_v2(*TINY))["norm.weight"])
    for shapes, said in broken(swin_v2(*TINY), "features.1.1.attn.cpb_mlp.2.weight"):
        torch.save(tensors(shapes), path)
        with pytest.raises(UserError, match=said):
            load_swin(encoder, path)


@pytest.mark.parametrize("height, width, shift", [(8, 8, 4), (16, 24, 0), (16, 24, 4), (11, 16, 4)])
def test_window_attention_equals_the_formula_pair_by_pair(height, width, shift):
    torch.manual_seed(0)
    attention = noisy(WindowAttention(6, 2, shift)).double()
    x = torch.randn(1, height, width, 6, dtype=torch.float64)
    with torch.no_grad():
        found = attention(x)[0]
        rows, columns = -height % 8 + height, -width % 8 + width
        down, right = (shift if rows > 8 else 0), (shift if columns > 8 else 0)
        padded = torch.zeros(rows, columns, 6, dtype=torch.float64)
        padded[:height, :width] = x[0]

        def window(place):
            """Window of a position, and on which side of a wrapped edge it lies."""
            (y, at), (z, over) = (
                ((place[0] - down) % rows, place[0] < down),
                ((place[1] - right) % columns, place[1] < right),
            )
            return y // 8, z // 8, at, over

        bias = attention.qkv.bias.clone()
        bias[6:12] = 0
        q, k, v = (padded @ attention.qkv.weight.T + bias).view(rows, columns, 3, 2, 3).unbind(2)
        offset = lambda d: math.copysign(math.log2(8 * abs(d) / 7 + 1) / 3, d)  # noqa: E731
        places = [(r, c) for r in range(rows) for c in range(columns)]
        for here in [(0, 0), (height - 1, width - 1), (height // 2, 3), (3, width - 2)]:
            inside = [there for there in places if window(there)[:2] == window(here)[:2]]
            logits = []
            for there in inside:
                # Distance within the window, where it wraps around the edge too.
                dy = (here[0] - down) % rows - (there[0] - down) % rows
                dx = (here[1] - right) % columns - (there[1] - right) % columns
                position = attention.cpb_mlp(torch.tensor([offset(dy), offset(dx)], dtype=torch.float64))
                a, b = q[here], k[there]
                cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-9)
                scale = attention.logit_scale.flatten().clamp(max=math.log(100)).exp()
                apart = -100 if window(there) != window(here) else 0
                logits.append(cosine * scale + 16 * position.sigmoid() + apart)
            weights = torch.stack(logits).softmax(0)
            mixed = torch.stack([weights[n][:, None] * v[there] for n, there in enumerate(inside)]).sum(0)
            expected = attention.proj(mixed.flatten())
            # The published tables are of single precision.
            assert torch.allclose(found[here], expected, atol=1e-6), here


def test_swin_sees_images_as_its_weights_expect_them():
    torch.manual_seed(0)
    encoder, seen = SwinV2(*TINY), []
    encoder.features.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    grey = torch.tensor(IMAGENET_MEAN)[:, None, None].expand(1, 3, 32, 32)
    encoder(2 * grey - 1)
    assert seen[0].abs().max() < 1e-6
    bright = grey + torch.tensor(IMAGENET_STD)[:, None, None]
    assert encoder(2 * bright - 1).shape == (1, 24) and torch.allclose(seen[1], torch.ones(()), atol=1e-5)


def test_stochastic_depth_drops_in_training_only():
    """The released code leaves it on when generating: the same image then has another vector each time."""
    torch.manual_seed(0)
    encoder = noisy(SwinV2(*TINY, drop=0.9))
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        assert not torch.equal(encoder.train()(images), encoder(images))
        assert torch.equal(encoder.eval()(images), encoder(images))


def test_stochastic_depth_keeps_the_mean():
    torch.manual_seed(0)
    branch = StochasticDepth(0.25)(torch.ones(4000, 1, 1))
    assert branch.unique().tolist() == pytest.approx([0, 4 / 3])
    assert branch.mean() == pytest.approx(1, abs=0.03)


# ---- aggregations


@pytest.mark.parametrize(
    "make", [lambda: PooledAggregation(8, "mean"), lambda: PooledAggregation(8, "max"), lambda: SetAggregation(8)]
)
def test_any_order_and_any_size(make):
    torch.manual_seed(0)
    aggregation, vectors = noisy(make()).eval(), torch.randn(3, 7, 8)
    with torch.no_grad():
        whole = aggregation(vectors)
        assert torch.allclose(aggregation(vectors[:, torch.randperm(7)]), whole, atol=1e-5)
        for size in (1, 2, 12):
            assert aggregation(torch.randn(3, size, 8)).shape == (3, 8)
        assert not torch.allclose(aggregation(vectors[:, :6]), whole, atol=1e-3)


def test_set_weighs_the_vectors_and_max_takes_the_largest():
    torch.manual_seed(0)
    vectors = torch.randn(2, 5, 8)
    largest = PooledAggregation(8, "max")
    assert torch.allclose(largest(vectors), largest(vectors.max(1, keepdim=True)[0]))
    aggregation = noisy(SetAggregation(8))
    alike = vectors[:, :1].expand(-1, 5, -1)
    mixed = (aggregation(vectors) - aggregation(vectors.mean(1, keepdim=True))).abs().max()
    assert mixed > 1e-3 and aggregation(alike).shape == (2, 8)


@pytest.mark.parametrize("local", [False, True])
def test_token_attention_equals_the_formula(local):
    torch.manual_seed(0)
    attention = Attention(6, 2, 4, local=local)
    x = torch.randn(3, 5, 6)
    parts = (x @ attention.qkv.weight.T).view(3, 5, 3, 2, 4)
    heads = []
    for head in range(2):
        q, k, v = parts[:, :, 0, head], parts[:, :, 1, head], parts[:, :, 2, head]
        logits = q @ k.transpose(1, 2) / 2
        if local:
            logits = logits - torch.eye(5) * 1e9
        heads.append(logits.softmax(-1) @ v)
    assert torch.allclose(attention(x), attention.out(torch.cat(heads, 2)), atol=1e-5)


def test_fixed_sets_refuse_another_size_and_depend_on_order():
    torch.manual_seed(0)
    linear, svit = noisy(LinearAggregation(8, 4)).eval(), SetViT(8, 2, 16).eval()
    for aggregation, given in ((linear, torch.randn(2, 4, 8)), (svit, torch.randn(2, 2, 3, 16, 16))):
        with torch.no_grad():
            assert aggregation(given).shape == (2, 8)
            assert not torch.allclose(aggregation(given), aggregation(given.flip(1)), atol=1e-4)
        with pytest.raises(UserError, match=r"generator\.style\.count: 1 style images"):
            aggregation(given[:, :1])


def test_svit_stacks_the_patches_of_the_set():
    svit, seen = SetViT(8, 2, 16), []
    svit.embed.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    images = torch.randn(1, 2, 3, 16, 16)
    svit(images)
    # One token a position: the same 8 x 8 pixels of all images of the set.
    assert seen[0].shape == (1, 4, 2 * 3 * 64)
    assert torch.equal(seen[0][0, 1].sort()[0], images[0, :, :, :8, 8:].flatten().sort()[0])


# ---- the whole


@pytest.mark.parametrize(
    "encoder, aggregation", [*(("conv", a) for a in ("mean", "max", "linear", "set", "svit")), ("swin-v2-t", "set")]
)
def test_every_tensor_gets_a_gradient(monkeypatch, encoder, aggregation):
    """The released code never gives them to the optimiser; here each even moves the first step's loss."""
    if encoder == "swin-v2-t":
        monkeypatch.setattr("stedm.generator.build.SwinV2", lambda: SwinV2(*TINY, drop=0.0))
    torch.manual_seed(0)
    config = StyleConfig(encoder=encoder, aggregation=aggregation, dim=32, channels=[8, 12], count=3, size=32)
    style = noisy(build_style(config))
    vectors = style.with_null(style(torch.rand(4, 3, 3, 32, 32) * 2 - 1), torch.tensor([True, True, True, False]))
    assert vectors.shape == (4, 32)
    (vectors * torch.randn(4, 32)).sum().backward()
    silent = [name for name, p in style.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def test_the_null_style_is_a_learned_vector():
    style = build_style(StyleConfig(dim=8, channels=[8]))
    assert isinstance(style.null, torch.nn.Parameter) and style.null.shape == (8,)
    vectors = torch.randn(2, 8)
    mixed = style.with_null(vectors, torch.tensor([False, True]))
    assert torch.equal(mixed[0], style.null) and torch.equal(mixed[1], vectors[1])
    mixed.sum().backward()
    assert torch.equal(style.null.grad, torch.ones(8))


def test_a_frozen_encoder_keeps_its_weights_and_never_trains(tmp_path):
    torch.manual_seed(0)
    encoder = ConvEncoder([8, 12], 8)
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    sizes = {"channels": [8, 12], "dim": 8, "path": tmp_path / "encoder.safetensors"}
    frozen, tuned = (build_style(StyleConfig(**sizes, frozen=frozen)) for frozen in (True, False))
    for style in (frozen, tuned):
        assert all(torch.equal(a, b) for a, b in zip(style.encoder.parameters(), encoder.parameters(), strict=True))
        style.train()
        style(torch.rand(2, 3, 3, 16, 16)).sum().backward()
    assert not frozen.encoder.training and tuned.encoder.training
    assert all(p.grad is None for p in frozen.encoder.parameters())
    assert all(p.grad is not None for p in tuned.encoder.parameters())
    assert all(p.grad is not None for p in frozen.aggregation.parameters())


def test_a_frozen_swin_gives_the_same_vector_in_training():
    encoder = SwinV2(*TINY, drop=0.9)
    style = StyleNet(encoder, PooledAggregation(8, "mean"), width=encoder.width, dim=8, frozen=True).train()
    images = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    assert torch.equal(style(images), style(images))


@pytest.mark.parametrize(
    "values, said",
    [
        ({"frozen": True}, "frozen needs a path"),
        ({"aggregation": "svit", "path": "a.pth"}, "svit has no encoder"),
        ({"aggregation": "svit", "size": 12}, "multiple of 8"),
    ],
)
def test_settings_that_do_not_fit(values, said):
    with pytest.raises(ValueError, match=said):
        StyleConfig(**values)
