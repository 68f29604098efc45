"""Oxford 102 flowers: official facts, masks, preparation, and which classes are ever labelled."""

import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import PROJECT, shared
from servers import send, send_file, serve

from stedm.cohort import flowers, labelled_patients, load_cohort, read_manifest
from stedm.cohort.files import write_manifest
from stedm.config import CohortConfig, TilesConfig, load_config
from stedm.errors import UserError
from stedm.runs import Plan
from stedm.tiles.backends import open_slide
from stedm.tiles.slide import cut_slide, plan_slide
from stedm.tiles.store import split_records

# As method and data give them: the two lists of the authors' flowers_anno.yaml.
NEVER = [
    *(0, 1, 2, 3, 8, 9, 12, 13, 16, 17, 18, 21, 24, 27, 28, 29, 31, 32, 33, 35, 36, 38, 39, 40, 44, 51, 54, 56),
    *(61, 65, 66, 67, 71, 72, 75, 76, 77, 78, 79, 81, 82, 83, 84, 85, 86, 87, 90, 91, 92, 93, 94, 95, 96, 97),
]
MANIFEST = Path("config/cohorts/flowers.csv")
SLIDES = read_manifest(PROJECT / MANIFEST)


def cohort(root, **options):
    return load_cohort(CohortConfig(name="flowers", manifest=MANIFEST, options=options), root)


def disc(size=(90, 120), centre=(55, 45), radius=28):
    y, x = np.mgrid[: size[0], : size[1]]
    return np.hypot(x - centre[0], y - centre[1]) < radius


def photograph(number):
    random = np.random.default_rng(number)
    image = np.where(disc()[..., None], (220, 60, 160), (50, 120, 40)) + random.integers(-20, 20, (90, 120, 3))
    return image.clip(0, 255).astype(np.uint8)


def jpeg(image):
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def source(folder, count=6):
    """Three images and segmentations in folders and in archives."""
    (folder / "jpg").mkdir(parents=True)
    (folder / "segmim").mkdir()
    blue = np.where(disc()[..., None], photograph(0), np.uint8((2, 3, 250)))
    for number in range(1, count + 1):
        (folder / f"jpg/image_{number:05d}.jpg").write_bytes(jpeg(photograph(number)))
        (folder / f"segmim/segmim_{number:05d}.jpg").write_bytes(jpeg(blue))
    for name in ("jpg", "segmim"):
        with tarfile.open(folder / f"{name}.tgz", "w:gz") as archive:
            archive.add(folder / name, name)
    return folder


@pytest.fixture
def project(tmp_path):
    source(tmp_path / "data/sources/flowers")
    return tmp_path


FOLDERS = {"images": "jpg", "segmentations": "segmim", "size": 64}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Facts


def test_the_manifest_is_the_official_split_and_the_two_lists():
    splits = [slide.split for slide in SLIDES]
    trained = [slide for slide in SLIDES if slide.split in ("train", "unlabelled")]
    assert (len(trained), splits.count("validation"), splits.count("test")) == (1020, 1020, 6149)
    assert len(flowers.LABELLED) == 48 and len(NEVER) == 54
    assert sorted([*flowers.LABELLED, *NEVER]) == list(range(102))
    for slide in trained:
        assert (slide.split == "unlabelled") == (int(slide.group) in NEVER)
    assert len({slide.patient for slide in SLIDES}) == 8189


def test_the_manifest_is_what_the_official_files_say(tmp_path):
    rows, comment = cohort(tmp_path, path=shared("flowers102")).list_slides()
    write_manifest(tmp_path / "again.csv", rows, comment)
    assert (tmp_path / "again.csv").read_bytes() == (PROJECT / MANIFEST).read_bytes()


