"""Oxford 102 flowers: 8,189 photographs with masks (Nilsback and Zisserman 2008); an image counts as a patient.

Images come in many sizes, so they are prepared: fitted to one size and written, with their masks, as PNG. Of the
102 classes 48 may be labelled; the images of the other 54 only give styles (the authors' lists).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from stedm.cohort.archives import members
from stedm.cohort.base import MaskImage, Slide, Source
from stedm.cohort.files import check_options
from stedm.cohort.local import LocalCohort
from stedm.cohort.web import Web
from stedm.config import CohortConfig, Section
from stedm.errors import UserError
from stedm.progress import progress
from stedm.provenance import checksum, exclusive, replacing, write_text
from stedm.workers import ordered

PAGE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
SPLIT, LABELS = "setid.mat", "imagelabels.mat"
OFFICIAL = {
    SPLIT: "a5357ecc9cb78c4bef273ce3793fc85c",
    LABELS: "e0620be6f572b9609742df49c70aed4d",
    "102flowers.tgz": "52808999861908f626f3c1f4e79d11fa",
    "102segmentations.tgz": "51375996b6c4f367a4b9f4492d7ecef5",
}
"""MD5 of the official files; that of the segmentations is as public loaders have it."""
SPLITS = {"trnid": ("train", 1020), "valid": ("validation", 1020), "tstid": ("test", 6149)}
LABELLED = (
    *(4, 5, 6, 7, 10, 11, 14, 15, 19, 20, 22, 23, 25, 26, 30, 34, 37, 41, 42, 43, 45, 46, 47, 48),
    *(49, 50, 52, 53, 55, 57, 58, 59, 60, 62, 63, 64, 68, 69, 70, 73, 74, 80, 88, 89, 98, 99, 100, 101),
)
"""Zero-based classes that may be labelled, from the authors' flowers_anno.yaml; the other 54 never are."""
MADE = "prepared.json"
"""Beside the prepared images: what they were prepared from and how."""


class Options(Section):
    """Options of the cohort `flowers`."""

    path: Path = Path("data/sources/flowers")
    """Folder of the official files, where `stedm fetch` puts them; relative to the project's root, or absolute."""
    images: str = "102flowers.tgz"
    """Below `path`: the images, image_00001.jpg and on, a tar archive or a folder."""
    segmentations: str = "102segmentations.tgz"
    """Below `path`: the segmentations, segmim_00001.jpg and on, a tar archive or a folder."""
    masks: Literal["segmentations", "simple"] = "segmentations"
    """Masks from the segmentations' background colour, or guessed from the images' own colours (docs/data.md)."""
    aspect: Literal["stretch", "crop", "keep"] = "stretch"
    """Fitting to `size`: both sides (as the paper does), the middle square, or the shorter side alone."""
    size: Annotated[int, Field(ge=32, le=4096)] = 512
    """Side of a prepared image in pixels."""
    folder: Path | None = None
    """Where the prepared images go; by default `data/` and the manifest's name."""


def open_cohort(config: CohortConfig, root: Path) -> Flowers:
    """Open the cohort.

    Raises
    ------
    UserError
        If the options do not fit.
    """
    return Flowers(config, Path(root))


