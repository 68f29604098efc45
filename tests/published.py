"""Names and shapes of the tensors in published checkpoints, written down from their configurations.

Each function takes the widths of the configuration, whose published values are the defaults, so that small
files of the same kind can be made.
"""

import torch

# Networks this small take a tenth of the time without threads that wait for each other on busy cores.
torch.set_num_threads(1)

Shapes = dict[str, tuple[int, ...]]


def tensors(shapes: Shapes) -> dict[str, torch.Tensor]:
    """Random tensors of these shapes, whole numbers where the name is that of an index."""
    random = torch.Generator().manual_seed(0)
    return {
        name: torch.zeros(shape, dtype=torch.long) if "index" in name else 0.1 * torch.randn(shape, generator=random)
        for name, shape in shapes.items()
    }


def broken(shapes: Shapes, name: str) -> list[tuple[Shapes, str]]:
    """Three faulty variants and what is wrong with them: a tensor missing, one surplus, one of another shape."""
    missing = {key: shape for key, shape in shapes.items() if key != name}
    return [
        (missing, f"'{name}' is missing"),
        (shapes | {f"{name}_too": (1,)}, f"'{name}_too' is none of this network's"),
        (shapes | {name: (*shapes[name], 2)}, f"'{name}' has the shape"),
    ]


def layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def _resnet(name: str, a: int, b: int, shortcut: str) -> Shapes:
    found = layer(f"{name}.norm1", a) | layer(f"{name}.conv1", b, a, 3, 3)
    found |= layer(f"{name}.norm2", b) | layer(f"{name}.conv2", b, b, 3, 3)
    return found | (layer(f"{name}.{shortcut}", b, a, 1, 1) if a != b else {})


def vq_original(ch=128, mult=(1, 2, 4), blocks=2, z=3, codes=8192) -> Shapes:
    """`models/first_stage_models/vq-f4/config.yaml` of CompVis/latent-diffusion, without its loss."""
    top = ch * mult[-1]
    found = layer("encoder.conv_in", ch, 3, 3, 3)
    before = ch
    for level, times in enumerate(mult):
        for block in range(blocks):
            found |= _resnet(f"encoder.down.{level}.block.{block}", before, ch * times, "nin_shortcut")
            before = ch * times
        if level < len(mult) - 1:
            found |= layer(f"encoder.down.{level}.downsample.conv", before, before, 3, 3)
    for side in ("encoder", "decoder"):
        found |= _resnet(f"{side}.mid.block_1", top, top, "") | _resnet(f"{side}.mid.block_2", top, top, "")
        found |= layer(f"{side}.mid.attn_1.norm", top)
        for part in ("q", "k", "v", "proj_out"):
            found |= layer(f"{side}.mid.attn_1.{part}", top, top, 1, 1)
    found |= layer("encoder.norm_out", top) | layer("encoder.conv_out", z, top, 3, 3)
    found |= layer("decoder.conv_in", top, z, 3, 3)
    before = top
    for level in reversed(range(len(mult))):
        for block in range(blocks + 1):
            found |= _resnet(f"decoder.up.{level}.block.{block}", before, ch * mult[level], "nin_shortcut")
            before = ch * mult[level]
        if level:
            found |= layer(f"decoder.up.{level}.upsample.conv", before, before, 3, 3)
    found |= layer("decoder.norm_out", ch) | layer("decoder.conv_out", 3, ch, 3, 3)
    found |= {"quantize.embedding.weight": (codes, z)}
    return found | layer("quant_conv", z, z, 1, 1) | layer("post_quant_conv", z, z, 1, 1)


def autoencoder_diffusers(widths=(128, 256, 512, 512), blocks=2, z=4, codes=None, old_attention=False) -> Shapes:
    """`AutoencoderKL` (no codes; by default that of Stable Diffusion 1) and `VQModel` as diffusers saves them."""
    parts = ("query", "key", "value", "proj_attn") if old_attention else ("to_q", "to_k", "to_v", "to_out.0")
    top, moments = widths[-1], z if codes else 2 * z
    found = layer("encoder.conv_in", widths[0], 3, 3, 3)
    before = widths[0]
    for level, width in enumerate(widths):
        for block in range(blocks):
            found |= _resnet(f"encoder.down_blocks.{level}.resnets.{block}", before, width, "conv_shortcut")
            before = width
        if level < len(widths) - 1:
            found |= layer(f"encoder.down_blocks.{level}.downsamplers.0.conv", width, width, 3, 3)
    for side in ("encoder", "decoder"):
        found |= _resnet(f"{side}.mid_block.resnets.0", top, top, "")
        found |= _resnet(f"{side}.mid_block.resnets.1", top, top, "")
        found |= layer(f"{side}.mid_block.attentions.0.group_norm", top)
        for part in parts:
            found |= layer(f"{side}.mid_block.attentions.0.{part}", top, top)
    found |= layer("encoder.conv_norm_out", top) | layer("encoder.conv_out", moments, top, 3, 3)
    found |= layer("decoder.conv_in", top, z, 3, 3)
    before = top
    for level, width in enumerate(reversed(widths)):
        for block in range(blocks + 1):
            found |= _resnet(f"decoder.up_blocks.{level}.resnets.{block}", before, width, "conv_shortcut")
            before = width
        if level < len(widths) - 1:
            found |= layer(f"decoder.up_blocks.{level}.upsamplers.0.conv", width, width, 3, 3)
    found |= layer("decoder.conv_norm_out", widths[0]) | layer("decoder.conv_out", 3, widths[0], 3, 3)
    found |= {"quantize.embedding.weight": (codes, z)} if codes else {}
    return found | layer("quant_conv", moments, moments, 1, 1) | layer("post_quant_conv", z, z, 1, 1)


