"""The segmenter's MiT-B2 encoder as published, and the U-Net around it."""

import pytest
import torch
from published import broken, mit, tensors
from safetensors.torch import save_file
from torch.nn import functional

from stedm.config import SegmenterConfig
from stedm.errors import UserError
from stedm.layers import IMAGENET_MEAN, IMAGENET_STD
from stedm.segmenter.mit import MitUNet, MixTransformer, SelfAttention, load_mit
from stedm.segmenter.network import SmallUNet, build_segmenter

TINY = {"widths": (8, 16, 20, 32), "depths": (1, 2, 1, 1)}


def tiny():
    torch.manual_seed(0)
    return MitUNet(MixTransformer(**TINY))


def test_mit_b2_is_the_published_architecture():
    with torch.device("meta"):
        network = build_segmenter(SegmenterConfig(network="mit-b2"))
    shapes = {f"encoder.{name}": tuple(tensor.shape) for name, tensor in network.encoder.state_dict().items()}
    assert shapes == mit()
    # 24.2 M (arXiv 2105.15203, table 1).
    assert sum(p.numel() for p in network.encoder.parameters()) == 24_196_288


@pytest.mark.parametrize("prefix", ["", "segformer."])
def test_published_weights_load_and_faulty_ones_are_named(tmp_path, prefix):
    """The encoder alone, and as part of the classifier of ImageNet."""
    network, path = tiny(), tmp_path / "mit.safetensors"
    shapes = {prefix + name: shape for name, shape in mit(**TINY).items()}
    beside = {"classifier.weight": (10, 32), "classifier.bias": (10,)} if prefix else {}
    save_file(tensors(shapes | beside), path)
    load_mit(network.encoder, path)
    written = tensors(shapes | beside)[f"{prefix}encoder.block.1.1.attention.self.sr.weight"]
    assert torch.equal(network.encoder.block[1][1].attention.self.sr.weight, written)
    for faulty, said in broken(shapes, f"{prefix}encoder.block.1.1.mlp.dwconv.dwconv.weight"):
        save_file(tensors(faulty), path)
        with pytest.raises(UserError, match=said):
            load_mit(network.encoder, path)


@pytest.mark.parametrize("reduction", [1, 2])
def test_attention_equals_the_formula(reduction):
    torch.manual_seed(0)
    attention = SelfAttention(8, 2, reduction)
    x = torch.randn(2, 4, 6, 8)
    seen = x
    if reduction > 1:
        seen = functional.conv2d(x.permute(0, 3, 1, 2), attention.sr.weight, attention.sr.bias, stride=2)
        seen = functional.layer_norm(seen.permute(0, 2, 3, 1), (8,))
    q, k, v = attention.query(x).view(2, 24, 8), attention.key(seen), attention.value(seen)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        keys, values = k.flatten(1, 2)[..., head], v.flatten(1, 2)[..., head]
        heads.append((q[..., head] @ keys.transpose(1, 2) / 2).softmax(-1) @ values)
    assert torch.allclose(attention(x), torch.cat(heads, -1).view_as(x), atol=1e-5)


def test_images_are_normalised_as_the_weights_expect_them():
    network, seen = tiny(), []
    network.encoder.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    network.eval()((mean - 2 * std).expand(1, 3, 32, 32))
    assert torch.allclose(seen[0], torch.full((), -2.0), atol=1e-5)


@pytest.mark.parametrize("side", [32, 48, 96])
def test_logits_have_the_side_of_the_image(side):
    with torch.no_grad():
        assert tiny().eval()(torch.rand(1, 3, side, side)).shape == (1, 2, side, side)


def test_resolutions_of_the_encoder():
    features = MixTransformer(**TINY)(torch.randn(1, 3, 64, 96))
    assert [tuple(f.shape[1:]) for f in features] == [(8, 16, 24), (16, 8, 12), (20, 4, 6), (32, 2, 3)]


def test_every_tensor_gets_a_gradient_and_evaluation_is_without_chance():
    network = tiny()
    images = torch.rand(4, 3, 64, 64)
    torch.manual_seed(1)
    (network.train()(images) * torch.randn(4, 2, 64, 64)).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []
    network.eval()
    with torch.no_grad():
        assert torch.equal(network(images), network(images))


def test_the_default_is_the_small_network():
    assert isinstance(build_segmenter(SegmenterConfig()), SmallUNet)
    with pytest.raises(ValueError, match="a path belongs to the network mit-b2"):
        SegmenterConfig(path="mit.safetensors")