def test_another_setid_is_refused(tmp_path):
    shutil.copytree(shared("flowers102"), tmp_path / "files", ignore=shutil.ignore_patterns("*.tar"))
    path = tmp_path / "files/setid.mat"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"setid\.mat: its MD5 is .*, not a5357ecc9cb78c4bef273ce3793fc85c"):
        cohort(tmp_path, path=tmp_path / "files").list_slides()
    path.unlink()
    with pytest.raises(UserError, match=r"setid\.mat: missing; run `stedm fetch"):
        cohort(tmp_path, path=tmp_path / "files").list_slides()


def test_styles_come_from_images_that_nobody_labelled():
    plan = Plan(load_config(PROJECT / "config/flowers.yaml"), PROJECT)
    labelled = plan.labelled(3, 0)
    group = {slide.patient: int(slide.group) for slide in SLIDES}
    assert len(labelled) == 3 * 48 and {group[p] for p in labelled} == set(flowers.LABELLED)
    styles = plan.unlabelled(labelled)
    assert len(styles) == 1020 - 144 and not set(styles) & set(labelled)
    assert {group[p] for p in styles} == set(range(102))
    assert len(labelled_patients(SLIDES, None, 0)) == 480


# Masks and sizes


def test_the_background_of_a_segmentation_is_told_by_its_colour():
    values = [(10, 10, 220), (11, 10, 220), (10, 11, 220), (10, 10, 219), (0, 0, 255), (255, 255, 255)]
    found = flowers.segmented_flower(np.array([values], np.uint8))
    np.testing.assert_array_equal(found, [[False, True, True, True, False, True]])


@pytest.mark.parametrize(("aspect", "shape"), [("stretch", (64, 64)), ("crop", (64, 64)), ("keep", (64, 85))])
def test_aspects(aspect, shape):
    found = flowers.fit(255 * disc().astype(np.uint8), aspect, 64) > 127
    assert found.shape == shape
    across, down = found.any(axis=0).sum(), found.any(axis=1).sum()
    factor = {"stretch": 64 / 120, "crop": 64 / 90, "keep": 64 / 90}[aspect]
    assert across == pytest.approx(56 * factor, abs=1.5) and down == pytest.approx(56 * 64 / 90, abs=1.5)
    middle = np.flatnonzero(found.any(axis=0)).mean()
    left = {"stretch": 55, "crop": 55 - 15, "keep": 55}[aspect]
    assert middle == pytest.approx(left * factor, abs=1)


def test_the_guess_finds_a_flower_on_a_meadow():
    found = flowers.guess_flower(flowers.fit(photograph(1), "stretch", 64))
    truth = flowers.fit(255 * disc().astype(np.uint8), "stretch", 64) > 127
    assert (found & truth).sum() / (found | truth).sum() > 0.85


# Preparation


def test_folders_and_archives_give_the_same_images(project):
    opened = cohort(project, **FOLDERS)
    assert opened.acquire(SLIDES[:5])["origin"] == "prepared"
    assert opened.acquire(SLIDES[:5])["origin"] == "found"
    archives = FOLDERS | {"images": "jpg.tgz", "segmentations": "segmim.tgz"}
    other = cohort(project, **archives, folder="data/second")
    other.acquire(SLIDES[:5], workers=1)
    for name in ("images", "masks"):
        made = contents(project / "data/flowers" / name)
        assert len(made) == 5 and made == contents(project / "data/second" / name)
    slide = SLIDES[0]
    image = cv2.imread(str(opened.slide_path(slide)))[..., ::-1]
    assert np.abs(image.astype(float) - flowers.fit(photograph(1), "stretch", 64)).mean() < 8
    mask = cv2.imread(str(opened.annotation(slide).path), cv2.IMREAD_GRAYSCALE)
    truth = flowers.fit(255 * disc().astype(np.uint8), "stretch", 64) > 127
    assert set(np.unique(mask)) == {0, 255} and ((mask > 127) == truth).mean() > 0.96


