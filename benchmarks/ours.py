"""This project's generator as one side of the benchmark against the authors'."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import nn

from stedm.config import PRESETS, GeneratorConfig, SyntheticConfig, UNetConfig
from stedm.generator import build
from stedm.generator.autoencoder import VQ_F4, AutoencoderShape
from stedm.generator.model import Generator
from stedm.generator.paper_unet import PaperUNet
from stedm.generator.sampler import SAMPLERS
from stedm.generator.swin import SwinV2
from stedm.generator.train import GeneratorTraining
from stedm.generator.unet import UNet
from stedm.synthetic.draw import guidance_of

ROOT = Path(__file__).parents[1]
FULL = 512
"""Side of an image for which the presets are made."""


def unet_parameters(config: UNetConfig, style: int) -> int:
    """Return the parameters of a U-Net for VQ-f4's latents and style vectors of a length, without building it."""
    kind = UNet if config.kind == "stedm" else PaperUNet
    with torch.device("meta"):
        unet = kind(latent=3, factor=4, channels=config.channels, blocks=config.blocks, style=style)
    return sum(p.numel() for p in unet.parameters())


def widened(config: UNetConfig, style: int, parameters: int) -> UNetConfig:
    """Return the U-Net whose widths, in their proportions, come nearest to a number of parameters."""
    first = config.channels[0]
    sized = [
        config.model_copy(update={"channels": [width * c // first for c in config.channels]})
        for width in range(8, 8 * first, 8)
    ]
    return min(sized, key=lambda unet: abs(unet_parameters(unet, style) - parameters))


def settings(
    preset: str, *, pixels: int, divisor: int, as_large: bool = False, style_images_as_theirs: bool = False
) -> tuple[GeneratorConfig, SyntheticConfig]:
    """Return a preset's settings without published weights, its widths divided, its style images in proportion."""
    values = _preset(preset)
    generator: dict[str, Any] = values["generator"]
    style, unet = generator["style"], generator["unet"]
    generator["first_stage"]["path"] = "none"
    style["path"] = unet["path"] = None
    style["dim"] //= divisor
    style["size"] = pixels if style_images_as_theirs else style["size"] * pixels // FULL
    if "channels" in style:
        style["channels"] = [width // divisor for width in style["channels"]]
    unet["channels"] = [width // divisor for width in unet["channels"]]
    config = GeneratorConfig.model_validate(generator)
    if as_large:
        paper = UNetConfig.model_validate(_preset("paper")["generator"]["unet"])
        theirs = paper.model_copy(update={"channels": [width // divisor for width in paper.channels]})
        wide = widened(config.unet, config.style.dim, unet_parameters(theirs, 4 * theirs.channels[0]))
        config = config.model_copy(update={"unet": wide})
    return config, SyntheticConfig.model_validate(values["synthetic"])


def _preset(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / PRESETS / f"{name}.yaml").read_text())


class Ours:
    """A preset as one side of the benchmark; see :class:`authors_code.Authors`, whose methods these are."""

    def __init__(self, *, batch: int, generating: bool, device: torch.device, **options: Any) -> None:
        pixels, divisor = options["pixels"], options["divisor"]
        self.config, self.synthetic = settings(**options)
        shape = AutoencoderShape(widths=tuple(width // divisor for width in VQ_F4.widths))
        # Of the Swin there is one size in the configuration.
        build.SwinV2 = partial(SwinV2, 96 // divisor)
        model = Generator(self.config, pretrained=False, shape=shape)
        model.unet.to(memory_format=torch.channels_last)
        self.training = GeneratorTraining(model, self.config, 0).to(device).train(not generating)
        self.model, self.device, self.number = model, device, 0
        self.unet: nn.Module = model.unet
        self.style: nn.Module = model.style
        style = self.config.style
        self.precision, self.accumulate = self.config.precision, self.config.accumulate
        self.styles = f"{style.count} × {style.size} px"
        self.latent = (model.first_stage.channels, pixels // 4, pixels // 4)
        yes = torch.ones(batch, dtype=torch.bool, device=device)
        self.batch = {
            "images": torch.rand(batch, 3, pixels, pixels, device=device) * 2 - 1,
            "layouts": (torch.rand(batch, 1, pixels, pixels, device=device) < 0.5).float(),
            "styles": torch.rand(batch, style.count, 3, style.size, style.size, device=device) * 2 - 1,
            "has_layout": yes,
            "has_style": yes,
        }
        self.optimiser = None if generating else self.training.configure_optimizers()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def train_batch(self) -> None:
        """Run what a trainer runs for each batch, its optimiser step apart."""
        with self._autocast():
            loss = self.training.loss(self.batch, self.number)
        loss.backward()
        self.number += 1

    def step(self) -> None:
        """Run the optimiser and the averages that follow it."""
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.training.stepped()

    @torch.no_grad()
    def encode(self) -> None:
        """Run the part of :meth:`train_batch` that makes latents."""
        with self._autocast():
            self.model.first_stage.encode(self.batch["images"])

    @torch.no_grad()
    def generate(self, folder: Path, steps: int | None = None) -> None:
        """Draw a batch of images as `stedm synthetic` does, and write them to a folder as the authors' code does."""
        layouts = self.batch["layouts"]
        denoise = self.model.guided(self.model.style(self.batch["styles"]), layouts, guidance_of(self.synthetic))
        sigmas = self.model.way.sigmas(steps or self.synthetic.steps).to(self.device)
        noise = torch.randn(len(layouts), *self.latent, device=self.device)
        latents = SAMPLERS[self.synthetic.sampler](denoise, noise, sigmas)
        images = ((self.model.first_stage.decode(latents).clamp(-1, 1) + 1) * 127.5).round().byte()
        for number, (image, layout) in enumerate(zip(images.cpu(), layouts.byte().cpu(), strict=True)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"image-{number}.png")
            Image.fromarray(layout[0].numpy()).save(folder / f"layout-{number}.png")

    @torch.no_grad()
    def decode(self) -> None:
        """Run the part of :meth:`generate` that makes images of latents."""
        self.model.first_stage.decode(torch.zeros(len(self.batch["images"]), *self.latent, device=self.device))