class Flowers(LocalCohort):
    """Prepared images `images/<slide>.png` with masks `masks/<slide>.png`."""

    original = False
    remedy = "delete it and run again, which prepares it anew"

    def __init__(self, config: CohortConfig, root: Path) -> None:
        self.options = check_options(Options, config)
        super().__init__(config, root, self.options.folder or Path("data") / config.manifest.stem)
        self.source_files = root / self.options.path
        self._lock = self._state.with_suffix(".lock")

    def image(self, slide: Slide) -> str:  # noqa: D102
        return f"images/{slide.slide}.png"

    def annotation_file(self, slide: Slide) -> str:  # noqa: D102
        return f"masks/{slide.slide}.png"

    def mpp(self, slide: Slide) -> float | None:
        """None: photographs have no resolution."""
        return None

    def annotation(self, slide: Slide) -> MaskImage:
        """Mask of the flower."""
        return MaskImage(self.data / self.annotation_file(slide), "flower")

    def acquire(self, slides: list[Slide], *, workers: int = 0) -> dict[str, object]:
        """Pull or prepare the images that are not there, then verify all.

        Raises
        ------
        UserError
            If an official file or one of its images is missing or damaged, what is there was prepared in another
            way, or a prepared file changed.
        """
        with exclusive(self._lock, self.data.name):
            pulled = self._pull()
            made = self._prepare(slides, workers)
            facts = super().acquire(slides)
        return facts | {"origin": "pulled" if pulled else "prepared" if made else "found"}

    def _prepare(self, slides: list[Slide], workers: int) -> int:
        how = self.options.model_dump(mode="json", exclude={"path", "folder"})
        note, text = self.data / MADE, json.dumps(how, indent=1) + "\n"
        if note.is_file() and note.read_text() != text:
            raise UserError(
                f"{note}: says that the images were prepared with other options; restore cohort.options, or name "
                "another cohort.options.folder."
            )
        missing = [path for path in self._wanted(slides) if not (self.data / path).is_file()]
        if not missing:
            return 0
        jobs = self._jobs(set(missing))
        first = list(islice(jobs, 1))
        # Only once there is something to prepare, so that a mistyped path leaves no trace.
        write_text(note, text)
        with progress(f"preparing {self.data.name}", len(missing), "files") as counter:
            for written in ordered(_write_prepared, chain(first, jobs), workers):
                missing = [path for path in missing if path not in written]
                counter.advance(len(written))
        if missing:
            raise UserError(f"{self.source_files}: holds no image for {missing[0]}; fetch the official files again.")
        return 1

    def _jobs(self, missing: set[str]) -> Iterator[Job]:
        images = {path for path in missing if path.startswith("images/")}
        masks = missing - images
        simple = self.options.masks == "simple"
        if images or simple:
            yield from self._from(self.options.images, "image_", images | (masks if simple else set()))
        if masks and not simple:
            yield from self._from(self.options.segmentations, "segmim_", masks)

    def _from(self, name: str, prefix: str, missing: set[str]) -> Iterator[Job]:
        for file, content in _source_files(self.source_files / name):
            if not file.startswith(prefix):
                continue
            slide = f"image_{file.removeprefix(prefix)}"
            wanted = {path for path in (f"images/{slide}.png", f"masks/{slide}.png") if path in missing}
            if wanted:
                yield self.options, self.data, f"{self.source_files / name}: {file}", content, wanted

    def list_slides(self) -> tuple[list[Slide], str]:
        """Read the official split and labels; return the manifest's rows and what to say above them.

        Raises
        ------
        UserError
            If a file is missing or not the official one.
        """
        split = _read_mat(self.source_files / SPLIT)
        labels = _read_mat(self.source_files / LABELS)["labels"].ravel().astype(int) - 1
        rows = {}
        for key, (name, count) in SPLITS.items():
            numbers = split[key].ravel().astype(int)
            if len(numbers) != count:
                raise UserError(f"{self.source_files / SPLIT}: {len(numbers)} images for {name}, {count} are official.")
            for number in numbers:
                group, slide = labels[number - 1], f"image_{number:05d}"
                rows[number] = Slide(slide, slide, f"{group:03d}", name)
                if name == "train" and group not in LABELLED:
                    rows[number] = replace(rows[number], split="unlabelled")
        if sorted(rows) != list(range(1, len(labels) + 1)):
            raise UserError(f"{self.source_files / SPLIT}: an image is in no set or in two; fetch it again.")
        comment = (
            "Oxford 102 flowers: facts only, written by `stedm manifest` from setid.mat and imagelabels.mat.\n"
            "class: zero-based. Training images of the 54 classes that are never labelled are `unlabelled`."
        )
        return [rows[number] for number in sorted(rows)], comment

    def source(self) -> Source:
        """Say where the data come from."""
        return Source(
            title="Oxford 102 category flower dataset",
            version="2008 (setid.mat and imagelabels.mat of 2009)",
            where=PAGE,
            licence="none stated: ask before you use the images for more than research",
            size="522 MB: 328 of images, 194 of segmentations",
            ask="the Visual Geometry Group, Oxford (the page above names people)",
        )

    def fetch(self) -> None:
        """Download the official files and check them; what is there and whole is not downloaded again."""
        web = Web()
        for name, md5 in OFFICIAL.items():
            path = self.source_files / name
            if not (path.is_file() and checksum(path, "md5") == md5):
                web.download(PAGE + name, path, md5=md5)


Job = tuple[Options, Path, str, bytes, set[str]]


def _read_mat(path: Path) -> dict[str, np.ndarray]:
    from scipy.io import loadmat

    _check_official(path)
    return loadmat(path)


