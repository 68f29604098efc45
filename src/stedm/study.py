"""What one configuration asks for: a plan for each of its splits, and one view of all of them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from stedm.config import Config
from stedm.errors import UserError
from stedm.runs import Plan, Run

REVIEWED = ("real", "real-colour")
"""Arms that a review trains again: those that need no generator."""


class Study:
    """The plans of a configuration, one for each split, whose scores are pooled.

    Folds exchange the roles of the same patients: slides are acquired and cut once, by the first plan, and a patient
    is tested in one fold, so that pooling scores is putting their rows together.

    Parameters
    ----------
    config
        The configuration.
    root
        The project's root: manifest, ``data.dvc`` and results lie below it.

    Raises
    ------
    UserError
        If a manifest or a budget does not fit, a patient is tested in two folds, or folds differ in the patients
        that have no labels.
    """

    def __init__(self, config: Config, root: Path = Path()) -> None:
        self.config, self.root = config, Path(root)
        first = Plan(config, root)
        self.plans = [first]
        for number, column in enumerate(config.cohort.folds, start=1):
            cohort = config.cohort.model_copy(update={"split": column})
            fold = Plan(config.model_copy(update={"cohort": cohort}), root, fold=number, tiles=first.tiles)
            self._check_fold(fold, column)
            self.plans.append(fold)

    def _check_fold(self, fold: Plan, column: str) -> None:
        where = f"{self.config.cohort.manifest}: the fold {column!r}"
        for plan in self.plans:
            if twice := sorted(set(plan.patients("test")) & set(fold.patients("test"))):
                raise UserError(
                    f"{where} tests patient {twice[0]!r}, which {plan.config.cohort.split!r} tests too; a patient is "
                    "tested in one fold."
                )
        # Tiles are cut once: which slides have labels cannot depend on the fold.
        if set(self.plans[0].patients("unlabelled")) != set(fold.patients("unlabelled")):
            raise UserError(
                f"{where} has other patients in the split 'unlabelled' than {self.config.cohort.split!r}; they must "
                "be the same in every fold."
            )

    # ---- runs

    @property
    def tiles(self) -> Run:
        """The tile store of all plans."""
        return self.plans[0].tiles

    @cached_property
    def segmenters(self) -> list[tuple[Plan, Run]]:
        """All segmenters, each once, with the plan that it belongs to."""
        return list({run.id: (plan, run) for plan in self.plans for run in plan.segmenters}.values())

    @cached_property
    def scores(self) -> list[Run]:
        """The counts of all segmenters."""
        return [plan.scores(run) for plan, run in self.segmenters]

    @cached_property
    def searched(self) -> list[Run]:
        """The counts of the search for the strength of colour augmentation, of the first split alone."""
        return [self.plans[0].scores(run) for run in self.plans[0].searched]

    @cached_property
    def reviewed(self) -> list[Run]:
        """The counts of the segmenters that a review trains again, of the first split alone."""
        return [self.plans[0].scores(run) for run in self.plans[0].smallest(REVIEWED)]

    @cached_property
    def _found(self) -> dict[str, dict[str, tuple[Plan, Run]]]:
        found: dict[str, dict[str, tuple[Plan, Run]]] = {}
        for plan in self.plans:
            for stage, runs in plan.all.items():
                for name, run in runs.items():
                    found.setdefault(stage, {}).setdefault(name, (plan, run))
        return found

    @cached_property
    def all(self) -> dict[str, dict[str, Run]]:
        """Every run by stage and id."""
        return {stage: {name: run for name, (_, run) in runs.items()} for stage, runs in self._found.items()}

    def find(self, stage: str, name: str) -> tuple[Plan, Run]:
        """Return a run by its stage and id, with the plan that it belongs to.

        Raises
        ------
        UserError
            If the configuration has no such run.
        """
        runs = self._found.get(stage, {})
        if name not in runs:
            known = ", ".join(sorted(runs)) or "none"
            raise UserError(f"{stage}: the configuration {self.config.name!r} has no run {name!r}; it has {known}.")
        return runs[name]

    # ---- the view

    @property
    def view(self) -> Path:
        """Folder of the configuration's tables, figures and report."""
        return self.root / "results" / self.config.name
