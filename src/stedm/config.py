"""The one configuration schema: every setting of a run, its type, range and default.

A run is one YAML file. It is checked when it is loaded: an unknown key, a wrong type or a value out of
range is a :class:`~stedm.errors.UserError` of one sentence. ``docs/configuration.md`` and
``config/schema.json`` are generated from this module (``make docs``), and a test fails when they drift.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from stedm.errors import UserError


class Section(BaseModel):
    """A group of settings; unknown keys are errors, and values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


Model = TypeVar("Model", bound=Section)
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]

EXPERIMENTS = Path("config") / "experiments"
"""Folder of the experiments, relative to the project's root."""
PRESETS = Path("config") / "presets"
"""Folder of the presets, relative to the project's root."""
PRESET_SECTIONS = ("generator", "synthetic", "segmenter")
"""What a preset may set, and an experiment vary: how models are made, never on which data."""


class CohortConfig(Section):
    """Which slides, and where they come from."""

    name: Name
    """The cohort's module in `stedm.cohort`, its folder in `data/` and in `results/runs/`."""
    manifest: Path
    """CSV of facts (slide, patient, class, split, checksums), relative to the project's root."""
    split: str = "split"
    """Column of the manifest that is the split: one manifest can hold several, such as folds of patients."""
    folds: list[str] = []
    """More such columns, each a fold: everything is run for `split` and for each of them, and the report pools the
    scores. A patient is tested in one of them."""
    options: dict[str, Any] = {}
    """Settings of this cohort's own; each cohort module documents and checks them."""


class TilesConfig(Section):
    """How slides are cut into the tile store."""

    mpp: Annotated[float, Field(gt=0)] | None = None
    """Working resolution in µm per pixel; needs slides that state theirs. Give this or `downsample`."""
    downsample: Annotated[float, Field(ge=1)] | None = None
    """Working resolution as a factor of the slide's level 0. Give this or `mpp`."""
    tile: Annotated[int, Field(ge=16, le=4096, multiple_of=16)] = 64
    """Side of a tile in working pixels: the chunk of the store and the window that the models see."""
    classes: list[str] = ["tumour"]
    """Annotated classes that are kept, as named in the annotations; label 1 is the first of them."""
    foreground: list[str] = ["tumour"]
    """The annotated classes that the layout and the segmenter call foreground."""
    min_tissue: Fraction = 0.1
    """Tiles with less tissue than this are not stored; with 0 no tissue is sought and all of a slide counts as such."""

    @model_validator(mode="after")
    def _one_resolution(self) -> TilesConfig:
        if (self.mpp is None) == (self.downsample is None):
            raise ValueError("give exactly one of mpp and downsample")
        missing = sorted(set(self.foreground) - set(self.classes))
        if missing:
            raise ValueError(f"foreground names {missing}, not among the classes {self.classes}")
        return self


class StyleConfig(Section):
    """How a style vector is taken from style images."""

    sampling: Literal["multi-patch", "nearby", "augmented", "none"] = "multi-patch"
    """Where style images are cut: anywhere in the tissue of the slide, around the tile, the tile itself under random
    affine maps (for photographs), or nowhere."""
    count: Annotated[int, Field(ge=1, le=64)] = 4
    """Style images a sample."""
    size: Annotated[int, Field(ge=8)] = 32
    """Side in pixels to which a style image is reduced by area means."""
    dim: Positive = 128
    """Length of the style vector."""
    encoder: Literal["conv", "swin-v2-t"] = "conv"
    """Network that makes a vector of a style image: a light convolutional one, or the paper's Swin-V2-T."""
    channels: list[Positive] = [24, 48, 96]
    """Widths of the encoder `conv`, one a halving."""
    path: Path | None = None
    """Weights of the encoder to start from (`.safetensors` or `.pth`; of `swin-v2-t` as torchvision has them)."""
    frozen: bool = False
    """The encoder keeps the weights of `path` and does not learn."""
    aggregation: Literal["mean", "max", "linear", "set", "svit"] = "mean"
    """How the vectors of a set become one: `set` is a transformer over them; `linear` and `svit` (on the images,
    without an encoder) are the paper's and bound to `count` and to the order of the set."""

    moments: bool = True
    """Add a linear map of the colour statistics of the set to the style vector (not in the paper)."""

    @model_validator(mode="after")
    def _encoder_fits(self) -> StyleConfig:
        if self.frozen and self.path is None:
            raise ValueError("frozen needs a path: a random encoder that does not learn is no style encoder")
        if self.aggregation == "svit" and (self.path is not None or self.size % 8):
            raise ValueError("the aggregation svit has no encoder for a path, and needs a size that is a multiple of 8")
        return self


