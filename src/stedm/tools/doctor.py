"""What this machine and a configuration's data lack, all of it at once, each fault with its remedy."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from stedm.config import Config, load_config
from stedm.errors import UserError
from stedm.tools.cohort_doctor import examine_cohort, examine_files
from stedm.tools.findings import Row
from stedm.tools.weights_doctor import examine_weights

PYTHON = ((3, 11), (3, 14))
"""The first version that works and the first that is untried, as in pyproject.toml."""
SPACE_MB = 1024
"""Least disk space for the results of a run beside its tiles."""
WORKER_MB = 1024
"""Memory that a process which cuts, draws or trains may take."""


def examine(config: Path | None = None, slides: Sequence[Path] = (), root: Path = Path()) -> list[Row]:
    """Examine the machine, the published weights and the cohort of a configuration, and slides by path.

    Parameters
    ----------
    config
        A configuration, whose weights and cohort are examined.
    slides
        Slides that belong to no cohort.
    root
        The project's root.

    Returns
    -------
    rows
        All findings.

    Raises
    ------
    UserError
        If the configuration is missing or faulty.
    """
    loaded = None if config is None else load_config(config)
    needed, rows = (0, []) if loaded is None else examine_cohort(loaded, root)
    weights = [] if loaded is None else examine_weights(loaded)
    return [*_machine(loaded, root, needed), *weights, *rows, *examine_files(slides)]


def _machine(config: Config | None, root: Path, needed: int) -> Iterator[Row]:
    yield _python()
    yield _torch(config)
    yield from _decoders()
    yield from _dvc(root)
    yield _disk(root, needed)
    yield _memory(config)


def _python() -> Row:
    version = ".".join(map(str, sys.version_info[:3]))
    if PYTHON[0] <= sys.version_info[:2] < PYTHON[1]:
        return Row("PASS", "Python", version)
    first, untried = (".".join(map(str, limit)) for limit in PYTHON)
    return Row(
        "WARN", "Python", version, f"use Python {first} or newer, below {untried}: PYTHON=python{first} make setup"
    )


def _torch(config: Config | None) -> Row:
    try:
        import torch

        from stedm.device import use_device
    except (ImportError, OSError) as error:
        return Row("FAIL", "torch", f"cannot be loaded ({error})", "install the environment again: make setup")
    wanted = "auto" if config is None else config.execution.device
    try:
        device = use_device(wanted, torch.get_num_threads())
    except UserError as error:
        return Row.of("torch", error)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {os.cpu_count()} cores"
    return Row("PASS", "torch", f"{torch.__version__}, computes on: {name}")


def _decoders() -> Iterator[Row]:
    again = "install the environment again: make setup"
    try:
        import openslide

        yield Row("PASS", "OpenSlide", openslide.__library_version__)
    except (ImportError, OSError) as error:
        yield Row("FAIL", "OpenSlide", f"cannot be loaded ({error})", again)
    try:
        import pyvips

        yield Row("PASS", "libvips", ".".join(str(pyvips.version(n)) for n in range(3)))
    except (ImportError, OSError) as error:
        yield Row("FAIL", "libvips", f"cannot be loaded ({error})", again)


def _dvc(root: Path) -> Iterator[Row]:
    from stedm.cohort import dvc

    try:
        yield Row("PASS", "DVC", importlib.metadata.version("dvc"))
    except importlib.metadata.PackageNotFoundError:
        yield Row("FAIL", "DVC", "not installed", "install the environment again: make setup")
    what = "DVC remote"
    try:
        url = dvc.remote(root)
    except UserError as error:
        yield Row.of(what, error)
        return
    if url is None:
        remedy = "`dvc remote add --default NAME URL`, if data are to be pulled (docs/data.md)"
        yield Row("WARN", what, "none: what is lost is drawn or copied anew", remedy)
    elif "://" in url:
        yield Row("PASS", what, f"{url} (not contacted)")
    elif Path(url).is_dir():
        yield Row("PASS", what, url)
    else:
        yield Row("FAIL", what, f"{url}: no such folder", "mount it, or correct it with `dvc remote modify`")


def _disk(root: Path, needed: int) -> Row:
    free, needed = shutil.disk_usage(root).free / 2**20, SPACE_MB + needed / 2**20
    found = f"{free:,.0f} MB free, about {needed:,.0f} MB needed"
    if free < needed:
        return Row("FAIL", "disk", found, "make room, or cut at a coarser tiles.mpp or tiles.downsample")
    return Row("PASS", "disk", found)


def _memory(config: Config | None) -> Row:
    execution = None if config is None else config.execution
    workers = 1 if execution is None else max(1, execution.slide_workers, execution.synthetic_workers)
    free, needed = available_memory() / 2**20, workers * WORKER_MB
    found = f"{free:,.0f} MB available, about {needed:,} MB needed by {workers} worker{'s' * (workers > 1)}"
    if free < needed:
        return Row("FAIL", "memory", found, "close other programs, ask for more, or use fewer workers (execution)")
    return Row("PASS", "memory", found)


def available_memory() -> int:
    """Return the bytes that a new process can take: what the machine has free, or what its control group allows."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits = [next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))]
    except (OSError, StopIteration):
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    group = Path("/sys/fs/cgroup")
    # Without a control group there is no such file, without a limit it says "max".
    with contextlib.suppress(OSError, ValueError):
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(limits)
