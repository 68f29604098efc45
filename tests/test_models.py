"""Generator and segmenter: what trains, what resumes, what a drawn image depends on."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MINI, command, write_config
from safetensors.torch import load_file

from stedm import seeds
from stedm.augment import Transform, draw_colour, draw_transform, flip, jitter_colour, transformed
from stedm.config import GeneratorConfig, SyntheticConfig, load_config
from stedm.generator.data import TrainingBatches, draw_style
from stedm.generator.first_stage import PatchPCA
from stedm.generator.model import Generator, load_generator
from stedm.generator.train import FIRST_STAGE_TILES, GeneratorTraining, _first_stage_images, train_generator
from stedm.provenance import Product
from stedm.runs import Plan
from stedm.segmenter.loss import IGNORE, segmentation_loss
from stedm.segmenter.network import SmallUNet
from stedm.segmenter.predict import predict_slide
from stedm.synthetic.draw import Drawer, Setting, micro_batches
from stedm.tiles.store import StoredSlide, StoreWriter, TileStore
from stedm.tiles.windows import WindowPool
from stedm.training import fit

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def plan(built):
    return Plan(load_config(built / "config" / "mini.yaml"), built)


@pytest.fixture(scope="session")
def store(plan):
    return TileStore(plan.tiles.folder)


# ---- generator


def test_every_tensor_of_style_encoder_and_aggregation_changes(plan, store, tmp_path):
    config = plan.config.generator.model_copy(update={"steps": 6})
    torch.manual_seed(0)
    model = Generator(config)
    labelled = plan.labelled(1, 0)
    batches = TrainingBatches(store, labelled, plan.unlabelled(labelled), config, 0)
    model.fit_first_stage(batches[0]["images"])
    before = {name: value.clone() for name, value in model.style.state_dict().items()}
    fit(GeneratorTraining(model, config, 0), batches, folder=tmp_path, device=CPU, label="test")
    unchanged = [name for name, value in model.style.state_dict().items() if torch.equal(value, before[name])]
    assert len(before) > 8
    assert unchanged == []


def test_the_weights_that_are_kept_are_the_averaged_ones(plan, store, tmp_path):
    config = plan.config.generator.model_copy(update={"steps": 4})
    labelled = plan.labelled(1, 0)
    people = {"labelled": labelled, "unlabelled": plan.unlabelled(labelled)}
    train_generator(Product(tmp_path), store=store, **people, config=config, seed=0, device="cpu")
    kept = load_generator(tmp_path, CPU).state_dict()

    followed = []

    class Watched(GeneratorTraining):
        def stepped(self):
            super().stepped()
            followed.append({name: value.detach().clone() for name, value in self.model.named_parameters()})

    batches = TrainingBatches(store, labelled, plan.unlabelled(labelled), config, 0)
    torch.manual_seed(seeds.derive(0, "generator", "weights"))
    model = Generator(config)
    model.fit_first_stage(_first_stage_images(batches, 0, FIRST_STAGE_TILES))
    model.unet.to(memory_format=torch.channels_last)
    (tmp_path / "again").mkdir()
    fit(Watched(model, config, 0), batches, folder=tmp_path / "again", device=CPU, label="test")
    for name, first in followed[0].items():
        expected = first
        for count, weights in enumerate(followed[1:], 1):
            expected = expected + (1 - min(config.ema, (1 + count) / (10 + count))) * (weights[name] - expected)
        assert torch.allclose(kept[name], expected, atol=1e-6), name
    assert any(not torch.allclose(kept[name], weights, atol=1e-4) for name, weights in followed[-1].items())


def test_style_images_come_from_the_image_s_own_slide(plan, store):
    labelled = plan.labelled(1, 0)
    config = plan.config.generator.model_copy(update={"colour_jitter": 0.0})
    batches = TrainingBatches(store, labelled, plan.unlabelled(labelled), config, 0)
    seen = []
    for pool in (batches.labelled, batches.unlabelled):
        near, like = pool.draw_near, pool.draw_like
        pool.draw_near = lambda random, window, f=near: seen.append((window, f(random, window))) or seen[-1][1]
        pool.draw_like = lambda random, window, f=like: seen.append((window, f(random, window))) or seen[-1][1]
    batches[0]
    assert len(seen) == config.batch * config.style.count
    assert all(window.slide == style.slide for window, style in seen)


def test_labels_of_unlabelled_patients_are_never_read(plan, store, monkeypatch):
    labelled = plan.labelled(1, 0)
    batches = TrainingBatches(store, labelled, plan.unlabelled(labelled), plan.config.generator, 0)
    read = []
    layout = store.layout
    monkeypatch.setattr(store, "layout", lambda label: read.append(1) or layout(label))
    for step in range(4):
        read.clear()
        batch = batches[step]
        # Each unlabelled sample has the null layout, and its label is not turned into one.
        assert len(read) <= plan.config.generator.batch - int((~batch["has_layout"]).sum()) + _dropped(batch)
        assert not batch["layouts"][~batch["has_layout"]].any() or _dropped(batch)


def _dropped(batch):
    return int((batch["layouts"].flatten(1).any(1) & ~batch["has_layout"]).sum()) + 2


def test_a_batch_depends_on_its_step_alone(plan, store):
    labelled = plan.labelled(1, 0)
    make = lambda: TrainingBatches(store, labelled, plan.unlabelled(labelled), plan.config.generator, 0)  # noqa: E731
    forwards, backwards = make(), make()
    ahead = [forwards[step] for step in range(3)]
    behind = [backwards[step] for step in reversed(range(3))][::-1]
    for one, other in zip(ahead, behind, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert not torch.equal(ahead[0]["images"], ahead[1]["images"])


@pytest.mark.parametrize("whitening", [1.0, 0.5, 0.0])
def test_pca_is_exact_in_its_span_and_as_white_as_asked(whitening):
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(64, 3, 8, 8), size=32, mode="bilinear") * 2 - 1
    full = PatchPCA(4, 48, whitening)
    full.fit(images)
    assert torch.allclose(full.decode(full.encode(images)), images, atol=1e-4)
    some = PatchPCA(4, 8, whitening)
    explained = some.fit(images)
    latents = some.encode(images)
    spread = latents.std((0, 2, 3))
    assert float(spread.square().mean()) == pytest.approx(1, abs=0.02)
    expected = (some.scale / some.scale[0]) ** (1 - whitening)
    assert torch.allclose(spread / spread[0], expected, rtol=0.02)
    lost = (some.decode(latents) - images).pow(2).sum() / (images - some.decode(torch.zeros_like(latents))).pow(2).sum()
    assert abs(float(lost) - (1 - explained)) < 0.01


def test_null_style_and_null_layout_are_used(plan):
    model = load_generator(plan.generator(1, 0).folder, CPU)
    size = plan.config.tiles.tile // model.first_stage.patch
    x, sigma = torch.randn(2, model.first_stage.channels, size, size), torch.ones(2)
    layout = torch.rand(2, 1, plan.config.tiles.tile, plan.config.tiles.tile).round()
    style = model.style_vectors(torch.randn(2, 4, 3, 16, 16), torch.tensor([True, False]))
    assert torch.equal(style[1], model.style.null) and not torch.equal(style[0], style[1])
    with torch.no_grad():
        for has in (True, False):
            there = torch.full((2,), has)
            same = torch.equal(
                model.denoise(x, sigma, style, layout, there), model.denoise(x, sigma, style, 1 - layout, there)
            )
            assert same is not has


# ---- synthetic images


@pytest.fixture(scope="session")
def setting(plan):
    labelled = plan.labelled(1, 0)
    return Setting(
        store=plan.tiles.folder,
        generator=plan.generator(1, 0).folder,
        labelled=tuple(labelled),
        unlabelled=tuple(plan.unlabelled(labelled)),
        sampling="multi-patch",
        seed=0,
        config=plan.config.synthetic,
    )


def test_styles_come_from_unlabelled_patients_only(plan):
    """Read from the index that the workflow wrote."""
    synthetic = plan.synthetic(1, 0, "multi-patch")
    index = TileStore(*synthetic.parts(1)).index.to_pylist()
    labelled = set(plan.labelled(1, 0))
    forbidden = labelled | set(plan.patients("test")) | set(plan.patients("validation"))
    patient_of = {slide.slide: slide.patient for slide in plan.slides}
    assert len(index) == plan.config.synthetic.count
    for row in index:
        assert row["style_patient"] not in forbidden
        assert patient_of[row["style_slide"]] == row["style_patient"]
        assert patient_of[row["layout_slide"]] in labelled
        assert row["origin"] == "synthetic" and row["style_sampling"] == "multi-patch"
    assert {row["style_patient"] for row in index} == set(plan.unlabelled(list(labelled)))


def test_generation_is_bit_equal_for_workers_and_jobs(plan, finished):
    synthetic = plan.synthetic(1, 0, "multi-patch")
    reference = TileStore(*synthetic.parts(1))
    (finished / "config" / "mini.yaml").unlink()
    for execution in ({"synthetic_workers": 2}, {"synthetic_jobs": 2}):
        write_config(finished, MINI | {"execution": MINI["execution"] | execution})
        jobs = execution.get("synthetic_jobs", 1)
        for part in range(jobs):
            command(finished, "stedm", "synthetic", "config/mini.yaml", synthetic.id, "--part", str(part))
        folder = finished / "results" / "runs" / "phantom" / "synthetic" / synthetic.id
        drawn = TileStore(*(folder / f"part-{part}-of-{jobs}" for part in range(jobs)))
        assert_same_images(reference, drawn)


def assert_same_images(one: TileStore, other: TileStore) -> None:
    rows = {slide: row for row, slide in enumerate(other.column("slide"))}
    assert set(rows) == set(one.column("slide"))
    kept = [name for name in one.index.column_names if name not in ("shard", "record")]
    for row, slide in enumerate(one.column("slide")):
        image, label = one.tile_at(row)
        image2, label2 = other.tile_at(rows[slide])
        assert np.array_equal(image, image2) and np.array_equal(label, label2), slide
        assert all(one.index[name][row] == other.index[name][rows[slide]] for name in kept)


def test_another_micro_batch_size_draws_the_same(setting):
    torch.set_num_threads(1)
    drawn = {}
    for size in (8, 5):
        config = setting.config.model_copy(update={"micro_batch": size})
        drawer = Drawer(Setting(**{**vars(setting), "config": config}), CPU)
        samples = [drawer.sample(n) for n in range(config.count)]
        images = np.concatenate([drawer.draw([samples[n] for n in batch]) for batch in micro_batches(config, 0, 1)])
        drawn[size] = samples, [drawer.noise(n) for n in range(config.count)], images
    for one, other in zip(drawn[8][0], drawn[5][0], strict=True):
        assert np.array_equal(one.label, other.label)
        assert (one.style_patient, one.style_tiles) == (other.style_patient, other.style_tiles)
    assert all(torch.equal(a, b) for a, b in zip(drawn[8][1], drawn[5][1], strict=True))
    near = np.abs(drawn[8][2].astype(int) - drawn[5][2].astype(int)) <= 1
    assert near.mean() >= 0.999


def test_layouts_are_transformed_windows_of_the_label(setting):
    drawer = Drawer(setting, CPU)
    shares = [drawer.store.layout(drawer.sample(n).label).mean() for n in range(60)]
    assert len({round(float(share), 4) for share in shares}) > 30
    assert 0.15 < np.mean(shares) < 0.85


def test_parts_cover_each_image_once():
    config = SyntheticConfig(count=50, micro_batch=8)
    for parts in (1, 2, 3):
        numbers = [n for part in range(parts) for batch in micro_batches(config, part, parts) for n in batch]
        assert sorted(numbers) == list(range(50))


# ---- resuming


@pytest.mark.parametrize("stage", ["generator", "segmenter"])
def test_a_killed_training_ends_with_the_same_weights(plan, finished, stage):
    run = plan.generator(1, 0) if stage == "generator" else plan.segmenter("real", 1, 0)
    folder = finished / run.folder.relative_to(plan.root)
    names = ["weights"] if stage == "generator" else ["last", "best"]
    expected = {name: load_file(run.folder / f"{name}.safetensors") for name in names}
    (folder / "SHA256SUMS").unlink()
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(["stedm", stage, "config/mini.yaml", run.id], cwd=finished, env=env)
    state = folder.with_name(f".{folder.name}.partial") / "state.ckpt"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists(), "the training ended before it could be killed"
    for name in names:
        (folder / f"{name}.safetensors").unlink()
    resumed = command(finished, "stedm", stage, "config/mini.yaml", run.id)
    assert "going on from step" in resumed.stderr
    for name in names:
        again = load_file(folder / f"{name}.safetensors")
        assert again.keys() == expected[name].keys()
        assert all(torch.equal(again[key], expected[name][key]) for key in again), name
    assert not state.parent.exists() and not (folder / "state.ckpt").exists()


def test_a_loss_that_is_no_number_stops_with_one_sentence(plan, store, tmp_path):
    from stedm.errors import UserError

    class Broken(GeneratorTraining):
        def loss(self, batch, step):
            return super().loss(batch, step) * (float("nan") if step == 7 else 1.0)

    config = plan.config.generator.model_copy(update={"steps": 12})
    labelled = plan.labelled(1, 0)
    batches = TrainingBatches(store, labelled, plan.unlabelled(labelled), config, 0)
    with pytest.raises(UserError, match="the loss is nan at step 7"):
        fit(Broken(Generator(config), config, 0), batches, folder=tmp_path, device=CPU, label="test")
    state = torch.load(tmp_path / "state.ckpt", weights_only=True)
    assert state["global_step"] == 5


# ---- augmentation, segmenter


def test_colour_jitter_is_the_identity_at_strength_zero_and_moves_means_otherwise():
    random = np.random.default_rng(0)
    images = torch.rand(4, 3, 8, 8) * 0.8 + 0.1
    none = torch.from_numpy(np.stack([draw_colour(random, 0.0) for _ in range(4)]))
    assert torch.allclose(jitter_colour(images, none), images, atol=1e-5)
    some = torch.from_numpy(np.stack([draw_colour(random, 0.3) for _ in range(4)]))
    assert (jitter_colour(images, some).mean((2, 3)) - images.mean((2, 3))).abs().mean() > 0.02


def test_a_transform_of_nothing_is_the_flip_and_a_shift_moves_pixels():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    for code in range(8):
        assert np.array_equal(transformed(image, Transform(code)), flip(image, code))
    moved = transformed(image, Transform(0, shift_x=0.1))
    assert np.array_equal(moved[:, 2:], image[:, :-2])
    assert np.array_equal(moved[:, 0], image[:, 2])  # mirrored, not blank
    drawn = [draw_transform(np.random.default_rng(n), affine=True) for n in range(200)]
    assert all(0.8 <= t.scale <= 1.2 and abs(t.shear) <= 20 and abs(t.shift_x) <= 0.1 for t in drawn)


def test_augmented_styles_are_the_tile_itself_each_time_otherwise(plan, store):
    pool = WindowPool(store, plan.unlabelled(plan.labelled(1, 0)))
    random = np.random.default_rng(0)
    window = pool.draw(random)
    style = plan.config.generator.style.model_copy(update={"sampling": "augmented", "count": 3})
    tiles = draw_style(pool, window, style, random)
    assert [tile.window for tile in tiles] == [window] * 3 and len({tile.transform for tile in tiles}) == 3
    image = pool.read(window)[0]
    for tile in tiles:
        assert np.array_equal(tile.read(pool), transformed(image, tile.transform))
        assert np.abs(tile.read(pool).mean((0, 1)) - image.mean((0, 1))).max() < 25


def test_flip_gives_the_eight_symmetries():
    image = np.arange(16).reshape(4, 4)
    assert len({flip(image, code).tobytes() for code in range(8)}) == 8


def test_loss_by_hand():
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, 1] = torch.tensor([20.0, -20.0, 20.0, 20.0])
    targets = torch.tensor([[[1, 0, 0, IGNORE]]])
    # One true positive, one false positive: Dice = 2/3; entropies 0, 0 and 20 over three counted pixels.
    expected = 0.1 * 20 / 3 + 0.9 * (1 - 2.01 / 3.01)
    assert float(segmentation_loss(logits, targets)) == pytest.approx(expected, abs=1e-4)


def test_prediction_in_windows_is_that_of_the_whole_slide(tmp_path):
    """A network without context beyond the margin predicts the same in any window."""
    writer = StoreWriter(tmp_path, tile=32, classes=["a"], foreground=["a"])
    random = np.random.default_rng(0)
    width, height = 150, 90
    rows = [{"x": x, "y": y, "tissue": 1.0, "foreground": 0.0} for y in range(0, 96, 32) for x in range(0, 160, 32)]
    images = random.integers(0, 256, (len(rows), 32, 32, 3), np.uint8)
    slide = StoredSlide("s", "p", "g", "test", width, height, 1.0, 1.0)
    writer.add(slide, images, np.zeros((len(rows), 32, 32), np.uint8), rows)
    writer.finish()
    store = TileStore(tmp_path)
    torch.manual_seed(0)
    network = SmallUNet([4, 8]).eval()
    small = predict_slide(network, store, "s", window=48, margin=16, device=CPU)
    whole = predict_slide(network, store, "s", window=256, margin=16, device=CPU)
    assert small.shape == (height, width)
    assert (small == whole).mean() > 0.999
    assert 0.01 < small.mean() < 0.99


def test_defaults_fit_together():
    config = GeneratorConfig()
    model = Generator(config)
    assert sum(p.numel() for p in model.parameters()) < 5e6


def test_the_grid_shows_layouts_on_the_images_that_they_belong_to(setting, tmp_path):
    from stedm.synthetic.draw import write_grid

    drawer = Drawer(setting, CPU)
    write_grid(tmp_path / "grid.npz", drawer, layouts=2, styles=2)
    grid = np.load(tmp_path / "grid.npz")
    assert grid["images"].shape[:2] == (len(grid["layout_images"]), len(grid["style_names"]))
    assert set(grid["style_names"]) <= set(setting.unlabelled)
    store = drawer.store
    for name, image, layout in zip(grid["layout_names"], grid["layout_images"], grid["layouts"], strict=True):
        size, side = store.slides[str(name)], store.tile
        whole, label = store.window(str(name), 0, 0, size.width, size.height)
        [places] = [
            (y, x)
            for y in range(size.height - side + 1)
            for x in range(size.width - side + 1)
            if np.array_equal(whole[y, x : x + side], image[0])
            and np.array_equal(whole[y : y + side, x : x + side], image)
        ]
        y, x = places
        assert np.array_equal(store.layout(label[y : y + side, x : x + side]), layout.astype(bool))


def test_images_without_a_style_have_no_grid(setting, tmp_path):
    from stedm.synthetic.draw import write_grid

    write_grid(tmp_path / "grid.npz", Drawer(replace(setting, sampling="none"), CPU))
    assert list(tmp_path.iterdir()) == []
