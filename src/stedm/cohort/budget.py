"""Drawing patients: their order, and which of them a label budget labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from stedm.cohort.base import Slide
from stedm.errors import UserError


def drawn_order(patients: Iterable[str], seed: int) -> list[str]:
    """Return patients in the order of SHA-256 of ``<seed>/<patient>``: one that joins does not reshuffle the others."""
    return sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}/{patient}".encode()).digest())


def labelled_patients(slides: Iterable[Slide], budget: int | None, seed: int) -> list[str]:
    """Draw the labelled patients of the training split, `budget` of each class.

    They are the first of a class in :func:`drawn_order`, so that budgets are nested within a seed.

    Parameters
    ----------
    slides
        The manifest; only rows of the split ``train`` count.
    budget
        Labelled patients of each class, or None for all of them (the oracle).
    seed
        Seed of the draw.

    Returns
    -------
    list of str
        Patients, sorted.

    Raises
    ------
    UserError
        If a class has fewer training patients than the budget.
    """
    by_class: dict[str, set[str]] = {}
    for slide in slides:
        if slide.split == "train":
            by_class.setdefault(slide.group, set()).add(slide.patient)
    drawn: list[str] = []
    for group, patients in sorted(by_class.items()):
        if budget is not None and budget > len(patients):
            raise UserError(
                f"budgets: {budget} labelled patients of class {group!r} were asked for and the cohort has "
                f"{len(patients)} in its training split; lower the budget."
            )
        drawn += drawn_order(patients, seed)[:budget]
    return sorted(drawn)
