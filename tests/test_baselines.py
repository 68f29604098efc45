"""Baselines: normalisation, transferred colours, mean teacher and pseudo-labels, on cases with known answers."""

import numpy as np
import pytest
import torch
from conftest import MINI, one_sentence
from torch import nn

from stedm import stain
from stedm.config import (
    ARMS,
    DEFAULT_ARMS,
    MeanTeacherConfig,
    PseudoLabelsConfig,
    SegmenterConfig,
    SyntheticConfig,
    parse_config,
)
from stedm.errors import UserError
from stedm.provenance import Product
from stedm.report.arms import LOOKS, MEANINGS
from stedm.runs import Plan
from stedm.segmenter.data import TrainingBatches
from stedm.segmenter.loss import segmentation_loss
from stedm.segmenter.network import SmallUNet
from stedm.segmenter.normalise import NormalisedTiles, normalising_maps, reference_of
from stedm.segmenter.train import SegmenterTraining
from stedm.segmenter.unlabelled import MeanTeacher, PseudoLabels, build_learner, draw_hole, unlabelled_batches
from stedm.synthetic.transfer import draw_transferred
from stedm.tiles.store import UNKNOWN, StoredSlide, StoreWriter, TileStore
from stedm.tiles.windows import WindowPool
from stedm.training import fit

SIDE, TILE = 96, 32
CPU = torch.device("cpu")
STAINS = {
    # Densities of two stains in their columns, and how strong each is.
    "a": (np.array([[0.65, 0.27], [0.70, 0.57], [0.29, 0.78]]), (1.4, 1.6)),
    "b": (np.array([[0.60, 0.40], [0.75, 0.50], [0.28, 0.77]]), (1.9, 1.2)),
    "c": (np.array([[0.75, 0.20], [0.60, 0.65], [0.28, 0.73]]), (1.2, 1.9)),
}
CONFIG = SegmenterConfig(steps=8, batch=2, channels=[4, 8], checkpoint_every=3, validate_every=4, window=64, margin=8)


def amounts(seed: int) -> np.ndarray:
    """Amounts of two stains in one tissue, (2, SIDE, SIDE): regions of either alone, of both, and of little."""
    random = np.random.default_rng(seed)
    fields = [np.kron(random.uniform(0, 1, (12, 12)), np.ones((8, 8))) for _ in range(2)]
    kind = np.kron(random.integers(4, size=(24, 24)), np.ones((4, 4)))
    return np.stack([fields[0] * (kind != 1), fields[1] * (kind != 0)]) * np.where(kind == 3, 0.1, 1)


def painted(amount: np.ndarray, patient: str) -> np.ndarray:
    vectors, strength = STAINS[patient]
    density = np.einsum("cs,s,shw->hwc", vectors / np.linalg.norm(vectors, axis=0), strength, amount)
    return np.round(255 * np.exp(-density)).astype(np.uint8)


def write_store(folder, seeds: dict[str, int], labels=lambda patient, amount: amount[1] > amount[0]) -> TileStore:
    """Write a slide for each patient: the tissue of a seed in the patient's stains."""
    folder.mkdir()
    writer = StoreWriter(folder, tile=TILE, classes=["tumour"], foreground=["tumour"])
    corners = [(x, y) for y in range(0, SIDE, TILE) for x in range(0, SIDE, TILE)]
    for patient, seed in seeds.items():
        image, label = painted(amounts(seed), patient), labels(patient, amounts(seed)).astype(np.uint8)
        cut = [(slice(y, y + TILE), slice(x, x + TILE)) for x, y in corners]
        rows = [
            {"x": x, "y": y, "tissue": 1.0, "foreground": None if UNKNOWN in label[at] else float(label[at].mean())}
            for (x, y), at in zip(corners, cut, strict=True)
        ]
        slide = StoredSlide(f"slide-{patient}", patient, "0", "train", SIDE, SIDE, 1.0, 4.0)
        writer.add(slide, np.stack([image[at] for at in cut]), np.stack([label[at] for at in cut]), rows)
    writer.finish()
    return TileStore(folder)


@pytest.fixture(scope="session")
def same(tmp_path_factory):
    """One tissue in three stains."""
    return write_store(tmp_path_factory.mktemp("same") / "store", dict.fromkeys(STAINS, 1))


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    """A tissue of its own for each of three stains."""
    return write_store(tmp_path_factory.mktemp("other") / "store", {"a": 1, "b": 2, "c": 3})


def whole(store: TileStore, patient: str) -> tuple[np.ndarray, np.ndarray]:
    return store.window(f"slide-{patient}", 0, 0, SIDE, SIDE)


# ---- normalisation


