"""The generator as one module, and its weights on disk."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stedm.config import GeneratorConfig
from stedm.errors import UserError
from stedm.generator.autoencoder import Autoencoder, AutoencoderShape
from stedm.generator.build import build_first_stage, build_style, build_unet
from stedm.generator.denoiser import Denoiser

WEIGHTS = "weights.safetensors"
SETTINGS = "settings.json"
FIRST_STAGE = "first-stage.json"
"""Shape of an autoencoder, whose published files a saved generator does not need any more."""


class Generator(nn.Module):
    """First stage, style network and denoiser.

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
        self.denoiser = Denoiser(build_unet(config.unet, self.first_stage, config.style.dim, pretrained=pretrained))

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