class AutoencoderConfig(Section):
    """An autoencoder trained on the cohort's own tiles, where no published one is at hand; labels are not read."""

    channels: list[Annotated[int, Field(gt=0, multiple_of=8)]] = [64, 128, 256]
    """Widths, one a resolution; each next one has half the side, so that `patch` is 2 to the power of their number
    less one."""
    blocks: Positive = 1
    """Residual blocks a resolution of the encoder; the decoder has one more."""
    latent: Positive = 3
    """Channels of the latent."""
    codes: Annotated[int, Field(ge=2)] = 1024
    """Of `vq`: entries of the codebook."""
    commitment: Annotated[float, Field(ge=0)] = 0.25
    """Of `vq`: weight of the loss that keeps the encoder near its codes."""
    kl_weight: Annotated[float, Field(ge=0)] = 1e-6
    """Of `kl`: weight of the divergence from a standard normal, both losses counted a pixel's value."""
    steps: Positive = 20000
    """Optimiser steps."""
    batch: Positive = 8
    """Tiles a step."""
    lr: Annotated[float, Field(gt=0)] = 4e-4
    """Peak learning rate of AdamW (warm-up, then cosine to zero)."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Numbers in which the network is computed."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of its weights, tiles and noise; one autoencoder serves all budgets and seeds."""
    checkpoint_every: Positive = 500
    """Steps between two states from which a killed training goes on."""