@pytest.mark.parametrize("patient", STAINS)
def test_stains_are_found(same, patient):
    vectors, strength = STAINS[patient]
    found = stain.find_stains(stain.slide_pixels(same, f"slide-{patient}"), patient)
    cosines = (found.vectors[:, :2] * vectors / np.linalg.norm(vectors, axis=0)).sum(0)
    assert np.rad2deg(np.arccos(cosines)).max() < 2
    density = stain.densities(stain.slide_pixels(same, f"slide-{patient}"))
    wanted = np.array(strength) * np.percentile(amounts(1).reshape(2, -1), 99, axis=1)
    assert len(density) == SIDE**2 and found.strength == pytest.approx(wanted, rel=0.05)


def test_two_stains_of_one_tissue_come_together(same):
    store = NormalisedTiles(same, normalising_maps(same, ["a"], ["b", "c"])[1])
    target, layout = whole(same, "a")
    for patient in "bc":
        before, after = (whole(s, patient)[0].astype(int) - target for s in (same, store))
        assert abs(before).mean() > 6 and abs(after).mean() < 1.5
        assert np.array_equal(whole(store, patient)[1], layout)


def test_normalisation_leaves_the_reference_as_it_is(same):
    reference, maps = normalising_maps(same, ["a"], ["b"])
    store = NormalisedTiles(same, maps)
    assert reference == "slide-a" and maps.keys() == {"slide-a", "slide-b"}
    assert np.array_equal(whole(store, "a")[0], whole(same, "a")[0])
    assert not np.array_equal(whole(store, "b")[0], whole(same, "b")[0])


def test_the_reference_is_a_labelled_slide_in_the_middle(same):
    stains = {name: stain.find_stains(stain.slide_pixels(same, f"slide-{name}"), name) for name in STAINS}
    weak, strong = (stain.Stains(stains["a"].vectors, stains["a"].strength * factor) for factor in (0.5, 1.4))
    assert reference_of({"weak": weak, "a": stains["a"], "strong": strong}) == "a"
    assert normalising_maps(same, ["b"], ["a", "c"])[0] == "slide-b"


def test_what_has_no_two_stains_is_one_sentence():
    glass = np.full((5000, 3), 250, np.uint8)
    with pytest.raises(UserError, match="slide-x: 0 stained pixels are too few"):
        stain.find_stains(glass, "slide-x")
    one_hue = np.round(255 * np.exp(-np.linspace(0.5, 2, 5000)[:, None] * np.array([0.6, 0.7, 0.3]))).astype(np.uint8)
    with pytest.raises(UserError, match="slide-x: its pixels have one hue") as error:
        stain.find_stains(one_hue, "slide-x")
    one_sentence(error)


# ---- transferred colours


def test_transferred_pixels_have_the_moments_of_their_target(other):
    pixels = {name: stain.slide_pixels(other, f"slide-{name}") for name in "ab"}
    map_ = stain.transfer_map(*(stain.moments_of(pixels[name]) for name in "ab"))
    moved = stain.moments_of(stain.apply_map(pixels["a"][None], map_)[0])
    before, wanted = (stain.moments_of(pixels[name]) for name in "ab")
    # Densities beyond black and white are cut off, and levels are whole numbers.
    assert moved.mean == pytest.approx(wanted.mean, abs=0.01)
    assert moved.covariance == pytest.approx(wanted.covariance, abs=0.01)
    assert abs(before.mean - wanted.mean).max() > 0.05


def test_the_transfer_of_independent_channels_is_known():
    source = stain.Moments(np.array([0.1, 0.2, 0.3]), np.diag([0.04, 0.09, 0.16]))
    target = stain.Moments(np.array([0.3, 0.2, 0.1]), np.diag([0.16, 0.09, 0.04]))
    map_ = stain.transfer_map(source, target)
    assert map_[:, :3] == pytest.approx(np.diag([2, 1, 0.5]), abs=1e-4)
    assert map_[:, 3] == pytest.approx([0.1, 0, -0.05], abs=1e-4)
    # Of the maps that match, that of least transport is symmetric and positive.
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    turned = stain.Moments(target.mean, turn @ target.covariance @ turn.T)
    matrix = stain.transfer_map(source, turned)[:, :3].astype(float)
    assert matrix == pytest.approx(matrix.T, abs=1e-5) and np.linalg.eigvalsh(matrix).min() > 0
    assert matrix @ source.covariance @ matrix.T == pytest.approx(turned.covariance, abs=1e-4)
    assert stain.transfer_map(source, source) == pytest.approx(np.eye(3, 4), abs=1e-5)


