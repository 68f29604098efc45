"""Experiments as data: the variants of a configuration that one table compares."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

from stedm.config import EXPERIMENTS, AxisValue, Config, Experiment, style_fault, validated
from stedm.errors import UserError

SAMPLING, AGGREGATION = "generator.style.sampling", "generator.style.aggregation"
IMPLIED: dict[tuple[str, AxisValue], dict[str, Any]] = {
    (AGGREGATION, "svit"): {"generator.style.path": None, "generator.style.frozen": False}
}
"""What a value of an axis brings with it: the aggregation svit has no encoder that weights could be loaded into."""
_FACTOR = re.compile(r"x(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Variant:
    """One combination of an experiment's values."""

    chosen: dict[str, AxisValue]
    """Dotted keys and values, as the experiment states them."""
    config: Config
    """The configuration with these values, and the arms and budgets of the experiment."""


def variants(config: Config, experiment: Experiment) -> tuple[list[Variant], list[dict[str, AxisValue]]]:
    """Return the valid combinations of an experiment's values for a configuration, and those that are not.

    Valid is what :func:`stedm.config.style_fault` says; the first valid combination is what others are compared with.

    Raises
    ------
    UserError
        If an axis is no setting, a value does not fit it, or no combination is valid.
    """
    source = str(EXPERIMENTS / f"{experiment.name}.yaml")
    budgets = [min(config.budgets)] if experiment.budgets == "smallest" else config.budgets
    made, invalid = [], []
    for chosen in itertools.product(*experiment.axes.values()):
        values = dict(zip(experiment.axes, chosen, strict=True))
        settings = config.model_dump(mode="json") | {"arms": experiment.arms, "budgets": budgets, "experiments": []}
        for key, value in values.items():
            _put(settings, key, value, source)
            for implied, other in IMPLIED.get((key, value), {}).items():
                _put(settings, implied, other, source)
        style = settings["generator"]["style"]
        if style_fault(config.cohort.name, style["sampling"], style["aggregation"]):
            invalid.append(values)
        else:
            made.append(Variant(values, validated(Config, settings, f"{source}: axes: {spelled(values)}")))
    if not made:
        raise UserError(f"{source}: axes: no combination is valid for the cohort {config.cohort.name}; add one.")
    return made, invalid


def spelled(values: dict[str, AxisValue]) -> str:
    """Spell a combination in a line, e.g. "sampling none, aggregation mean"; empty without axes."""
    return ", ".join(f"{key.rpartition('.')[2]} {shown(value)}" for key, value in values.items())


def shown(value: AxisValue) -> str:
    """Spell a value as YAML does."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _put(settings: dict[str, Any], key: str, value: Any, source: str) -> None:
    """Set a dotted key, a factor such as x0.5 as a multiple of the number that stands there."""
    *path, last = key.split(".")
    for part in path:
        settings = settings.get(part) if isinstance(settings, dict) else None
    if not isinstance(settings, dict) or last not in settings or isinstance(settings[last], dict):
        raise UserError(f"{source}: axes: {key!r} is no setting; docs/configuration.md lists them.")
    number = settings[last]
    if isinstance(value, str) and (factor := _FACTOR.fullmatch(value)):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise UserError(f"{source}: axes: {key!r} is no number, so {value} of it is none; name the value itself.")
        value = type(number)(round(number * float(factor[1]), 6))
    settings[last] = value
