"""What an arm is called, where it stands in a list, and how it is drawn: the same in every table and figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """Colour (hex) and marker (matplotlib) of one arm; the marker repeats what the colour says."""

    colour: str
    marker: str


# Hues after Okabe and Ito (2008), which stay apart under colour blindness; lightness shifted so that each has a
# contrast of at least 3 on white and on the dark page. The hollow partner of an arm has the other marker family.
LOOKS = {
    "real": Look("#7a7a7a", "o"),
    "real-colour": Look("#c98500", "s"),
    "real-normalised": Look("#a8803e", "d"),
    "mean-teacher": Look("#8f6fc7", "P"),
    "mean-teacher-colour": Look("#b455c9", "p"),
    "pseudo-labels": Look("#7a8f1e", "h"),
    "pseudo-labels-colour": Look("#4f9a3a", "H"),
    "transferred": Look("#c06a5a", "<"),
    "transferred-colour": Look("#d83f4f", ">"),
    "synthetic-null": Look("#3fa3d9", "v"),
    "synthetic": Look("#1f77c4", "^"),
    "synthetic-colour": Look("#0a9472", "D"),
    "synthetic-pseudo": Look("#5b74e0", "8"),
    "synthetic-pseudo-colour": Look("#0f93a6", "s"),
    "synthetic-normalised": Look("#4d8fae", "d"),
    "oracle": Look("#c4669b", "X"),
    "oracle-colour": Look("#d5581a", "*"),
}
_SPARE = (Look("#8a8a2a", "h"), Look("#a0603c", "p"), Look("#5c8a8a", "<"), Look("#b05c5c", ">"))

MEANINGS = {
    "real": "labelled real images only",
    "real-colour": "real images with colour augmentation",
    "real-normalised": "labelled real images, the stains of every slide normalised",
    "mean-teacher": "real images, and agreement with an averaged teacher on unlabelled slides",
    "mean-teacher-colour": "the same with colour augmentation",
    "pseudo-labels": "real images, and the segmenter's own confident labels on unlabelled slides",
    "pseudo-labels-colour": "the same with colour augmentation",
    "transferred": "real images, and the same in the colours of unlabelled patients",
    "transferred-colour": "the same with colour augmentation",
    "synthetic-null": "real images and synthetic ones drawn with the null style",
    "synthetic": "real images and synthetic ones in the styles of unlabelled patients",
    "synthetic-colour": "real and synthetic images, with colour augmentation",
    "synthetic-pseudo": "real and synthetic images, and pseudo-labels on unlabelled slides",
    "synthetic-pseudo-colour": "the same with colour augmentation",
    "synthetic-normalised": "real and synthetic images, their stains normalised",
    "oracle": "all training patients labelled",
    "oracle-colour": "all training patients labelled, with colour augmentation",
}


def order(arms: Iterable[str]) -> list[str]:
    """Sort arm names as they stand in every list: known arms as in `LOOKS`, then others by name."""
    known = list(LOOKS)
    return sorted(set(arms), key=lambda arm: (known.index(arm) if arm in LOOKS else len(known), arm))


def look(arm: str, arms: Iterable[str] = ()) -> Look:
    """Return how `arm` is drawn; an unknown arm takes a spare look by its place among the unknown `arms`."""
    if arm in LOOKS:
        return LOOKS[arm]
    unknown = [name for name in order({*arms, arm}) if name not in LOOKS]
    return _SPARE[unknown.index(arm) % len(_SPARE)]


def uses_synthetic(arm: str) -> bool:
    """Say whether the arm trains on synthetic images."""
    return arm.startswith("synthetic")


def baseline_of(arm: str) -> str:
    """Return the arm of real images alone that `arm` adds something to: with colour augmentation where it has it."""
    return "real-colour" if arm.endswith("-colour") and arm != "real-colour" else "real"


def has_budget(arm: str) -> bool:
    """Say whether the arm is limited to a label budget; oracles have every label."""
    return not arm.startswith("oracle")


def budget_label(budget: int | None) -> str:
    """Spell a label budget, e.g. "3", or "all" for the arms that have none."""
    return "all" if budget is None else str(int(budget))