def diffusers_config(kind: str, widths, z, codes=None) -> dict:
    """The `config.json` beside :func:`autoencoder_diffusers`."""
    return {
        "_class_name": {"vq": "VQModel", "kl": "AutoencoderKL"}[kind],
        "act_fn": "silu",
        "block_out_channels": list(widths),
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "in_channels": 3,
        "latent_channels": z,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 512,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
    } | ({"num_vq_embeddings": codes, "vq_embed_dim": z} if codes else {})


def landscape(ch=128, mult=(1, 4, 8), blocks=2) -> Shapes:
    """The U-Net of `models/ldm/semantic_synthesis512/config.yaml` of CompVis/latent-diffusion."""
    prefix, embed = "model.diffusion_model.", 4 * ch

    def residual(name: str, a: int, b: int) -> Shapes:
        found = layer(f"{name}.in_layers.0", a) | layer(f"{name}.in_layers.2", b, a, 3, 3)
        found |= layer(f"{name}.emb_layers.1", b, embed)
        found |= layer(f"{name}.out_layers.0", b) | layer(f"{name}.out_layers.3", b, b, 3, 3)
        return found | (layer(f"{name}.skip_connection", b, a, 1, 1) if a != b else {})

    found = layer("time_embed.0", embed, ch) | layer("time_embed.2", embed, embed)
    found |= layer("input_blocks.0.0", ch, 6, 3, 3)
    skips, before, number = [ch], ch, 1
    for level, times in enumerate(mult):
        for _ in range(blocks):
            found |= residual(f"input_blocks.{number}.0", before, ch * times)
            before = ch * times
            skips.append(before)
            number += 1
        if level < len(mult) - 1:
            found |= layer(f"input_blocks.{number}.0.op", before, before, 3, 3)
            skips.append(before)
            number += 1
    found |= residual("middle_block.0", before, before) | residual("middle_block.2", before, before)
    found |= layer("middle_block.1.norm", before) | layer("middle_block.1.qkv", 3 * before, before, 1)
    found |= layer("middle_block.1.proj_out", before, before, 1)
    number = 0
    for level in reversed(range(len(mult))):
        for block in range(blocks + 1):
            found |= residual(f"output_blocks.{number}.0", before + skips.pop(), ch * mult[level])
            before = ch * mult[level]
            if level and block == blocks:
                found |= layer(f"output_blocks.{number}.1.conv", before, before, 3, 3)
            number += 1
    found |= layer("out.0", ch) | layer("out.2", 3, ch, 3, 3)
    return {prefix + name: shape for name, shape in found.items()}


def swin_v2(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), classes=1000) -> Shapes:
    """`swin_v2_t` of torchvision, window 8."""
    found = layer("features.0.0", width, 3, 4, 4) | layer("features.0.2", width)
    for level, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        c = width * 2**level
        for block in range(depth):
            name = f"features.{2 * level + 1}.{block}"
            found |= layer(f"{name}.norm1", c) | layer(f"{name}.norm2", c)
            found |= layer(f"{name}.attn.qkv", 3 * c, c) | layer(f"{name}.attn.proj", c, c)
            found |= layer(f"{name}.attn.cpb_mlp.0", 512, 2) | layer(f"{name}.attn.cpb_mlp.2", count, 512, bias=False)
            found |= {
                f"{name}.attn.logit_scale": (count, 1, 1),
                f"{name}.attn.relative_coords_table": (1, 15, 15, 2),
                f"{name}.attn.relative_position_index": (4096,),
            }
            found |= layer(f"{name}.mlp.0", 4 * c, c) | layer(f"{name}.mlp.3", c, 4 * c)
        if level < len(depths) - 1:
            name = f"features.{2 * level + 2}"
            found |= layer(f"{name}.reduction", 2 * c, 4 * c, bias=False) | layer(f"{name}.norm", 2 * c)
    top = width * 2 ** (len(depths) - 1)
    return found | layer("norm", top) | layer("head", classes, top)


def mit(widths=(64, 128, 320, 512), depths=(3, 4, 6, 3), reductions=(8, 4, 2, 1)) -> Shapes:
    """The encoder of `nvidia/mit-b2` as the `SegformerModel` of transformers."""
    found: Shapes = {}
    before = 3
    for level, (c, depth, reduction) in enumerate(zip(widths, depths, reductions, strict=True)):
        kernel = 3 if level else 7
        found |= layer(f"patch_embeddings.{level}.proj", c, before, kernel, kernel)
        found |= layer(f"patch_embeddings.{level}.layer_norm", c) | layer(f"layer_norm.{level}", c)
        for block in range(depth):
            name = f"block.{level}.{block}"
            found |= layer(f"{name}.layer_norm_1", c) | layer(f"{name}.layer_norm_2", c)
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                found |= layer(f"{name}.attention.{part}", c, c)
            if reduction > 1:
                found |= layer(f"{name}.attention.self.sr", c, c, reduction, reduction)
                found |= layer(f"{name}.attention.self.layer_norm", c)
            found |= layer(f"{name}.mlp.dense1", 4 * c, c) | layer(f"{name}.mlp.dense2", c, 4 * c)
            found |= layer(f"{name}.mlp.dwconv.dwconv", 4 * c, 1, 3, 3)
        before = c
    return {f"encoder.{name}": shape for name, shape in found.items()}
