"""The generator as one module, and its weights on disk."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stedm.config import GeneratorConfig
from stedm.errors import UserError
from stedm.generator.denoiser import Denoiser
from stedm.generator.first_stage import PatchPCA
from stedm.generator.style import StyleNet
from stedm.generator.unet import UNet

WEIGHTS = "weights.safetensors"
SETTINGS = "settings.json"


class Generator(nn.Module):
    """First stage, style network and denoiser.

    Parameters
    ----------
    config
        Sizes of the networks.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.first_stage = PatchPCA(config.first_stage.patch, config.first_stage.components)
        self.style = StyleNet(config.style.channels, config.style.dim)
        self.denoiser = Denoiser(
            UNet(
                latent=config.first_stage.components,
                factor=config.first_stage.patch,
                channels=config.unet.channels,
                blocks=config.unet.blocks,
                style=config.style.dim,
            )
        )

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
        model = Generator(config)
        model.load_state_dict(load_file(path), strict=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: the generator cannot be read ({reason}); train it again.") from error
    return model.to(device).eval()