class FirstStageConfig(Section):
    """The map between pixels and latents."""

    kind: Literal["pca", "pixels", "vq", "kl"] = "pca"
    """Whitened principal components of pixel patches, fitted on the training tiles; the pixels themselves; the
    paper's VQ-f4 or another VQ autoencoder; a KL autoencoder."""
    path: Path | None = None
    """Weights of `vq` and `kl`: a folder in diffusers' format, or the original `vq-f4.ckpt`."""
    train: AutoencoderConfig | None = None
    """Of `vq` and `kl`, in place of `path`: train the autoencoder on the cohort's own tiles."""
    patch: Annotated[int, Field(ge=1)] = 2
    """Side of a patch in pixels: the latent is smaller by this factor."""
    components: Positive = 6
    """Components kept by `pca`: the channels of the latent."""
    whitening: Fraction = 0.5
    """Of `pca`: 1 gives all components one deviation, 0 leaves them in proportion to their pixels. Below 1, large
    components are decided at higher noise levels than small ones, which is easier to learn."""

    @model_validator(mode="after")
    def _path_fits(self) -> FirstStageConfig:
        if self.kind not in ("vq", "kl"):
            if self.path is not None or self.train is not None:
                raise ValueError("a path belongs to the kinds vq and kl, and to no other; so does train")
        elif (self.path is None) == (self.train is None):
            raise ValueError("a path belongs to the kinds vq and kl, or train in its place")
        if self.train is not None and self.patch != (factor := 2 ** (len(self.train.channels) - 1)):
            raise ValueError(f"patch {self.patch} does not fit train.channels, whose factor is {factor}")
        return self

    @model_serializer(mode="wrap")
    def _without_train(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `train` where there is none: runs that were named before it existed keep their names."""
        values = dump(self)
        if self.train is None:
            del values["train"]
        return values


class UNetConfig(Section):
    """The denoising network."""

    kind: Literal["stedm", "paper"] = "stedm"
    """Ours, with the style in every block, or the paper's (channels [128, 512, 1024], 2 blocks)."""
    path: Path | None = None
    """Checkpoint of latent diffusion (`landscape.ckpt`) from which `paper` starts."""
    channels: list[Positive] = [32, 64, 128]
    """Widths, one a resolution; each next one has half the side."""
    blocks: Positive = 1
    """Residual blocks a resolution."""

    @model_validator(mode="after")
    def _kind_fits(self) -> UNetConfig:
        if self.kind != "paper" and self.path is not None:
            raise ValueError("a path belongs to the kind paper, and to no other")
        if self.kind == "paper" and any(width % 32 for width in self.channels):
            raise ValueError("the channels of the kind paper must be multiples of 32")
        return self


class GeneratorConfig(Section):
    """The diffusion model and its training."""

    style: StyleConfig = StyleConfig()
    first_stage: FirstStageConfig = FirstStageConfig()
    unet: UNetConfig = UNetConfig()
    diffusion: Literal["edm", "flow", "epsilon"] = "edm"
    """Parametrisation: EDM, linear flow matching, or the paper's ε-prediction, which belongs to `unet.kind: paper`."""
    steps: Positive = 1000
    """Optimiser steps."""
    batch: Positive = 16
    """Samples of a batch."""
    lr: Annotated[float, Field(gt=0)] = 2e-3
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Weight decay of AdamW."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """The learning rate after its warm-up: a cosine to zero, or constant."""
    accumulate: Positive = 1
    """Batches whose gradients are averaged for one optimiser step."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Numbers in which the networks are computed; weights and averages stay in 32 bits."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay a step of the averaged weights, which are the ones used; smaller in the first steps."""
    component_power: Fraction = 0.5
    """Weight of a latent component in the loss: its share of the pixels' variance to this power (0: all alike)."""
    unlabelled: bool = True
    """Train on tiles of unlabelled patients too, with the null layout."""
    unlabelled_share: Fraction = 0.5
    """Share of the samples drawn from unlabelled patients, where `unlabelled` is on."""
    see_styles: bool = True
    """Train on the unlabelled patients that give styles (`synthetic.style_share`), too; without, their styles are
    unseen."""
    foreground_share: Fraction = 0.5
    """Share of the labelled samples drawn from tiles with foreground."""
    colour_jitter: Annotated[float, Field(ge=0)] = 0.2
    """Strength of the colour jitter that an image shares with its style images; 0 switches it off."""
    drop_style: Fraction = 0.15
    """Share of the samples trained with the null style."""
    drop_layout: Fraction = 0.1
    """Share of the labelled samples trained with the null layout."""
    checkpoint_every: Positive = 100
    """Steps between two states from which a killed training goes on."""

    @model_validator(mode="after")
    def _diffusion_fits(self) -> GeneratorConfig:
        if (self.diffusion == "epsilon") != (self.unet.kind == "paper"):
            raise ValueError(
                f"diffusion {self.diffusion} does not fit unet.kind {self.unet.kind}: epsilon and paper belong together"
            )
        return self


class SyntheticConfig(Section):
    """Drawing labelled images in the styles of unlabelled patients."""

    count: Positive = 480
    """Images a setting."""
    sampler: Literal["dpm++2m", "heun", "ddim"] = "dpm++2m"
    """DPM-Solver++(2M), Heun's method (two evaluations a step), or DDIM."""
    steps: Annotated[int, Field(ge=2)] = 12
    """Steps of the sampler."""
    guidance: Annotated[float, Field(ge=0)] = 1.5
    """Guidance scale on the style; 1 is none."""
    layout_guidance: Annotated[float, Field(ge=0)] = 1.0
    """Guidance scale on the layout; 1 is none."""
    guidance_rescale: Fraction = 0.0
    """Share of the rescaling that keeps guided images from too much contrast."""
    guidance_interval: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]] = (0.0, 1000.0)
    """Lowest and highest noise level σ at which estimates are guided."""
    micro_batch: Positive = 16
    """Images drawn at once; part of what makes a pixel, so part of the run's identity."""
    affine: bool = True
    """Layouts get a random scale, shift, rotation and shear beside flips."""
    foreground_share: Fraction = 0.7
    """Share of the layouts drawn from tiles with foreground; the rest from any tile."""
    style_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the unlabelled patients, at least one, whose styles are drawn."""


class MeanTeacherConfig(Section):
    """Consistency with an averaged teacher on unlabelled patients, in the arms `mean-teacher…`."""

    weight: Annotated[float, Field(ge=0)] = 10.0
    """Weight of the squared difference of the probabilities of student and teacher."""
    ramp: Fraction = 0.4
    """Share of the steps over which the weight rises from nearly nothing."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay a step of the teacher's weights, which are the ones that predict; smaller in the first steps."""
    jitter: Annotated[float, Field(ge=0)] = 0.2
    """Strength of the colour jitter, drawn anew for each of the two."""


