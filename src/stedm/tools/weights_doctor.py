"""The doctor's look at published weights: are the files there, and of the networks that the configuration builds?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from stedm.config import ARMS, Config
from stedm.errors import UserError
from stedm.tools.findings import Row

Part = tuple[str, Path | None, Callable[[], object]]


def examine_weights(config: Config) -> Iterator[Row]:
    """Compare the weights that a configuration names with its networks, tensor by tensor, by names and shapes."""
    for role, path, build in _parts(config):
        if path is not None:
            yield _compared(f"weights of the {role}", path, build)


def _parts(config: Config) -> Iterator[Part]:
    from stedm.generator.autoencoder import VQ_F4
    from stedm.generator.build import build_first_stage, build_style, build_unet
    from stedm.segmenter.network import build_segmenter

    generator = config.generator
    if any(ARMS[arm].style for arm in config.arms):
        first = generator.first_stage
        yield "first stage", first.path, lambda: build_first_stage(first)
        yield "style encoder", generator.style.path, lambda: build_style(generator.style)

        def unet() -> object:
            # Only the first stage's sizes count: where its file is missing they are those of VQ-f4, if it is one.
            absent = first.path is not None and not Path(first.path).exists()
            stage = build_first_stage(first, VQ_F4 if absent else None)
            return build_unet(generator.unet, stage, generator.style.dim)

        yield "U-Net", generator.unet.path, unet
    yield "segmenter", config.segmenter.path, lambda: build_segmenter(config.segmenter)


def _compared(what: str, path: Path, build: Callable[[], object]) -> Row:
    import torch

    try:
        # Networks without memory: names and shapes are all that is compared.
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            build()
    except UserError as error:
        return Row.of(what, error)
    files = [path] if path.is_file() else list(path.glob("*.safetensors"))
    return Row("PASS", what, f"{path}, {sum(file.stat().st_size for file in files) / 1e6:,.0f} MB, fit the network")
