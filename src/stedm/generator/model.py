"""The generator as one module, and its weights on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stedm.config import GeneratorConfig
from stedm.errors import UserError
from stedm.generator.autoencoder import Autoencoder, AutoencoderShape
from stedm.generator.build import build_first_stage, build_style, build_unet
from stedm.generator.denoiser import PARAMETRISATIONS, Denoise, Network, estimate
from stedm.generator.guidance import Guidance, guided

WEIGHTS = "weights.safetensors"
SETTINGS = "settings.json"
FIRST_STAGE = "first-stage.json"
"""Shape of an autoencoder, whose published files a saved generator does not need any more."""


class Generator(nn.Module):
    """First stage, style network and U-Net.

    Parameters
    ----------
    config
        Kinds and sizes of the networks.
    pretrained
        Start from the published weights that the configuration names.
    shape
        Architecture of the first stage where it is known already; its published weights are not read then.
    """

    def __init__(
        self, config: GeneratorConfig, *, pretrained: bool = True, shape: AutoencoderShape | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.first_stage = build_first_stage(config.first_stage, shape)
        self.style = build_style(config.style, pretrained=pretrained)
        self.unet = build_unet(config.unet, self.first_stage, config.style.dim, pretrained=pretrained)
        self.way = PARAMETRISATIONS[config.diffusion]
        self.register_buffer("deviation", torch.ones(self.first_stage.channels))

    @torch.no_grad()
    def fit_first_stage(self, images: Tensor) -> float:
        """Fit the first stage and measure the deviation of its latents, before training.

        Parameters
        ----------
        images
            float (batch, 3, height, width) in [−1, 1].

        Returns
        -------
        float
            Share of the variance of `images` that the first stage keeps.
        """
        kept = self.first_stage.fit(images)
        self.deviation.copy_(self.first_stage.encode(images).std((0, 2, 3)))
        return kept

    def style_vectors(self, styles: Tensor, has_style: Tensor) -> Tensor:
        """Return style vectors (batch, dim), the null vector where `has_style` is False.

        Parameters
        ----------
        styles
            Style images, float (batch, count, 3, side, side) in [−1, 1].
        has_style
            bool (batch,).
        """
        return self.style.with_null(self.style(styles), has_style)

    def bind(self, style: Tensor, layout: Tensor, has_layout: Tensor) -> Network:
        """Return the network with its conditions bound; see ``UNet.forward``."""
        return lambda x, noise: self.unet(x, noise, style, layout, has_layout)

    def denoise(self, x: Tensor, sigma: Tensor, style: Tensor, layout: Tensor, has_layout: Tensor) -> Tensor:
        """Return the estimate of the clean latent; see :func:`~stedm.generator.denoiser.estimate`."""
        return estimate(self.way, self.bind(style, layout, has_layout), x, sigma, self.deviation)

    def guided(self, style: Tensor | None, layout: Tensor, guidance: Guidance) -> Denoise:
        """Return the guided denoiser of some conditions.

        Parameters
        ----------
        style
            Style vectors, (batch, dim), or None for the null style, on which nothing leans.
        layout
            1 where foreground, else 0; float (batch, 1, tile, tile).
        guidance
            Scales and interval.
        """
        there = torch.ones(len(layout), dtype=torch.bool, device=layout.device)
        null = self.style.null.expand(len(layout), -1)
        if style is None:
            style, guidance = null, replace(guidance, style=1.0)

        def both(x: Tensor, sigma: Tensor) -> Tensor:
            return self.denoise(x, sigma, style, layout, there)

        def no_style(x: Tensor, sigma: Tensor) -> Tensor:
            return self.denoise(x, sigma, null, layout, there)

        def no_layout(x: Tensor, sigma: Tensor) -> Tensor:
            return self.denoise(x, sigma, style, layout, ~there)

        return guided(both, no_style, no_layout, guidance)


def save_generator(folder: Path, model: Generator) -> None:
    """Write the weights as safetensors, beside the settings that rebuild the networks."""
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / WEIGHTS)
    settings = json.loads(model.config.model_dump_json())
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
    if isinstance(model.first_stage, Autoencoder):
        (folder / FIRST_STAGE).write_text(json.dumps(asdict(model.first_stage.shape), indent=1) + "\n")


def load_generator(folder: Path, device: torch.device) -> Generator:
    """Read a generator, in evaluation mode.

    Raises
    ------
    UserError
        If the weights are missing or do not fit the settings beside them.
    """
    path = Path(folder) / WEIGHTS
    try:
        config = GeneratorConfig.model_validate_json((Path(folder) / SETTINGS).read_text())
        stored = Path(folder) / FIRST_STAGE
        shape = AutoencoderShape(**json.loads(stored.read_text())) if stored.exists() else None
        model = Generator(config, pretrained=False, shape=shape)
        model.load_state_dict(load_file(path), strict=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: the generator cannot be read ({reason}); train it again.") from error
    return model.to(device).eval()