class PseudoLabelsConfig(Section):
    """Labels that the segmenter gives to tiles of unlabelled patients, in the arms with `pseudo`."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the cross-entropy against the pseudo-labels."""
    threshold: Annotated[float, Field(ge=0.5, lt=1)] = 0.8
    """Pixels count whose probability on the image as it is reaches this."""
    jitter: Annotated[float, Field(ge=0)] = 0.2
    """Strength of the colour jitter of the strongly augmented image."""
    cutout: Fraction = 0.25
    """Largest side of the square cut out of it, as a share of the tile's; the hole does not count."""


class SegmenterConfig(Section):
    """The segmenter and its training."""

    network: Literal["small", "mit-b2"] = "small"
    """A small U-Net, or the paper's with a MiT-B2 encoder."""
    path: Path | None = None
    """Weights of the encoder of `mit-b2` from ImageNet, as transformers has them (`.safetensors`)."""
    channels: list[Positive] = [24, 48, 96]
    """Widths of the network `small`, one a resolution."""
    steps: Positive = 200
    """Optimiser steps, the same for every arm."""
    batch: Positive = 16
    """Tiles a step."""
    lr: Annotated[float, Field(gt=0)] = 3e-3
    """Peak learning rate of AdamW (warm-up, then cosine to zero)."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Weight decay of AdamW."""
    foreground_share: Fraction = 0.5
    """Share of the real samples drawn from tiles with foreground."""
    synthetic_share: Fraction = 0.8
    """Share of the samples that are synthetic (or transferred), in arms that use such images."""
    colour_jitter: Annotated[float, Field(ge=0)] = 0.2
    """Strength of the colour augmentation in the `-colour` arms."""
    mean_teacher: MeanTeacherConfig = MeanTeacherConfig()
    pseudo_labels: PseudoLabelsConfig = PseudoLabelsConfig()
    validate_every: Positive = 50
    """Steps between two looks at the validation patients."""
    window: Annotated[int, Field(ge=32, multiple_of=16)] = 256
    """Side in pixels of the windows in which a slide is predicted."""
    margin: Annotated[int, Field(ge=0)] = 16
    """Width in pixels of a window's rim that gives context and is not kept."""
    checkpoint_every: Positive = 100
    """Steps between two states from which a killed training goes on."""

    @model_validator(mode="after")
    def _path_fits(self) -> SegmenterConfig:
        if self.network != "mit-b2" and self.path is not None:
            raise ValueError("a path belongs to the network mit-b2, and to no other")
        return self


class ReportConfig(Section):
    """Statistics and presentation."""

    resamples: Annotated[int, Field(ge=100)] = 2000
    """Bootstrap resamples of the patients."""
    seed: int = 0
    """Seed of the bootstrap."""


class ExecutionConfig(Section):
    """How the work is done; none of it belongs to a run's identity, all of it is recorded."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where torch sees one; `cuda` without a GPU is an error, never a fallback."""
    threads: Positive = 1
    """Torch threads of each training or sampling process."""
    devices: Positive = 1
    """GPUs of a node, or processes on the CPU, that train one generator; each takes its part of every batch."""
    nodes: Positive = 1
    """Machines that train one generator; above 1, a job of Slurm starts `stedm generator` once a device on each of its
    nodes, and elsewhere you do, by `torchrun`."""
    gpus: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Numbers of the GPUs that jobs on one machine share, each for one job at a time (one that stands twice, for two);
    by default all that are visible. Where Slurm has chosen, its choice holds."""
    scratch: Annotated[str, Field(pattern=r"^[/~$]")] | None = None
    """Folder on a node's own disk, such as `$TMPDIR`: tile stores are copied there once a node, checked, shared by its
    jobs and removed by the last of them. By default they are read where they lie."""
    compile: bool = False
    """Compile the generator's U-Net for its training (torch.compile): numbers agree to rounding, not to the bit."""
    channels_last: bool = True
    """Keep the U-Net's tensors in the order that convolutions are fastest in: numbers agree to rounding."""
    pictures: Annotated[int, Field(ge=0, le=3)] = 0
    """Pictures that a generator's training draws on its way, at even distances, beside the one at its end."""
    slide_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that draw slides or cut them into tiles; 0 works in the process itself."""
    loader_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that prepare the batches of a training; 0 prepares them in the process itself."""
    synthetic_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that draw synthetic images; 0 draws in the process itself."""
    synthetic_jobs: Positive = 1
    """Jobs into which one synthetic setting is divided."""


class Arm(Section):
    """One way to train a segmenter."""

    style: Literal["generator", "none", "transferred"] | None = None
    """Made images used beside the real ones: drawn in the style sampling of the generator, drawn with the null style,
    labelled images with the colours of unlabelled patients, or none."""
    colour: bool = False
    """Colour augmentation of the segmenter's training tiles."""
    normalised: bool = False
    """Stain normalisation of every slide, in training and prediction; of an image in another slide's style as of that
    slide."""
    unlabelled: Literal["mean_teacher", "pseudo_labels"] | None = None
    """How the segmenter itself learns from tiles of unlabelled patients; names a section of its settings."""
    all_labels: bool = False
    """Every training patient is labelled, whatever the budget."""

    @property
    def needs_unlabelled(self) -> bool:
        """Whether there must be unlabelled patients."""
        return self.style in ("generator", "transferred") or self.unlabelled is not None


