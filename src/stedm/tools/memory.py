"""How much main memory the jobs that train and draw ask for."""

from __future__ import annotations

from stedm.config import Config

SMALL_MB = 4000
"""For networks of the demo's size on tiles of 64 pixels, of which at most 0.8 GB were seen to be used."""
LARGE_MB = 9000
"""For the presets on tiles of 256 and 512 pixels: 6.0 GB were seen on a CPU at a quarter of their width, with half as
much to spare. At their full width they have not been measured."""


def memory_mb(config: Config) -> int:
    """Return the main memory, in MB, that a job which trains or draws by a configuration asks for."""
    return SMALL_MB if config.preset in (None, "demo") else LARGE_MB
