"""Where torch computes, and with how many threads."""

from __future__ import annotations

import logging
import os
import shutil

import torch
from torch import nn

from stedm.errors import UserError
from stedm.provenance import peak_mb

log = logging.getLogger("stedm")


def use_device(device: str, threads: int) -> torch.device:
    """Choose the device and the number of threads.

    Raises
    ------
    UserError
        If `device` is ``cuda`` and torch sees no GPU.
    """
    torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("execution.device is 'cuda' and torch sees no GPU; use 'cpu' or 'auto'.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        log.info("device: %s", torch.cuda.get_device_name())
    return torch.device(device)


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Compile a network in place when it is first called (torch.compile); its tensors keep their names.

    Raises
    ------
    UserError
        If there is no C++ compiler, which the CPU needs.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise UserError(f"execution.compile needs the C++ compiler {compiler!r}; install it, or set it to false.")
    network.compile()


def peaks(device: torch.device) -> dict[str, float]:
    """Return the most memory that this process has taken so far, in MB, by where it lies."""
    found = {"resident": peak_mb()}
    if device.type == "cuda":
        found["of the GPU"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return found