ARMS: dict[str, Arm] = {
    "real": Arm(),
    "real-colour": Arm(colour=True),
    "real-normalised": Arm(normalised=True),
    "mean-teacher": Arm(unlabelled="mean_teacher"),
    "mean-teacher-colour": Arm(unlabelled="mean_teacher", colour=True),
    "pseudo-labels": Arm(unlabelled="pseudo_labels"),
    "pseudo-labels-colour": Arm(unlabelled="pseudo_labels", colour=True),
    "transferred": Arm(style="transferred"),
    "transferred-colour": Arm(style="transferred", colour=True),
    "synthetic": Arm(style="generator"),
    "synthetic-null": Arm(style="none"),
    "synthetic-colour": Arm(style="generator", colour=True),
    "synthetic-pseudo": Arm(style="generator", unlabelled="pseudo_labels"),
    "synthetic-pseudo-colour": Arm(style="generator", unlabelled="pseudo_labels", colour=True),
    "synthetic-normalised": Arm(style="generator", normalised=True),
    "oracle": Arm(all_labels=True),
    "oracle-colour": Arm(all_labels=True, colour=True),
}


def check_arms(arms: list[str]) -> list[str]:
    """Return names of arms if each is known and stands once."""
    for arm in arms:
        if arm not in ARMS:
            raise ValueError(f"unknown arm {arm!r}; there are {', '.join(ARMS)}")
    return check_once(arms)


def check_once(values: list) -> list:
    """Return values if each stands once."""
    if len(set(values)) != len(values):
        raise ValueError(f"an entry stands twice in {values}")
    return values


DEFAULT_ARMS = ["real", "real-colour", "synthetic", "synthetic-null", "synthetic-colour", "oracle", "oracle-colour"]


SAMPLINGS: dict[str, tuple[str, ...]] = {
    "flowers": ("none", "augmented"),
    "her2": ("none", "nearby", "multi-patch"),
    "catch": ("none", "nearby", "multi-patch"),
    "phantom": ("none", "nearby", "multi-patch"),
}
"""Style samplings that mean something in a cohort: a photograph has no second tile of the same slide, and a slide's
tile need not be its own style. Cohorts of users' own are free."""


def style_fault(cohort: str, sampling: str, aggregation: str) -> str | None:
    """Say why a style sampling and an aggregation are no valid combination for a cohort; None if they are."""
    valid = SAMPLINGS.get(cohort)
    if valid is not None and sampling not in valid:
        return f"the sampling {sampling} is none of {cohort}'s, which are {', '.join(valid)}"
    if aggregation != "mean" and sampling != "multi-patch":
        return f"the aggregation {aggregation} belongs to the sampling multi-patch, not to {sampling}"
    return None


AxisValue = bool | int | float | str


class Experiment(Section):
    """One table and figure: what is varied, and in which arms it is looked at."""

    name: Name
    """Name of its file in `config/experiments/`, which does not state it."""
    title: str
    """Title of its table."""
    question: str
    """What it asks, in one sentence."""
    cohorts: Annotated[list[Name], Field(min_length=1)]
    """Cohorts to which it applies."""
    arms: Annotated[list[str], Field(min_length=1)]
    """Ways to train a segmenter that are compared; without axes, each with the first."""
    budgets: Literal["smallest", "all"] = "smallest"
    """Label budgets of the run at which it is looked at."""
    axes: dict[str, Annotated[list[AxisValue], Field(min_length=1)]] = {}
    """Settings that vary, as dotted keys (`synthetic.guidance`) with their values; `x0.5` is half the run's own
    number. All valid combinations are run; each is compared with the first of them."""

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, arms: list[str]) -> list[str]:
        return check_arms(arms)

    @field_validator("axes")
    @classmethod
    def _axes_fit(cls, axes: dict[str, list[AxisValue]]) -> dict[str, list[AxisValue]]:
        for key, values in axes.items():
            if key.split(".")[0] not in PRESET_SECTIONS:
                raise ValueError(f"{key!r} is no setting of {', '.join(PRESET_SECTIONS)}, which alone can vary")
            check_once(values)
        return axes


