"""What one configuration asks for: a plan for each of its splits, its experiments, and one view of all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stedm.config import AxisValue, Config, Experiment
from stedm.errors import UserError
from stedm.experiments import spelled, variants
from stedm.runs import Plan, Run

REVIEWED = ("real", "real-colour")
"""Arms that a review trains again: those that need no generator."""


@dataclass(frozen=True)
class VariantRuns:
    """One combination of an experiment's values, with a plan for each split."""

    chosen: dict[str, AxisValue]
    plans: list[Plan]

    @cached_property
    def scores(self) -> list[tuple[Plan, Run]]:
        """The counts of its segmenters, each with its plan."""
        return [(plan, plan.scores(run)) for plan in self.plans for run in plan.segmenters]


@dataclass(frozen=True)
class ExperimentRuns:
    """An experiment on one cohort: its variants, the first of which the others are compared with."""

    experiment: Experiment
    variants: list[VariantRuns]
    invalid: list[dict[str, AxisValue]]
    """Combinations of its values that mean nothing in this cohort and have no runs."""

    def described(self, scored: list[Any]) -> Any:
        """Return it as a report takes it (`stedm.report.variants.Experiment`), with its variants as scored."""
        from stedm.report.variants import Experiment as Described

        about, invalid = self.experiment, [spelled(values) for values in self.invalid]
        return Described(about.name, about.title, about.question, about.arms, scored, invalid)


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
        self.experiments = [self._runs_of(experiment) for experiment in config.experiments]

    def _runs_of(self, experiment: Experiment) -> ExperimentRuns:
        found, invalid = variants(self.config, experiment)
        made = []
        for one in found:
            configs = [one.config.model_copy(update={"cohort": plan.config.cohort}) for plan in self.plans]
            plans = [plan.varied(config) for plan, config in zip(self.plans, configs, strict=True)]
            made.append(VariantRuns(one.chosen, plans))
        return ExperimentRuns(experiment, made, invalid)

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
    def scored(self) -> list[tuple[Plan, Run]]:
        """The counts that the view shows, of the configuration's arms and of its experiments, each once."""
        own = [(plan, plan.scores(run)) for plan, run in self.segmenters]
        varied = [pair for made in self.experiments for variant in made.variants for pair in variant.scores]
        found: dict[str, tuple[Plan, Run]] = {}
        for plan, run in [*own, *varied]:
            found.setdefault(run.id, (plan, run))
        return list(found.values())

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
        others = [plan for made in self.experiments for variant in made.variants for plan in variant.plans]
        # A run that several plans share is the first one's: equal ids are equal settings.
        for plan in [*self.plans, *others]:
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
    def data_state(self) -> Any:
        """What changes when the cohort's data does."""
        return self.plans[0].data.state(self.plans[0].slides)

    @property
    def shown(self) -> dict[str, Any]:
        """The settings that change the view and no run."""
        settings = self.config.report.model_dump(mode="json")
        if self.experiments:
            settings["experiments"] = [made.experiment.model_dump(mode="json") for made in self.experiments]
        return settings

    @property
    def view(self) -> Path:
        """Folder of the configuration's tables, figures and report."""
        return self.root / "results" / self.config.name


class Studies:
    """The studies of one workflow: of a configuration, or of each that a collection includes.

    Raises
    ------
    UserError
        If one of them does not fit, or two would write the same view.
    """

    def __init__(self, configs: Iterable[Config], root: Path = Path()) -> None:
        self.all = [Study(config, root) for config in configs]
        names = [study.config.name for study in self.all]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"include: two configurations have the name {twice!r}, and would write the same results.")

    def named(self, name: str) -> Study:
        """Return the study of a name."""
        return next(study for study in self.all if study.config.name == name)

    def having(self, stage: str, name: str) -> Study:
        """Return the study that has a run; a UserError where none has."""
        found = next((study for study in self.all if name in study.all.get(stage, {})), None)
        if found is None:
            if len(self.all) == 1:
                self.all[0].find(stage, name)
            raise UserError(f"{stage}: no configuration has a run {name!r}; `stedm plan CONFIG --runs` lists them.")
        return found
