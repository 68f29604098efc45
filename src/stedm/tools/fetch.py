"""Fetching a cohort: what, how large, under which licence, and only after consent."""

from __future__ import annotations

import logging
from pathlib import Path

from stedm.cohort import load_cohort
from stedm.config import load_config
from stedm.errors import UserError

log = logging.getLogger("stedm")


def fetch_cohort(path: Path, *, consent: bool, root: Path = Path()) -> None:
    """Say where the cohort of a configuration comes from; download it where that was consented to.

    Parameters
    ----------
    path
        The configuration.
    consent
        Whether the user agrees to licence and size.
    root
        The project's root.

    Raises
    ------
    UserError
        If the cohort has no source, or the download fails; what has come is kept and gone on from.
    """
    config = load_config(path).cohort
    cohort = load_cohort(config, root)
    if not hasattr(cohort, "source"):
        raise UserError(f"{path}: the cohort {config.name!r} is drawn by code or your own; there is nothing to fetch.")
    source = cohort.source()
    log.info("%s, %s", source.title, source.version)
    for label, text in (
        ("from", source.where),
        ("size", source.size),
        ("licence", source.licence),
        ("ask", source.ask),
    ):
        log.info("  %-8s %s", label, text)
    if source.by_hand:
        log.info("No command can fetch it: %s.", source.by_hand)
        return
    if not consent:
        log.info("Nothing was downloaded. If you agree to licence and size: stedm fetch %s --yes", path)
        return
    cohort.fetch()
    log.info(
        "%s: complete. To record its checksums in the manifest and in data.dvc: stedm cohort %s --freeze",
        cohort.data,
        path,
    )
    log.info("Then, where the project has a DVC remote (docs/data.md): dvc commit data.dvc && dvc push")