class Config(Section):
    """A run: one cohort, its experiments and how they are reported."""

    name: Name
    """Name of the run: its tables, figures and report lie in `results/<name>/`."""
    title: str = ""
    """Title of the report."""
    preset: Name | None = None
    """Name of a file in `config/presets/`: its settings hold where this file is silent. The report states the name
    beside each number."""
    cohort: CohortConfig
    tiles: TilesConfig
    budgets: Annotated[list[Positive], Field(min_length=1)] = [1]
    """Label budgets: labelled patients of each class."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    """Each seed draws the labelled patients and seeds the generator, its images and the segmenter."""
    draw: Annotated[int, Field(ge=0)] | None = None
    """One seed for the labelled patients, the generator and its images of all `seeds`, which then seed the
    segmenter alone; by default each seed has its own."""
    arms: Annotated[list[str], Field(min_length=1)] = DEFAULT_ARMS
    """Ways to train a segmenter that are compared."""
    experiments: list[Name | Experiment] = []
    """Names of files in `config/experiments/`, each a table and a figure of the report, whose runs are made too."""
    generator: GeneratorConfig = GeneratorConfig()
    synthetic: SyntheticConfig = SyntheticConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    report: ReportConfig = ReportConfig()
    execution: ExecutionConfig = ExecutionConfig()

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, arms: list[str]) -> list[str]:
        return check_arms(arms)

    @field_validator("seeds", "budgets")
    @classmethod
    def _no_duplicates(cls, values: list) -> list:
        return check_once(values)

    @field_validator("experiments")
    @classmethod
    def _each_once(cls, experiments: list) -> list:
        check_once([one if isinstance(one, str) else one.name for one in experiments])
        return experiments

    @model_validator(mode="after")
    def _style_fits(self) -> Config:
        style = self.generator.style
        if fault := style_fault(self.cohort.name, style.sampling, style.aggregation):
            raise ValueError(f"generator.style: {fault}")
        if self.generator.unlabelled and not self.generator.see_styles and self.synthetic.style_share == 1:
            raise ValueError("generator.see_styles false needs synthetic.style_share below 1: some must be seen")
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> Config:
        latent, rest = divmod(self.tiles.tile, self.generator.first_stage.patch)
        halvings = 2 ** (len(self.generator.unet.channels) - 1)
        if rest or latent % halvings:
            raise ValueError(
                f"tiles.tile {self.tiles.tile} must be a multiple of generator.first_stage.patch × {halvings}"
            )
        pixels = 3 * self.generator.first_stage.patch**2
        if self.generator.first_stage.kind == "pca" and self.generator.first_stage.components > pixels:
            raise ValueError(f"generator.first_stage.components is more than the {pixels} values of a patch")
        if self.tiles.tile % self.generator.style.size:
            raise ValueError(f"generator.style.size must divide tiles.tile {self.tiles.tile}")
        if self.segmenter.network == "mit-b2" and self.tiles.tile < 32:
            raise ValueError(f"segmenter.network mit-b2 needs tiles.tile of at least 32, not {self.tiles.tile}")
        if self.generator.batch % (self.execution.devices * self.execution.nodes):
            raise ValueError(
                f"generator.batch {self.generator.batch} must be a multiple of execution.devices × execution.nodes"
            )
        if self.segmenter.window <= 2 * self.segmenter.margin:
            raise ValueError("segmenter.window must be larger than twice segmenter.margin")
        return self


class Collection(Section):
    """Several runs in one workflow: each is a configuration, with a view of its own in `results/<name>-<its name>/`."""

    name: Name
    """Name of the collection, which stands before the names of its runs."""
    include: Annotated[list[Path], Field(min_length=1)]
    """Configurations, relative to the project's root."""
    experiments: list[Name | Experiment] = []
    """Names of files in `config/experiments/`; each is part of the runs to whose cohorts it applies."""


