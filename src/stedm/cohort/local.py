"""Cohorts whose files lie where a user put them: found by name, verified, and never changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path

from stedm.cohort import dvc, files
from stedm.cohort.base import Slide, read_manifest
from stedm.config import CohortConfig
from stedm.errors import UserError

SUFFIXES = {
    *(".svs", ".tif", ".tiff", ".btf", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide"),
    *(".jpg", ".jpeg", ".png"),
}
"""Suffixes of slides; a format of several files is found by its leading one."""


def find_slides(folder: Path, key: Callable[[Path], str], suffixes: Collection[str]) -> dict[str, str]:
    """Return the slides below a folder: path relative to it by name, which is `key` of the path.

    Raises
    ------
    UserError
        If two slides have the same name, or one is a link to a file outside of the folder.
    """
    found: dict[str, str] = {}
    top = folder.resolve()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for path in (Path(parent) / name for name in sorted(names)):
            if path.suffix.lower() not in suffixes or path.name.startswith("."):
                continue
            relative, name = path.relative_to(folder).as_posix(), key(path)
            if not path.resolve().is_relative_to(top):
                raise UserError(
                    f"{path}: a link to {path.resolve()}, outside of the data folder; move the file there, or let "
                    "cohort.options.path name the folder that holds all files."
                )
            if name in found:
                raise UserError(f"{path}: {found[name]} is a slide {name!r} too; rename one or move it away.")
            found[name] = relative
    return found


class LocalCohort:
    """Files below one folder; a cohort says which files belong to a slide.

    Parameters
    ----------
    config
        Of the cohort.
    root
        The project's root.
    path
        The folder, relative to `root` or absolute.
    """

    holds = "the slides"
    """What the folder is to hold, for error messages."""
    remedy = "bring the file back, or accept what is there with `stedm cohort CONFIG --freeze`"
    """How a missing or changed file is mended, for error messages."""
    inside = ""
    """Subfolder in which slides are sought."""
    suffixes: Collection[str] = SUFFIXES
    """Suffixes of the cohort's slides."""
    original = True
    """Whether the files are what others published: then their checksums are facts for the manifest."""

    def __init__(self, config: CohortConfig, root: Path, path: Path) -> None:
        self.root, self.manifest, self.data = root, root / config.manifest, root / path
        self._split = config.split
        inside = self.data.is_relative_to(root / "data")
        name = self.data.relative_to(root / "data").as_posix() if inside else config.manifest.stem
        self._state = root / ".stedm" / f"{name.replace('/', '--')}.json"

    @staticmethod
    def key(path: Path) -> str:
        """Return the name of the slide that a file holds."""
        return path.stem

    @cached_property
    def _found(self) -> dict[str, str]:
        return find_slides(self.data / self.inside, self.key, self.suffixes)

    def image(self, slide: Slide) -> str:
        """Return the path of a slide's file, relative to the data folder.

        Raises
        ------
        UserError
            If there is none, or the folder's slides are ambiguous.
        """
        if slide.slide not in self._found:
            raise UserError(
                f"{self.data / self.inside}: has no slide {slide.slide!r}, which {self.manifest.name} names; add the "
                "file or correct cohort.options.path."
            )
        return (Path(self.inside) / self._found[slide.slide]).as_posix()

    def slide_path(self, slide: Slide) -> Path:
        """Path of the slide's file."""
        return self.data / self.image(slide)

    def annotation_file(self, slide: Slide) -> str | None:
        """Return the path of a slide's annotations, relative to the data folder; None where it has none."""
        raise NotImplementedError

    def _wanted(self, slides: list[Slide]) -> dict[str, str | None]:
        wanted = {self.image(slide): slide.md5 for slide in slides}
        for slide in slides:
            if path := self.annotation_file(slide):
                wanted[path] = slide.annotation_md5
        return wanted

    def acquire(self, slides: list[Slide], *, workers: int = 0) -> dict[str, object]:
        """Check that every file is there and as it was; pull the folder where there is none and a DVC remote.

        Raises
        ------
        UserError
            If the folder or a file is missing, or one differs.
        """
        origin = "pulled" if self._pull() else "found"
        if not self.data.is_dir():
            raise UserError(
                f"{self.data}: no such folder; set cohort.options.path to the folder that holds {self.holds} "
                "(docs/data.md says where to get them)."
            )
        state, wanted = files.State.load(self._state), self._wanted(slides)
        found = files.verify(self.data, wanted, state, remedy=self.remedy)
        state.files = {path: state.files[path] for path in wanted}
        state.save()
        return {
            "data": "verified" if all(wanted.values()) else "unverified",
            "origin": origin,
            "comparable": True,
            "directory": dvc.directory_hash(found),
            "md5": {slide.slide: found[self.image(slide)] for slide in slides},
        }

    def state(self, slides: list[Slide]) -> str:
        """Say whether the files are what was checked: ``whole``, or ``damaged:`` with names."""
        state = files.State.load(self._state)
        return files.condition(self.data, state.files, state)

    def freeze(self, *, workers: int = 0) -> Path:
        """Accept the files as they are: record checksums in the manifest (of originals) and in ``data.dvc``.

        Returns
        -------
        Path
            The manifest.

        Raises
        ------
        UserError
            If a file is missing, or manifest or ``data.dvc`` cannot be read.
        """
        slides, state = read_manifest(self.manifest, self._split), files.State(self._state)
        wanted = dict.fromkeys(self._wanted(slides))
        found = files.verify(self.data, wanted, state, remedy="add it or take its slide out of the manifest")
        if self.original:
            pairs = {slide.slide: (self.image(slide), self.annotation_file(slide) or "") for slide in slides}
            md5 = {slide: (found[image], found.get(note, "")) for slide, (image, note) in pairs.items()}
            files.add_checksums(self.manifest, md5)
        state.save()
        if (folder := self._tracked_as()) is not None:
            strangers = [
                path for path in files.strangers(self.data, wanted) if not path.endswith((".part", ".partial"))
            ]
            others = files.checksums(self.data, strangers, {})
            dvc.write_out(self.root, folder, found | {path: str(md5) for path, md5 in others.items()})
        return self.manifest

    def _tracked_as(self) -> str | None:
        # Only what lies in the project itself is DVC's; a link would make it move files of others.
        inside = self.data.is_relative_to(self.root / "data") and not self.data.is_symlink()
        return self.data.relative_to(self.root).as_posix() if inside else None

    def _pull(self) -> bool:
        folder = self._tracked_as()
        wanted = folder is not None and not self.data.exists() and dvc.tracked(self.root, folder)
        if not (wanted and dvc.has_remote(self.root)):
            return False
        dvc.pull(self.root, folder)
        return True
