"""Which runs a configuration needs: their identities, folders, inputs and settings.

A run's identity is a readable slug and eight hex digits of the canonical settings that it and its
ancestors use, so that equal runs of different experiments are one run. How work is executed (device,
threads, workers, jobs) is no part of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from stedm.cohort import Slide, labelled_patients, load_cohort, read_manifest
from stedm.cohort.base import SPLITS
from stedm.cohort.budget import drawn_order
from stedm.cohort.dvc import tracked
from stedm.config import ARMS, Config
from stedm.errors import UserError
from stedm.provenance import digest

SEARCH_STRENGTHS = (0.1, 0.2, 0.4)
"""Strengths of colour augmentation among which the search on training patients chooses."""
STAGES = ("cohort", "tiles", "autoencoder", "generator", "synthetic", "segmenter", "scores")
"""Stages that have runs, in the order of the workflow."""
TRANSFERRED = "transferred"
"""In place of a style sampling: labelled images in the colours of unlabelled patients."""


@dataclass(frozen=True)
class Run:
    """One product."""

    stage: str
    id: str
    folder: Path
    settings: dict[str, Any]
    """What the run's own stage depends on."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Arm, budget, seed, patients: where the run stands in the experiment."""
    inputs: dict[str, Run] = field(default_factory=dict)

    def folders(self, jobs: int) -> list[Path]:
        """Folders of the product: one, or of synthetic images the parts that several jobs draw."""
        return self.parts(jobs) if self.stage == "synthetic" else [self.folder]

    def parts(self, jobs: int) -> list[Path]:
        """Folders of a product that several jobs make, one each."""
        return [self.folder / f"part-{number}-of-{jobs}" for number in range(jobs)]