def parse_configs(values: dict[str, Any], source: str = "the configuration") -> list[Config]:
    """Check plain values that are one run, or that include several; errors are those of :func:`parse_config`."""
    if "include" not in values:
        return [parse_config(values, source)]
    both = validated(Collection, values, source)
    experiments = [_read_experiment(one, source) for one in both.experiments]
    runs, used = [], set()
    for path in both.include:
        own = read_yaml(path)
        cohort = own.get("cohort", {}).get("name") if isinstance(own.get("cohort"), dict) else None
        fitting = [one for one in experiments if cohort in one.cohorts]
        used |= {one.name for one in fitting}
        added = {"name": f"{both.name}-{own.get('name')}", "experiments": [*own.get("experiments", []), *fitting]}
        runs.append(parse_config(own | added, f"{path} (included by {source})"))
    if idle := [one.name for one in experiments if one.name not in used]:
        raise UserError(f"{source}: experiments: {idle[0]!r} applies to none of the cohorts included; leave it out.")
    return runs


def parse_config(values: dict[str, Any], source: str = "the configuration") -> Config:
    """Check plain values against the schema; the preset that they name holds where they are silent.

    Raises
    ------
    UserError
        One sentence with the source, the place of the first fault, what was found and what is allowed.
    """
    if isinstance(name := values.get("preset"), str):
        values = _merged(_read_preset(name, source), values)
    if isinstance(named := values.get("experiments"), list):
        values = values | {"experiments": [_read_experiment(one, source) for one in named]}
    config = validated(Config, values, source)
    for experiment in config.experiments:
        if config.cohort.name not in experiment.cohorts:
            raise UserError(
                f"{source}: experiments: {experiment.name!r} is of the cohorts {', '.join(experiment.cohorts)}, not of "
                f"{config.cohort.name}; leave it out."
            )
    return config


def validated(model: type[Model], values: dict[str, Any], source: str) -> Model:
    """Check plain values against a section of the schema, or raise a UserError that names `source`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {describe(error)}") from None


def _read_experiment(one: Any, source: str) -> Any:
    """Read the experiment of a name, or check the mapping that a resolved configuration holds."""
    if isinstance(one, dict):
        return validated(Experiment, one, f"{source}: experiments")
    if not isinstance(one, str):
        return one
    path = EXPERIMENTS / f"{one}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in EXPERIMENTS.glob("*.yaml"))) or "none"
        raise UserError(f"{source}: experiments: {path} does not exist; there are {known}.")
    return validated(Experiment, read_yaml(path) | {"name": one}, str(path))


def _read_preset(name: str, source: str) -> dict[str, Any]:
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml"))) or "none"
        raise UserError(f"{source}: preset: {path} does not exist; there are {known}.")
    values = read_yaml(path)
    if surplus := sorted(set(values) - set(PRESET_SECTIONS)):
        raise UserError(
            f"{path}: {surplus[0]!r} is none of {', '.join(PRESET_SECTIONS)}; move it to the run's own file."
        )
    return values


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another, nested ones too."""
    both = {
        key: _merged(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], dict) and isinstance(above[key], dict)
    }
    return {**below, **above, **both}


def describe(error: ValidationError) -> str:
    """Say the first fault of a pydantic error in one sentence."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"unknown key {place!r}; correct or remove it (docs/configuration.md lists the keys)."
    if first["type"] == "missing":
        return f"the key {place!r} is missing; add it (docs/configuration.md describes it)."
    found = first["input"]
    shown = "" if isinstance(found, dict | BaseModel) else f", found {found!r}"
    return f"{place}: {message[0].lower()}{message[1:]}{shown}."


def load_configs(path: Path) -> list[Config]:
    """Read a YAML file that is one run or includes several; errors are those of :func:`load_config`."""
    return parse_configs(read_yaml(path), str(path))


def load_config(path: Path) -> Config:
    """Read a YAML file and check it.

    Raises
    ------
    UserError
        If the file is missing, is no YAML mapping, does not fit the schema, or includes several runs.
    """
    values = read_yaml(path)
    if "include" in values:
        views = ", ".join(f"results/{one.name}/config.yaml" for one in parse_configs(values, str(path)))
        raise UserError(f"{path}: includes several runs; name one, which the workflow writes as it starts: {views}.")
    return parse_config(values, str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that is a mapping; a UserError says what is wrong with another."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a configuration such as config/demo.yaml.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({str(error).splitlines()[-1].strip()}).") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of settings, found {type(values).__name__}.")
    return values


def canonical(value: Any) -> str:
    """Return JSON that is the same for equal settings: sorted keys, no spaces."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