def test_one_colour_can_be_transferred():
    grey = np.full((100, 3), 128, np.uint8)
    assert np.isfinite(stain.transfer_map(stain.moments_of(grey), stain.moments_of(grey // 2))).all()


def transferred(store, folder, part=0, parts=1) -> TileStore:
    folder.mkdir(exist_ok=True)
    config = SyntheticConfig(count=12)
    draw_transferred(
        Product(folder), store=store, labelled=["a"], unlabelled=["b", "c"], config=config, seed=3, part=part,
        parts=parts,
    )  # fmt: skip
    return TileStore(folder)


def test_each_transferred_image_is_its_window_in_other_colours(other, tmp_path):
    made = transferred(other, tmp_path / "made")
    pool = WindowPool(other, ["a"])
    moments = {name: stain.moments_of(stain.slide_pixels(other, f"slide-{name}")) for name in STAINS}
    rows = made.index.to_pylist()
    assert len(rows) == 12 and {row["origin"] for row in rows} == {"transferred"}
    assert {row["style_patient"] for row in rows} == {"b", "c"} and {row["patient"] for row in rows} == {"b", "c"}
    assert all(row["layout_slide"] == "slide-a" and row["generator"] is None for row in rows)
    for number, row in enumerate(rows):
        image, label = made.tile_at(number)
        source, layout = other.window("slide-a", row["layout_x"], row["layout_y"], TILE, TILE)
        assert np.array_equal(label, layout) and row["foreground"] == pytest.approx(layout.mean())
        map_ = stain.transfer_map(moments["a"], moments[row["style_patient"]])
        density = stain.densities(source) @ map_[:, :3].T + map_[:, 3]
        assert abs(255 * np.exp(-density.clip(0)) - image).max() < 0.51
    assert pool.patients == ["a"]


def test_made_images_are_normalised_as_the_slide_whose_style_they_have(other, tmp_path):
    made, maps = transferred(other, tmp_path / "made"), normalising_maps(other, ["a"], ["b", "c"])[1]
    store = NormalisedTiles(made, maps, "style_slide")
    for number, slide in enumerate(made.column("style_slide")):
        image, label = made.tile_at(number)
        assert np.array_equal(store.tile_at(number)[0], stain.apply_map(image, maps[slide]))
        assert np.array_equal(store.tile_at(number)[1], label)


def test_transferred_images_are_the_same_in_parts(other, tmp_path):
    one = transferred(other, tmp_path / "one")
    transferred(other, tmp_path / "p0", 0, 2), transferred(other, tmp_path / "p1", 1, 2)
    two = TileStore(tmp_path / "p0", tmp_path / "p1")
    assert sorted(one.slides) == sorted(two.slides)
    for slide in one.slides:
        assert all(np.array_equal(a, b) for a, b in zip(
            one.window(slide, 0, 0, TILE, TILE), two.window(slide, 0, 0, TILE, TILE), strict=True
        ))  # fmt: skip
    assert (tmp_path / "p0" / "preview" / "grid.npz").exists() and not (tmp_path / "p1" / "preview").exists()


# ---- learning from unlabelled tiles


def training(store, method: str | None, config=CONFIG, seed: int = 0) -> tuple[SegmenterTraining, TrainingBatches]:
    torch.manual_seed(seed)
    network = SmallUNet(config.channels)
    learner = build_learner(method, network, config) if method else None
    more = unlabelled_batches(method, store, ["b", "c"], config, seed) if method else None
    batches = TrainingBatches(store, ["a"], None, config, False, seed, more)
    return SegmenterTraining(network, config, store, ["a"], seed, learner), batches


def trained(store, folder, method, config=CONFIG) -> SegmenterTraining:
    folder.mkdir(exist_ok=True)
    module, batches = training(store, method, config)
    fit(module, batches, folder=folder, device=CPU, label="test")
    return module


def with_teacher(**values) -> SegmenterConfig:
    return CONFIG.model_copy(update={"mean_teacher": MeanTeacherConfig(**values)})


def same_tensors(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_teacher_without_memory_is_its_student(other, tmp_path):
    module = trained(other, tmp_path / "none", "mean_teacher", with_teacher(decay=0.0))
    assert same_tensors(module.predicting, module.network)
    assert module.predicting is not module.network
    # What it says of the same view is what the student says: there is nothing to learn from it.
    batch = training(other, "mean_teacher", with_teacher(decay=0.0, jitter=0.0))[1][0]
    learner = MeanTeacher(module.network.train(), MeanTeacherConfig(ramp=0), 8).train()
    assert torch.equal(batch["weak"], batch["strong"]) and batch["shown"].all()
    assert learner.loss(module.network, batch, 0) == 0
    slow = trained(other, tmp_path / "slow", "mean_teacher", with_teacher(decay=0.99))
    assert not same_tensors(slow.predicting, slow.network)


def test_the_teacher_is_the_average_of_its_student(other):
    network = SmallUNet([4, 8])
    learner = MeanTeacher(network, MeanTeacherConfig(decay=0.3), 8)
    wanted = None
    for step, level in enumerate((1.0, 2.0, 5.0)):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(level)
        learner.stepped(network)
        # The decay rises to what is asked for, from (1 + n) / (10 + n) after n averages.
        decay = min(0.3, (1 + step) / (10 + step))
        wanted = level if wanted is None else decay * wanted + (1 - decay) * level
    values = torch.cat([parameter.flatten() for parameter in learner.predicting(network).parameters()])
    assert values == pytest.approx(wanted, rel=1e-6)


def test_the_teacher_gets_no_gradient_and_its_weight_rises(other):
    module, batches = training(other, "mean_teacher", with_teacher(weight=4.0, ramp=0.5))
    module.loss(batches[0], 7).backward()
    assert all(p.grad is None for p in module.learner.parameters())
    assert all(p.grad is not None for p in module.network.parameters())
    weights = [module.learner.weight(step) for step in range(8)]
    assert weights[0] == pytest.approx(4 * np.exp(-5)) and weights[2] == pytest.approx(4 * np.exp(-1.25))
    assert weights[4:] == [4.0] * 4 and sorted(weights) == weights


def gradients(module: SegmenterTraining, batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    module.train().zero_grad()
    loss = module.loss(batch, 3)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in module.network.parameters()]


def test_pseudo_labels_below_the_threshold_are_as_if_there_were_none(other):
    plain, without = training(other, None)
    for threshold, ignored in ((0.9999, True), (0.5, False)):
        config = CONFIG.model_copy(update={"pseudo_labels": PseudoLabelsConfig(threshold=threshold)})
        module, batches = training(other, "pseudo_labels", config)
        assert same_tensors(module.network, plain.network)
        (loss, grads), (alone, own) = gradients(module, batches[3]), gradients(plain, without[3])
        assert torch.equal(loss, alone) == ignored
        assert all(torch.equal(a, b) for a, b in zip(grads, own, strict=True)) == ignored
        plain = training(other, None)[0]


def test_pseudo_labels_by_hand():
    """The red of a pixel is its logit for background; the loss written out pixel by pixel."""

    def network(images):
        return torch.stack([images[:, 0], torch.zeros_like(images[:, 0])], 1)

    weak, strong = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    weak[0, 0] = torch.tensor([[4.0, -4.0], [1.0, 5.0]])
    strong[0, 0] = torch.tensor([[0.5, 0.5], [9.0, 9.0]])
    shown = torch.tensor([[[True, True], [True, False]]])
    found = PseudoLabels(PseudoLabelsConfig(threshold=0.9, weight=2.0)).loss(
        network, {"weak": weak, "strong": strong, "shown": shown}, 0
    )
    # Background with 0.98, foreground with 0.98; the third is not sure, the fourth is in the hole.
    sigmoid = 1 / (1 + np.exp(-0.5))
    assert float(found) == pytest.approx(2 * (-np.log(sigmoid) - np.log(1 - sigmoid)) / 3, rel=1e-5)


def test_views_are_the_same_tiles_and_the_hole_does_not_count(other):
    config = CONFIG.model_copy(update={"batch": 40, "pseudo_labels": PseudoLabelsConfig(cutout=0.5)})
    batch = unlabelled_batches("pseudo_labels", other, ["b", "c"], config, 0)[1]
    hidden = ~batch["shown"]
    assert 0.02 < hidden.float().mean() < 0.25
    assert (batch["strong"].permute(0, 2, 3, 1)[hidden] == 0.5).all()
    config = CONFIG.model_copy(update={"pseudo_labels": PseudoLabelsConfig(jitter=0, cutout=0)})
    plain = unlabelled_batches("pseudo_labels", other, ["b"], config, 0)[1]
    assert torch.equal(plain["weak"], plain["strong"]) and plain["shown"].all()
    holes = np.stack([draw_hole(np.random.default_rng(n), 32, 0.5) for n in range(200)])
    assert holes.sum(1).max() == 16 and holes.any(axis=(1, 2)).mean() > 0.8 and holes.any(0).all()


def test_labels_of_unlabelled_patients_are_not_read(other, tmp_path):
    """Nothing changes where they are others, and where there are none."""

    def blank(patient, amount):
        return amount[1] > amount[0] if patient == "a" else np.full((SIDE, SIDE), UNKNOWN)

    def turned(patient, amount):
        return (amount[1] > amount[0]) ^ (patient != "a")

    stores = [write_store(tmp_path / labels.__name__, {"a": 1, "b": 2, "c": 3}, labels) for labels in (blank, turned)]
    for method in ("mean_teacher", "pseudo_labels"):
        one, *rest = (training(store, method)[1][5] for store in (other, *stores))
        assert all(torch.equal(one[key], two[key]) for two in rest for key in one)


def test_labelled_samples_are_those_of_the_arm_without(other):
    alone = training(other, None)[1]
    for method in ("mean_teacher", "pseudo_labels"):
        batches = training(other, method)[1]
        for step in (5, 0):
            assert all(torch.equal(alone[step][key], batches[step][key]) for key in ("images", "targets"))
        assert all(torch.equal(batches[5][key], batches[5][key]) for key in batches[5])
        assert not torch.equal(batches[5]["weak"], batches[0]["weak"])


@pytest.mark.parametrize("method", ["mean_teacher", "pseudo_labels"])
def test_a_killed_training_ends_with_the_same_weights(other, tmp_path, monkeypatch, method):
    expected = trained(other, tmp_path / "whole", method)
    own = SegmenterTraining.loss

    def until_killed(self, batch, number):
        if number == 5:
            raise KeyboardInterrupt
        return own(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(SegmenterTraining, "loss", until_killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            trained(other, tmp_path / "killed", method)
    state = torch.load(tmp_path / "killed" / "state.ckpt", weights_only=True)
    assert state["global_step"] == 3
    assert any("learner.teacher" in key for key in state["state_dict"]) == (method == "mean_teacher")
    module = trained(other, tmp_path / "killed", method)
    assert same_tensors(module, expected) and module.curve == expected.curve


def test_the_best_weights_are_the_teacher_s(other, tmp_path):
    config = with_teacher(decay=0.9).model_copy(update={"validate_every": 8})
    module = trained(other, tmp_path, "mean_teacher", config)
    assert module.best_step == 8
    assert same_tensors(module.best, module.predicting) and not same_tensors(module.best, module.network)


def test_the_loss_is_that_of_the_labels_and_of_the_rest(other):
    module, batches = training(other, "pseudo_labels")
    batch = batches[0]
    with torch.no_grad():
        whole_ = module.loss(batch, 0)
        labelled = segmentation_loss(module.network(batch["images"]), batch["targets"])
        rest = module.learner.loss(module.network, batch, 0)
    assert whole_ == pytest.approx(float(labelled + rest), rel=1e-5)


# ---- arms


def ids(root, arms=tuple(ARMS), **segmenter) -> dict[str, str]:
    values = MINI | {"arms": list(arms), "segmenter": MINI["segmenter"] | segmenter}
    plan = Plan(parse_config(values), root)
    return {arm: plan.segmenter(arm, 1, 0).id for arm in arms}


def test_settings_of_a_method_belong_to_its_arms_alone(template):
    base = ids(template)
    for key, value, mine in (
        ("mean_teacher", {"weight": 3.0}, {"mean-teacher", "mean-teacher-colour"}),
        ("pseudo_labels", {"threshold": 0.7}, {arm for arm in ARMS if "pseudo" in arm}),
    ):
        changed = ids(template, **{key: value})
        assert {arm for arm in ARMS if changed[arm] != base[arm]} == mine
    assert len(set(base.values())) == len(ARMS)


def test_transferred_images_need_no_generator(template):
    values = MINI | {"arms": ["transferred", "transferred-colour"]}
    one, two = (Plan(parse_config(values | more), template) for more in ({}, {"generator": {"steps": 99}}))
    assert "generator" not in one.all and len(one.all["synthetic"]) == 1
    assert one.segmenters == two.segmenters
    other = Plan(parse_config(values | {"synthetic": {"count": 21}}), template)
    assert not {run.id for run in one.segmenters} & {run.id for run in other.segmenters}


@pytest.mark.parametrize("arm", ["mean-teacher", "pseudo-labels", "transferred"])
def test_an_arm_that_needs_unlabelled_patients_says_so(template, arm):
    with pytest.raises(UserError, match="no unlabelled patient is left"):
        Plan(parse_config(MINI | {"budgets": [2], "arms": [arm]}), template)


def test_every_arm_has_a_look_and_a_meaning_of_its_own():
    assert ARMS.keys() == LOOKS.keys() == MEANINGS.keys()
    assert set(DEFAULT_ARMS) < set(ARMS)
    assert len({look.colour for look in LOOKS.values()}) == len(LOOKS)
