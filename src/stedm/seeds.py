"""Random numbers that depend on what they are for, never on the order in which work is done."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *labels: int | str) -> int:
    """Return a seed of 63 bits for one purpose of a run.

    Parameters
    ----------
    seed
        The run's seed.
    labels
        What the numbers are for, and which of them: a purpose, a step, an image's number.
    """
    text = "/".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def generator(seed: int, *labels: int | str) -> np.random.Generator:
    """Return a NumPy generator seeded by :func:`derive`."""
    return np.random.Generator(np.random.PCG64(derive(seed, *labels)))