def _check_official(path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path}: missing; run `stedm fetch CONFIG`, or let cohort.options.path name its folder.")
    if path.name in OFFICIAL and (found := checksum(path, "md5")) != OFFICIAL[path.name]:
        raise UserError(f"{path}: its MD5 is {found}, not {OFFICIAL[path.name]}, the official one; fetch it again.")


def _source_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name without suffix and content of the JPEG files of a folder or an archive."""
    if path.is_dir():
        for file in sorted(path.rglob("*.jpg")):
            yield file.stem, file.read_bytes()
        return
    _check_official(path)
    for name, content in members(path):
        if name.suffix == ".jpg" and not name.name.startswith("."):
            yield name.stem, content


def _write_prepared(job: Job) -> set[str]:
    """Write the image, the mask or both of one source file; return their paths."""
    import cv2

    options, data, where, content, wanted = job
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"{where}: not a readable image; fetch the official files again.")
    image = image[..., ::-1]
    for path in wanted:
        if path.startswith("images/"):
            prepared = fit(image, options.aspect, options.size)[..., ::-1]
        elif options.masks == "simple":
            prepared = 255 * guess_flower(fit(image, options.aspect, options.size)).astype(np.uint8)
        else:
            marked = fit(255 * segmented_flower(image).astype(np.uint8), options.aspect, options.size)
            prepared = np.where(marked > 127, np.uint8(255), np.uint8(0))
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(data / path) as beside:
            beside.write_bytes(cv2.imencode(".png", prepared)[1])
    return wanted


def fit(image: np.ndarray, aspect: str, size: int) -> np.ndarray:
    """Bring an image to a size.

    Parameters
    ----------
    image
        uint8 (h, w) or (h, w, 3).
    aspect
        ``stretch``: both sides become `size`; ``crop``: the middle square does; ``keep``: the shorter side does.
    size
        In pixels.
    """
    import cv2

    height, width = image.shape[:2]
    short = min(height, width)
    if aspect == "crop":
        top, left = (height - short) // 2, (width - short) // 2
        image = image[top : top + short, left : left + short]
    target = (size, size)
    if aspect == "keep":
        target = (round(width * size / short), round(height * size / short))
    method = cv2.INTER_AREA if short >= size else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(image), target, interpolation=method)


def segmented_flower(segmentation: np.ndarray) -> np.ndarray:
    """Return the flower of a `segmim_*.jpg`, bool (h, w): all but R ≤ 10, G ≤ 10 and B ≥ 220 (as the authors)."""
    red, green, blue = np.moveaxis(segmentation, -1, 0)
    return ~((red <= 10) & (green <= 10) & (blue >= 220))


def guess_flower(image: np.ndarray) -> np.ndarray:
    """Guess the flower by colour, where no segmentation is to be had: no ground truth, only something to work on.

    In Lab colours, slightly smoothed, one Gaussian is fitted to the middle of the image (a disc of a quarter of
    the side) and one to its rim (beyond half of the side). A pixel is flower where the first is more likely,
    with odds that fall with the distance from the centre; specks are removed and gaps closed.

    Parameters
    ----------
    image
        uint8 (h, w, 3), RGB.

    Returns
    -------
    mask
        bool (h, w).
    """
    import cv2

    height, width = image.shape[:2]
    lab = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2LAB).astype(np.float32)
    lab = cv2.GaussianBlur(lab, (0, 0), min(height, width) / 64).astype(np.float64)
    y, x = np.mgrid[:height, :width]
    distance = np.hypot((x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5)

    def unlikely(reference: np.ndarray) -> np.ndarray:
        mean, spread = reference.mean(axis=0), np.cov(reference.T) + 25 * np.eye(3)
        away = lab - mean
        return np.einsum("hwi,ij,hwj->hw", away, np.linalg.inv(spread), away) + np.log(np.linalg.det(spread))

    odds = unlikely(lab[distance > 0.5]) - unlikely(lab[distance < 0.25]) - 12 * (distance - 0.33)
    grain = max(1, round(min(height, width) / 64))
    opened = cv2.morphologyEx((odds > 0).astype(np.uint8), cv2.MORPH_OPEN, np.ones((2 * grain + 1,) * 2, np.uint8))
    return cv2.morphologyEx(opened, cv2.MORPH_CLOSE, np.ones((4 * grain + 1,) * 2, np.uint8)) > 0