def test_what_is_lost_is_made_again_and_what_changed_is_named(project):
    opened = cohort(project, **FOLDERS)
    opened.acquire(SLIDES[:5])
    before = contents(project / "data/flowers/images")
    lost = project / "data/flowers/images/image_00002.png"
    lost.unlink()
    assert opened.acquire(SLIDES[:5])["origin"] == "prepared"
    assert contents(project / "data/flowers/images") == before
    lost.write_bytes(before["image_00001.png"])
    assert opened.state(SLIDES[:5]) == "damaged: image_00002"
    with pytest.raises(UserError, match=r"image_00002\.png: changed; delete it and run again"):
        opened.acquire(SLIDES[:5])
    with pytest.raises(UserError, match=r"prepared\.json: says that the images were prepared with other options"):
        cohort(project, **FOLDERS | {"aspect": "crop"}).acquire(SLIDES[:5])


def test_missing_and_unreadable_images_are_named(project):
    with pytest.raises(UserError, match=r"none\.tgz: missing; run `stedm fetch"):
        cohort(project, **FOLDERS | {"images": "none.tgz"}).acquire(SLIDES[:7])
    with pytest.raises(UserError, match=r"holds no image for images/image_00007\.png"):
        cohort(project, **FOLDERS).acquire(SLIDES[:7])
    (project / "data/sources/flowers/jpg/image_00007.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="image_00007: not a readable image"):
        cohort(project, **FOLDERS).acquire(SLIDES[:7])


def test_an_archive_that_reaches_outside_is_refused_and_nothing_written(project):
    with tarfile.open(project / "data/sources/flowers/evil.tar", "w") as archive:
        info = tarfile.TarInfo("../../image_00001.jpg")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(UserError, match="outside of its folder"):
        cohort(project, **FOLDERS | {"images": "evil.tar"}).acquire(SLIDES[:2])
    assert not list(project.rglob("image_00001.png")) and not list(project.parent.glob("image*"))


def test_real_flowers_of_64_pixels(tmp_path):
    options = {"images": "jpg64.tar", "masks": "simple", "size": 64, "folder": "data/flowers64"}
    opened = cohort(tmp_path, path=shared("flowers102"), **options)
    some = [SLIDES[n] for n in range(0, 8189, 273)]
    opened.acquire(some)
    tiles = load_config(PROJECT / "config/flowers64.yaml").tiles
    shares = []
    for slide in some:
        with open_slide(opened.slide_path(slide)) as reader:
            [(records, rows)] = cut_slide(reader, opened.annotation(slide), tiles, plan_slide(reader, tiles))
        images, labels = split_records(records, tiles.tile)
        # A photograph has no glass: each is one whole tile of tissue, however dark its background.
        assert images.shape == (1, 64, 64, 3) and rows[0]["tissue"] == 1 and set(np.unique(labels)) <= {0, 1}
        shares.append(rows[0]["foreground"])
    assert 0.25 < np.mean(shares) < 0.6 and min(shares) > 0.05
    assert tiles == TilesConfig(downsample=1, tile=64, classes=["flower"], foreground=["flower"], min_tissue=0)


def test_the_official_files_are_fetched_and_checked(tmp_path, monkeypatch):
    files = {name: name.encode() * 1000 for name in flowers.OFFICIAL}
    asked = []

    def answer(handler, path, query):
        asked.append(path.strip("/"))
        data = files.get(asked[-1])
        send_file(handler, data) if data else send(handler, 404, {})

    with serve(answer) as address:
        monkeypatch.setattr(flowers, "PAGE", f"{address}/")
        with pytest.raises(UserError, match=r"setid\.mat: its MD5 is .*, not a5357ecc9cb78c4bef273ce3793fc85c"):
            cohort(tmp_path).fetch()
        assert not list(tmp_path.rglob("setid.mat*"))
        monkeypatch.setattr(flowers, "OFFICIAL", {n: hashlib.md5(data).hexdigest() for n, data in files.items()})
        cohort(tmp_path).fetch()
        first = len(asked)
        cohort(tmp_path).fetch()
    assert contents(tmp_path / "data/sources/flowers") == files and len(asked) == first == 5