class Plan:
    """All runs of a configuration; computed from configuration and manifest, without any data.

    Parameters
    ----------
    config
        The configuration.
    root
        The project's root: manifest, ``data.dvc`` and results lie below it.
    fold
        Which of the configuration's folds this is; the patients of the first, 0, follow from its tiles.
    tiles
        The tile store of the first fold, which the others share.

    Raises
    ------
    UserError
        If the manifest is faulty or a budget is larger than the cohort.
    """

    def __init__(self, config: Config, root: Path = Path(), *, fold: int = 0, tiles: Run | None = None) -> None:
        self.config, self.root, self.fold, self._tiles = config, Path(root), fold, tiles
        self._labelled: dict[tuple[int | None, int], list[str]] = {}
        self.slides: list[Slide] = read_manifest(self.root / config.cohort.manifest, config.cohort.split)
        self.data = load_cohort(config.cohort, self.root)
        for split in ("train", "test"):
            if not self.patients(split):
                raise UserError(f"{config.cohort.manifest}: no slide has the split {split!r}; add some.")
        self.check(config.arms)

    def check(self, arms: Iterable[str]) -> None:
        """Check that every budget leaves the unlabelled patients that arms need; else raise a UserError."""
        needed = any(ARMS[arm].needs_unlabelled for arm in arms)
        for budget in self.config.budgets:
            for seed in self.config.seeds:
                labelled = self.labelled(budget, self.draw(seed))
                if needed and not self.unlabelled(labelled):
                    raise UserError(
                        f"budgets: with {budget} labelled patients of each class every training patient of "
                        f"{self.config.cohort.manifest} is labelled, so no unlabelled patient is left; lower it."
                    )

    def varied(self, config: Config) -> Plan:
        """Return a plan of the same patients and tiles whose models and arms are those of another configuration.

        Raises
        ------
        UserError
            If a budget leaves too few unlabelled patients.
        """
        plan = copy.copy(self)
        plan.config = config
        for name in ("autoencoder", "segmenters", "searched", "all"):
            vars(plan).pop(name, None)
        plan.check(config.arms)
        return plan

    # ---- patients

    def patients(self, split: str) -> list[str]:
        """Return the patients of a split, sorted."""
        return sorted({slide.patient for slide in self.slides if slide.split == split})

    def draw(self, seed: int) -> int:
        """Return the seed that draws the labelled patients and seeds the generator of a seed."""
        return seed if self.config.draw is None else self.config.draw

    def labelled(self, budget: int | None, seed: int) -> list[str]:
        """Return the labelled patients of a budget and seed; all training patients for None."""
        key = budget, self.draw(seed)
        if key not in self._labelled:
            self._labelled[key] = labelled_patients(self.slides, *key)
        return self._labelled[key]

    def unused(self, labelled: list[str]) -> list[str]:
        """Return the training patients that have labels and are not among the labelled ones."""
        return sorted(set(self.patients("train")) - set(labelled))

    def unlabelled(self, labelled: list[str]) -> list[str]:
        """Return the patients without labels: the unused ones, and those of the split `unlabelled`."""
        return sorted([*self.unused(labelled), *self.patients("unlabelled")])

    def styles(self, labelled: list[str], seed: int) -> list[str]:
        """Return the patients that give styles: of the unlabelled ones the configuration's share, drawn by a seed."""
        unlabelled, share = self.unlabelled(labelled), self.config.synthetic.style_share
        if share == 1:
            return unlabelled
        return sorted(drawn_order(unlabelled, self.draw(seed))[: max(1, round(share * len(unlabelled)))])

    def seen(self, labelled: list[str], seed: int) -> list[str]:
        """Return the unlabelled patients whose tiles train the generator."""
        unlabelled = self.unlabelled(labelled)
        if self.config.generator.see_styles:
            return unlabelled
        return sorted(set(unlabelled) - set(self.styles(labelled, seed)))

    @cached_property
    def _who(self) -> dict[str, Any]:
        """Patients by split, for runs of folds whose tiles do not tell."""
        return {"patients": {split: self.patients(split) for split in SPLITS}} if self._tiles else {}

    # ---- runs

    def _run(
        self,
        stage: str,
        slug: str,
        settings: dict[str, Any],
        inputs: dict[str, Run] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> Run:
        inputs, facts = inputs or {}, facts or {}
        if self.fold:
            slug, facts = f"{slug}-f{self.fold}" if slug else slug, {**facts, "fold": self.fold}
        identity = digest({"settings": settings, "inputs": {role: run.id for role, run in inputs.items()}})
        name = "-".join(part for part in (slug, identity) if part)
        folder = self.root / "results" / "runs" / self.config.cohort.name / stage / name
        return Run(stage, name, folder, settings, facts, inputs)

    @cached_property
    def cohort(self) -> Run:
        """The cohort's slides, acquired and verified."""
        config = self.config.cohort
        inside = self.data.data.is_relative_to(self.root)
        out = tracked(self.root, self.data.data.relative_to(self.root)) if inside else None
        settings = {
            # Where the files lie on this machine does not change what they are.
            "options": {key: value for key, value in config.options.items() if key not in ("path", "folder")},
            "slides": [vars(slide) for slide in self.slides],
            "data": out.md5 if out else None,
        }
        return self._run("cohort", "", settings)

    @cached_property
    def tiles(self) -> Run:
        """The tile store of the cohort."""
        if self._tiles is not None:
            return self._tiles
        settings = self.config.tiles.model_dump(mode="json")
        return self._run("tiles", "", settings, {"cohort": self.cohort})

    @cached_property
    def autoencoder(self) -> Run | None:
        """The autoencoder that is trained on the cohort's tiles; None where a first stage needs none."""
        config = self.config.generator.first_stage
        if config.train is None:
            return None
        settings = {"kind": config.kind, "autoencoder": config.train.model_dump(mode="json")}
        settings["patients"] = sorted([*self.patients("train"), *self.patients("unlabelled")])
        slug, facts = f"{config.kind}-f{config.patch}", {"seed": config.train.seed}
        return self._run("autoencoder", slug, settings, {"tiles": self.tiles}, facts)

    def generator(self, budget: int, seed: int) -> Run:
        """The generator of a budget and seed."""
        seed = self.draw(seed)
        config, style = self.config.generator, self.config.generator.style
        labelled = self.labelled(budget, seed)
        settings = {"generator": config.model_dump(mode="json"), "labelled": labelled, "seed": seed, **self._who}
        # Written where it holds only, so that other generators keep their identities.
        del settings["generator"]["see_styles"]
        if config.unlabelled and not config.see_styles:
            settings["unlabelled"] = self.seen(labelled, seed)
        slug = f"k{budget}-s{seed}-{style.sampling}-{style.aggregation}"
        inputs = {"tiles": self.tiles} | ({"autoencoder": self.autoencoder} if self.autoencoder else {})
        return self._run("generator", slug, settings, inputs, {"budget": budget, "seed": seed})

    def synthetic(self, budget: int, seed: int, sampling: str) -> Run:
        """The synthetic images of a budget, seed and style sampling (``none``: the null style)."""
        config, seed = self.config.synthetic, self.draw(seed)
        settings = {"synthetic": config.model_dump(mode="json"), "sampling": sampling, "seed": seed}
        if config.style_share == 1 or sampling == "none":
            del settings["synthetic"]["style_share"]
        return self._run(
            "synthetic",
            f"k{budget}-s{seed}-{sampling}",
            settings,
            {"tiles": self.tiles, "generator": self.generator(budget, seed)},
            {"budget": budget, "seed": seed, "sampling": sampling},
        )

    def transferred(self, budget: int, seed: int) -> Run:
        """The labelled images of a budget and seed in the colours of unlabelled patients; no generator is needed."""
        config, seed = self.config.synthetic, self.draw(seed)
        settings = {
            "synthetic": {"count": config.count, "foreground_share": config.foreground_share},
            "sampling": TRANSFERRED,
            "labelled": self.labelled(budget, seed),
            "seed": seed,
        }
        facts = {"budget": budget, "seed": seed, "sampling": TRANSFERRED}
        return self._run("synthetic", f"k{budget}-s{seed}-{TRANSFERRED}", settings, {"tiles": self.tiles}, facts)

    def segmenter(
        self,
        arm: str,
        budget: int,
        seed: int,
        *,
        colour_jitter: float | None = None,
        scored: str = "test",
    ) -> Run:
        """The segmenter of an arm.

        Parameters
        ----------
        arm, budget, seed
            Which one; the budget does not count where the arm uses all labels.
        colour_jitter
            Another strength of the colour augmentation than the configuration's (search).
        scored
            ``test``, or ``train`` for the training patients that are not labelled (search).
        """
        how = ARMS[arm]
        k = None if how.all_labels else budget
        labelled = self.labelled(k, seed)
        config = self.config.segmenter.model_dump(mode="json")
        # Settings that cannot change a run do not belong to its identity.
        if not how.colour:
            del config["colour_jitter"]
        elif colour_jitter is not None:
            config["colour_jitter"] = colour_jitter
        if how.style is None:
            del config["synthetic_share"]
        for method in ("mean_teacher", "pseudo_labels"):
            if how.unlabelled != method:
                del config[method]
        settings = {
            "segmenter": config,
            "colour": how.colour,
            "labelled": labelled,
            "seed": seed,
            "scored": scored,
            **self._who,
        }
        # Written where they hold only, so that the other arms keep their identities.
        settings |= {"normalised": True} if how.normalised else {}
        settings |= {"unlabelled": how.unlabelled} if how.unlabelled else {}
        inputs = {"tiles": self.tiles}
        if how.style == "transferred":
            inputs["synthetic"] = self.transferred(budget, seed)
        elif how.style is not None:
            sampling = "none" if how.style == "none" else self.config.generator.style.sampling
            inputs["synthetic"] = self.synthetic(budget, seed, sampling)
        slug = f"{arm}-s{seed}" if k is None else f"{arm}-k{k}-s{seed}"
        return self._run("segmenter", slug, settings, inputs, {"arm": arm, "budget": k, "seed": seed})

    def scores(self, segmenter: Run) -> Run:
        """The counts of a segmenter."""
        inputs = {"segmenter": segmenter, "tiles": self.tiles}
        run = self._run("scores", "", {}, inputs, segmenter.facts)
        slug = segmenter.id.rsplit("-", 1)[0]
        name = f"{slug}-{run.id}"
        return Run("scores", name, run.folder.with_name(name), {}, segmenter.facts, inputs)

    @cached_property
    def segmenters(self) -> list[Run]:
        """All segmenters of the configuration, each once."""
        config = self.config
        runs = [
            self.segmenter(arm, budget, seed)
            for budget in config.budgets
            for seed in config.seeds
            for arm in config.arms
        ]
        return list({run.id: run for run in runs}.values())

    def smallest(self, arms: tuple[str, ...]) -> list[Run]:
        """The segmenters of the first seed at the smallest budget, of those arms that the configuration has."""
        budget, seed = min(self.config.budgets), self.config.seeds[0]
        return [self.segmenter(arm, budget, seed) for arm in arms if arm in self.config.arms]

    @cached_property
    def searched(self) -> list[Run]:
        """Segmenters of the search for the strength of colour augmentation, on training patients only."""
        budget = min(self.config.budgets)
        return [
            self.segmenter("real-colour", budget, seed, colour_jitter=strength, scored="train")
            for seed in self.config.seeds
            for strength in SEARCH_STRENGTHS
        ]

    @cached_property
    def all(self) -> dict[str, dict[str, Run]]:
        """Every run by stage and id."""
        found: dict[str, dict[str, Run]] = {}

        def add(run: Run) -> None:
            found.setdefault(run.stage, {})[run.id] = run
            for source in run.inputs.values():
                add(source)

        for segmenter in [*self.segmenters, *self.searched]:
            add(self.scores(segmenter))
        return found
