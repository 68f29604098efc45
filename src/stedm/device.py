"""Where torch computes, and with how many threads."""

from __future__ import annotations

import logging

import torch

from stedm.errors import UserError

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
