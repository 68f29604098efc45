"""Weights of autoencoders in the two formats in which they are published."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor

from stedm.errors import UserError
from stedm.generator.autoencoder import VQ_F4, Autoencoder, AutoencoderShape
from stedm.provenance import write_text
from stedm.weights import check_tensors, load_exactly, read_tensors, without

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
"""Files of a folder in the format of diffusers."""
CLASSES = {"vq": "VQModel", "kl": "AutoencoderKL"}
TRAINING_ONLY = ("loss.",)
"""Perceptual loss and discriminator, which the original checkpoint holds beside the autoencoder."""
SUPPORTED = {
    "in_channels": 3,
    "out_channels": 3,
    "act_fn": "silu",
    "norm_type": "group",
    "lookup_from_codebook": False,
    "latents_mean": None,
    "latents_std": None,
}
"""Settings of diffusers' configuration that the network knows in one value only, which is also their default."""
RENAMED = (
    (r"\bdown\.(\d+)\.block\.", r"down_blocks.\1.resnets."),
    (r"\bdown\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0."),
    (r"\bup\.(\d+)\.block\.", r"up_blocks.\1.resnets."),
    (r"\bup\.(\d+)\.upsample\.", r"up_blocks.\1.upsamplers.0."),
    (r"\bmid\.block_1\.", "mid_block.resnets.0."),
    (r"\bmid\.block_2\.", "mid_block.resnets.1."),
    (r"\bmid\.attn_1\.norm\.", "mid_block.attentions.0.group_norm."),
    (r"\bmid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
    (r"\bmid\.attn_1\.proj_out\.", "mid_block.attentions.0.to_out.0."),
    (r"\bnin_shortcut\.", "conv_shortcut."),
    (r"\bnorm_out\.", "conv_norm_out."),
)
"""From the original names to those of diffusers."""
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of diffusers before version 0.18, in which many published folders still are."""


def load_autoencoder(kind: Literal["vq", "kl"], path: Path) -> Autoencoder:
    """Build an autoencoder from a folder in diffusers' format, or VQ-f4 from an original checkpoint.

    Raises
    ------
    UserError
        If a file is missing, the architecture is another one, or a tensor is missing, surplus or of another
        shape.
    """
    path = Path(path)
    if path.is_dir():
        return _from_folder(kind, path)
    if kind != "vq":
        raise UserError(f"{path}: a {kind} first stage is read from a folder with {CONFIG} and {WEIGHTS}; give one.")
    stage = Autoencoder(VQ_F4)
    load_exactly(stage, without(read_tensors(path), *TRAINING_ONLY), path)
    return stage


def _from_folder(kind: str, folder: Path) -> Autoencoder:
    stage = Autoencoder(read_shape(kind, folder / CONFIG))
    source = folder / WEIGHTS
    tensors = {_modern(name): tensor for name, tensor in read_tensors(source).items()}
    own = stage.state_dict()
    names = {ours: diffusers_name(ours, len(stage.shape.widths)) for ours in own}
    check_tensors(tensors, {names[ours]: _shape_in_folder(ours, tensor) for ours, tensor in own.items()}, source)
    stage.load_state_dict({ours: tensors[name].view_as(own[ours]) for ours, name in names.items()})
    return stage


def diffusers_name(name: str, levels: int) -> str:
    """Return the name that diffusers gives to a tensor of an autoencoder with so many resolutions."""
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    # diffusers counts the decoder's resolutions from the coarsest.
    return re.sub(r"\bup_blocks\.(\d+)", lambda match: f"up_blocks.{levels - 1 - int(match[1])}", name)


def _shape_in_folder(name: str, tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of a tensor in diffusers' format, where attention has matrices for 1 × 1 convolutions."""
    matrix = ".attn_1." in name and tensor.ndim == 4
    return tuple(tensor.shape[:2] if matrix else tensor.shape)


def _modern(name: str) -> str:
    return re.sub(
        r"(?<=\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)", lambda match: OLD_ATTENTION[match[1]], name
    )


def read_shape(kind: str, path: Path) -> AutoencoderShape:
    """Read the architecture from diffusers' ``config.json``.

    Raises
    ------
    UserError
        If the file is missing or no JSON, or the architecture is one that the network does not know.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not valid JSON"
        raise UserError(f"{path}: {reason}; give a folder that diffusers saved.") from None
    needed = ("block_out_channels", "latent_channels", *(("num_vq_embeddings",) if kind == "vq" else ()))
    missing = [key for key in needed if not (isinstance(values, dict) and values.get(key))]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing; give a folder that diffusers saved.")
    expected = {"_class_name": CLASSES[kind]}
    for key, value in (SUPPORTED | expected).items():
        _demand(path, key, values.get(key, value), value)
    widths = tuple(values["block_out_channels"])
    for side in ("down", "up"):
        block = f"{side.capitalize()}{'En' if side == 'down' else 'De'}coderBlock2D"
        _demand(path, f"{side}_block_types", values.get(f"{side}_block_types"), [block] * len(widths))
    latent = values["latent_channels"]
    shared = {
        "widths": widths,
        "blocks": values.get("layers_per_block", 1),
        "latent": latent,
        "attention": values.get("mid_block_add_attention", True),
        "groups": values.get("norm_num_groups", 32),
    }
    if kind == "vq":
        # The published VQ models are not scaled; diffusers' configuration has a default that nothing fitted.
        _demand(path, "vq_embed_dim", values.get("vq_embed_dim") or latent, latent)
        return AutoencoderShape(**shared, codes=values["num_vq_embeddings"])
    return AutoencoderShape(
        **shared,
        codes=None,
        quant_conv=values.get("use_quant_conv", True),
        post_quant_conv=values.get("use_post_quant_conv", True),
        scale=1 / values.get("scaling_factor", 0.18215),
        shift=values.get("shift_factor") or 0.0,
    )


def _demand(path: Path, key: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise UserError(f"{path}: {key} is {found!r}, and only {expected!r} is supported; give another autoencoder.")


def save_autoencoder(folder: Path, stage: Autoencoder) -> None:
    """Write an autoencoder as a folder in diffusers' format, from which :func:`load_autoencoder` reads it."""
    shape = stage.shape
    levels = len(shape.widths)
    values = {
        "_class_name": CLASSES["vq" if shape.codes else "kl"],
        **{key: value for key, value in SUPPORTED.items() if key in ("in_channels", "out_channels", "act_fn")},
        "block_out_channels": list(shape.widths),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": shape.blocks,
        "latent_channels": shape.latent,
        "norm_num_groups": shape.groups,
        "mid_block_add_attention": shape.attention,
        "scaling_factor": 1 / shape.scale,
    }
    if shape.codes:
        values |= {"num_vq_embeddings": shape.codes, "vq_embed_dim": shape.latent}
    else:
        values |= {"shift_factor": shape.shift, "use_quant_conv": shape.quant_conv}
        values |= {"use_post_quant_conv": shape.post_quant_conv}
    tensors = {
        diffusers_name(name, levels): tensor.detach().cpu().reshape(_shape_in_folder(name, tensor)).contiguous()
        for name, tensor in stage.state_dict().items()
    }
    write_text(folder / CONFIG, json.dumps(values, indent=1, sort_keys=True) + "\n")
    save_file(tensors, folder / WEIGHTS)
