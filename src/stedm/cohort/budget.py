"""Label budgets: which patients are labelled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from stedm.cohort.base import Slide
from stedm.errors import UserError


def labelled_patients(slides: Iterable[Slide], budget: int | None, seed: int) -> list[str]:
    """Draw the labelled patients of the training split, `budget` of each class.

    The order of a class's patients is a hash of the seed and the patient, so that budgets are nested
    within a seed, and a patient that joins the cohort does not reshuffle the others.

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
        order = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}/{patient}".encode()).digest())
        drawn += order[:budget]
    return sorted(drawn)
