"""The authors' implementation (OettlM/STEDM on GitHub), run from a checkout of it.

The repository has no licence: nothing of it is copied here. Its own training module, U-Net, aggregation, sampler and
configuration are imported and called; what keeps them from running is put right in the running process alone:

- torchvision and taming-transformers are replaced by two small modules made of ours: a Swin-V2-T and a nearest-code
  look-up, of the same architecture, so that both sides have the same. Torchvision exists for few builds of torch.
- Its sampler moves every constant to a GPU; here they stay on the model's device.
- Published weights are not loaded: networks start at random, which takes as long.
- At reduced width the Swin has its width divided too, and the style vector the length that the U-Net takes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import types
from pathlib import Path

import pytorch_lightning  # noqa: F401
import torch
import torchmetrics  # noqa: F401
from torch import Tensor, nn

from stedm.errors import UserError
from stedm.generator.autoencoder import Codebook
from stedm.generator.swin import SwinV2

MARK = Path("networks") / "s_zss_dm.py"
"""A file that a checkout has."""
URL = "https://github.com/OettlM/STEDM"
NEEDED = ("einops", "hydra", "omegaconf")
ACCUMULATE = 4
"""Batches an optimiser step, as `train_diff.py` gives it to the trainer."""


def check_checkout(path: Path) -> None:
    """Say what is missing.

    Raises
    ------
    UserError
        If the folder is no checkout, or a package that the authors' code imports is not installed.
    """
    if not (path / MARK).is_file():
        raise UserError(f"{path}: {MARK} is missing, so this is no checkout; run git clone {URL} and give its folder.")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{path}: its code imports {', '.join(missing)}; install them beside stedm for this benchmark.")


class _Swin(nn.Module):
    """What the authors' code expects of torchvision: an encoder with a head that it replaces."""

    def __init__(self, divisor: int) -> None:
        super().__init__()
        self.body = SwinV2(96 // divisor)
        self.head: nn.Module = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class _Quantizer(nn.Module):
    """What the authors' code expects of taming: latents to their nearest codes, a loss and facts."""

    def __init__(self, codes: int, channels: int, **_: object) -> None:
        super().__init__()
        self.codebook = Codebook(codes, channels)

    def forward(self, latents: Tensor) -> tuple[Tensor, None, None]:
        return self.codebook(latents), None, None


def _stand_in(name: str, **values: object) -> None:
    """Put a module with some values, and the packages around it, where an import finds it."""
    whole = ""
    for part in name.split("."):
        parent, whole = sys.modules.get(whole), f"{whole}.{part}".lstrip(".")
        module = sys.modules.setdefault(whole, types.ModuleType(whole))
        if parent is not None:
            setattr(parent, part, module)
    vars(sys.modules[name]).update(values)


def _import(path: Path, divisor: int) -> type:
    """Return the authors' training module."""
    # Lightning and torchmetrics, imported above, look for torchvision and must not find the stand-in.
    _stand_in("torchvision.utils", make_grid=None)
    _stand_in("torchvision.models", get_model=lambda name: _Swin(divisor))
    _stand_in("taming.modules.vqvae.quantize", VectorQuantizer2=_Quantizer)
    sys.path.insert(0, str(path))
    from ldm.models.autoencoder import VQModel
    from ldm.models.diffusion.ddim import DDIMSampler
    from modules.ldm_diffusion import LDM_Diffusion

    VQModel.init_from_ckpt = lambda self, path, ignore_keys=(): None
    DDIMSampler.register_buffer = lambda self, name, value: setattr(
        self, name, value.to(self.model.device) if isinstance(value, Tensor) else value
    )
    return LDM_Diffusion


class Authors:
    """The authors' code as one side of the benchmark.

    Parameters
    ----------
    path
        A checkout.
    pixels, divisor, batch
        Side of an image, what all widths are divided by, and images a batch.
    generating
        Prepared by the configuration of `predict_diff.py`, else by that of `train_diff.py`.
    device
        Where.
    """

    accumulate, precision = ACCUMULATE, "32-true"

    def __init__(
        self, path: Path, *, pixels: int, divisor: int, batch: int, generating: bool, device: torch.device
    ) -> None:
        module = _import(path, divisor)
        from hydra import compose, initialize_config_dir

        width = 128 // divisor
        latents, unet = "diffusion.first_stage_config.params", "diffusion.unet_config.params"
        overrides = [
            *("data=her2", "style_sampling=mp", "style_agg=mean", "~diffusion.ckpt_path", "lr=1e-6"),
            *(f"data.batch_size={batch}", f"data.patch_size={pixels}", f"diffusion.image_size={pixels // 4}"),
            *(f"{latents}.ddconfig.ch={width}", f"{latents}.ddconfig.resolution={pixels}"),
            *(f"{unet}.model_channels={width}", f"{unet}.image_size={pixels // 4}"),
        ]
        with contextlib.redirect_stdout(io.StringIO()), initialize_config_dir(str(path / "conf"), version_base=None):
            config = compose("config_predict" if generating else "config_diff", overrides)
            self.module = module(config)
        self.config, self.model = config, self.module._model
        self.steps = config.get("ddim_steps")
        self.style, self.unet = self.model.agg_block, self.model.model
        if divisor > 1:
            encoder = self.style._embedder
            encoder.head = nn.Linear(encoder.body.width, 4 * width)
        self.module.to(device).train(not generating)
        self.latent = (self.model.channels, pixels // 4, pixels // 4)
        count = config.style_sampling.num_patches
        foreground = (torch.rand(batch, pixels, pixels, device=device) < 0.5).float()
        self.batch = [
            torch.rand(batch, 3, pixels, pixels, device=device) * 2 - 1,
            torch.stack([1 - foreground, foreground], 1),
            None,
            torch.rand(batch, count, 3, pixels, pixels, device=device) * 2 - 1,
            torch.arange(batch),
        ]
        self.styles = f"{count} × {pixels} px"
        self.optimiser = None if generating else self.module.configure_optimizers()

    def train_batch(self) -> None:
        """Run what a trainer runs for each batch, its optimiser step apart: loss, gradients, averages."""
        self.module.on_train_batch_start(self.batch, 0)
        self.module.training_step(self.batch, 0).backward()
        self.module.on_train_batch_end()

    def step(self) -> None:
        """Run the optimiser."""
        self.optimiser.step()
        self.optimiser.zero_grad()

    def encode(self) -> None:
        """Run the part of :meth:`train_batch` that makes latents."""
        self.model.encode_first_stage(self.batch[0])

    @torch.inference_mode()
    def generate(self, folder: Path, steps: int | None = None) -> None:
        """Draw a batch of images and write them to a folder, as its prediction step does."""
        self.config.ddim_steps = steps or self.steps
        self.module.predict_dir = str(folder)
        self.module.predict_step(self.batch, 0)

    @torch.inference_mode()
    def decode(self) -> None:
        """Run the part of :meth:`generate` that makes images of latents."""
        self.model.decode_first_stage(torch.zeros(len(self.batch[0]), *self.latent, device=self.module.device))
