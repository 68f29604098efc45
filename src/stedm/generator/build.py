"""The networks of a generator by their names in the configuration."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from stedm.config import FirstStageConfig, GeneratorConfig, StyleConfig, UNetConfig
from stedm.errors import UserError
from stedm.generator.aggregation import LinearAggregation, PooledAggregation, SetAggregation, SetViT
from stedm.generator.autoencoder import Autoencoder, AutoencoderShape
from stedm.generator.autoencoder_files import WEIGHTS, load_autoencoder
from stedm.generator.first_stage import PatchPCA
from stedm.generator.latents import FirstStage, Pixels
from stedm.generator.paper_unet import PaperUNet, load_landscape
from stedm.generator.style import ConvEncoder, StyleNet
from stedm.generator.swin import SwinV2, load_swin
from stedm.generator.unet import UNet
from stedm.weights import existing, load_exactly, read_tensors


def build_first_stage(config: FirstStageConfig, shape: AutoencoderShape | None = None) -> FirstStage:
    """Build a first stage, with published weights where it has such, or of a known shape without any.

    Raises
    ------
    UserError
        If the weights do not fit, or their factor is not the one that the configuration states.
    """
    if config.kind == "pca":
        return PatchPCA(config.patch, config.components, config.whitening)
    if config.kind == "pixels":
        return Pixels(config.patch)
    stage = Autoencoder(shape) if shape else load_autoencoder(config.kind, config.path)
    if stage.factor != config.patch:
        raise UserError(
            f"{config.path}: this autoencoder has the factor {stage.factor}, but generator.first_stage.patch is "
            f"{config.patch}; set it to {stage.factor}."
        )
    return stage.requires_grad_(False).eval()


def build_style(config: StyleConfig, *, pretrained: bool = True) -> StyleNet:
    """Build the style network, its encoder with the weights that the configuration names if `pretrained`.

    Raises
    ------
    UserError
        If the weights do not fit.
    """
    if config.aggregation == "svit":
        encoder, width = None, config.dim
    elif config.encoder == "conv":
        encoder, width = ConvEncoder(config.channels, config.dim), config.dim
    else:
        encoder = SwinV2()
        width = encoder.width
    if pretrained and config.path is not None:
        if config.encoder == "conv":
            load_exactly(encoder, read_tensors(config.path), config.path)
        else:
            load_swin(encoder, config.path)
    return StyleNet(
        encoder,
        _build_aggregation(config),
        width=width,
        dim=config.dim,
        frozen=config.frozen,
        moments=config.moments,
    )


def _build_aggregation(config: StyleConfig) -> nn.Module:
    if config.aggregation in ("mean", "max"):
        return PooledAggregation(config.dim, config.aggregation)
    if config.aggregation == "linear":
        return LinearAggregation(config.dim, config.count)
    if config.aggregation == "set":
        return SetAggregation(config.dim)
    return SetViT(config.dim, config.count, config.size)


def build_unet(config: UNetConfig, first_stage: FirstStage, style: int, *, pretrained: bool = True) -> nn.Module:
    """Build a U-Net for the latents of a first stage and style vectors of a length.

    It starts from the checkpoint that the configuration names if `pretrained`.

    Raises
    ------
    UserError
        If the checkpoint does not fit.
    """
    sizes = {"latent": first_stage.channels, "factor": first_stage.factor, "style": style}
    if config.kind == "stedm":
        return UNet(**sizes, channels=config.channels, blocks=config.blocks)
    unet = PaperUNet(**sizes, channels=config.channels, blocks=config.blocks)
    if pretrained and config.path is not None:
        load_landscape(unet, config.path)
    return unet


def weight_files(config: GeneratorConfig) -> dict[str, Path]:
    """Return the files of published weights that a generator starts from, by role, for its provenance.

    Raises
    ------
    UserError
        If one is missing.
    """
    paths = {"first stage": config.first_stage.path, "style encoder": config.style.path, "U-Net": config.unet.path}
    given = {role: path for role, path in paths.items() if path is not None}
    return {role: existing(path / WEIGHTS if path.is_dir() else path) for role, path in given.items()}
