"""Which files of a cohort are as they were: checksums, and a stat cache that makes looking again fast."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from stedm.cohort.base import COLUMNS, Slide, parse_manifest
from stedm.config import CohortConfig, Section, describe
from stedm.errors import UserError
from stedm.progress import progress
from stedm.provenance import checksum, write_text

Options = TypeVar("Options", bound=Section)
Stats = dict[str, dict[str, Any]]


def check_options(model: type[Options], config: CohortConfig) -> Options:
    """Check a cohort's own options.

    Raises
    ------
    UserError
        One sentence with the first fault.
    """
    try:
        return model.model_validate(config.options)
    except ValidationError as error:
        raise UserError(f"cohort.options of {config.name}: {describe(error)}") from None


@dataclass
class State:
    """What this machine knows of a cohort's files; ``.stedm/<cohort>.json``, not in git."""

    path: Path
    """The state file."""
    maker: str = ""
    """Digest of the options and the code that made the files in `own`."""
    acquiring: str = ""
    """``drawing`` or ``pulling`` while that is under way or was interrupted."""
    own: dict[str, str] = field(default_factory=dict)
    """MD5 of files as this machine made them, by relative path."""
    files: Stats = field(default_factory=dict)
    """The stat cache: md5, size and mtime_ns by relative path."""

    @classmethod
    def load(cls, path: Path) -> State:
        """Read a state file; a missing or unreadable one is empty, since all it holds can be found anew."""
        try:
            values = json.loads(Path(path).read_text())
            return cls(
                path=Path(path),
                maker=str(values["maker"]),
                acquiring=str(values["acquiring"]),
                own=dict(values["own"]),
                files=dict(values["files"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return cls(Path(path))

    def save(self) -> None:
        """Write the state file whole or not at all."""
        values = asdict(self)
        del values["path"]
        write_text(self.path, json.dumps(values, indent=1, sort_keys=True) + "\n")


def checksums(
    folder: Path, relpaths: Iterable[str], cache: Stats, *, force: bool = False, label: str = ""
) -> dict[str, str | None]:
    """Return the MD5 of files, None where a file is missing.

    Parameters
    ----------
    folder
        Folder of the files.
    relpaths
        Paths relative to `folder`.
    cache
        Stat cache, brought up to date: a file of known size and modification time is not read again.
    force
        Read every file all the same.
    label
        Title of a progress display, which there is only with one.

    Raises
    ------
    UserError
        If a file cannot be read.
    """
    relpaths = list(relpaths)
    found: dict[str, str | None] = {}
    with progress(label, len(relpaths), "files") if label else nullcontext() as counter:
        for relpath in relpaths:
            found[relpath] = _checksum(Path(folder), relpath, cache, force)
            if counter is not None:
                counter.advance()
    return found


def _checksum(folder: Path, relpath: str, cache: Stats, force: bool) -> str | None:
    path = folder / relpath
    try:
        stat = path.stat()
        known = cache.get(relpath, {})
        if force or (known.get("size"), known.get("mtime_ns")) != (stat.st_size, stat.st_mtime_ns):
            known = {"md5": checksum(path, "md5"), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
            cache[relpath] = known
    except (FileNotFoundError, NotADirectoryError):
        cache.pop(relpath, None)
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions and disk.") from None
    return known["md5"]


def expected(slides: Iterable[Slide], image: str, annotation: str) -> dict[str, str | None]:
    """Return the manifest's checksum, or None, of each file of a cohort by relative path.

    `image` and `annotation` are the paths of a slide's files, with ``{}`` for the slide.
    """
    slides = list(slides)
    images = {image.format(slide.slide): slide.md5 for slide in slides}
    return images | {annotation.format(slide.slide): slide.annotation_md5 for slide in slides}


def faults(
    wanted: dict[str, str | None], found: dict[str, str | None], state: State, *, strict: bool = False
) -> list[str]:
    """Return the files that are missing, or neither the manifest's nor this machine's own.

    With `strict`, a file of which neither checksum is known is one of them.
    """
    bad = []
    for path, md5 in wanted.items():
        accepted = {md5, state.own.get(path)} - {None}
        if found[path] is None or (found[path] not in accepted and (accepted or strict)):
            bad.append(path)
    return bad


def verify(
    folder: Path, wanted: dict[str, str | None], state: State, *, remedy: str, strict: bool = False
) -> dict[str, str]:
    """Read all files of a cohort and compare them; return their checksums and bring `state` up to date.

    Raises
    ------
    UserError
        If a file is missing or wrong: the first one, how many more, and the `remedy`.
    """
    before = {path: known.get("md5") for path, known in state.files.items()}
    found = checksums(folder, wanted, state.files, force=True, label=f"verifying {folder.name}")
    bad = faults(wanted, found, state, strict=strict)
    if not bad:
        state.own |= {path: str(md5) for path, md5 in found.items() if wanted[path] is None}
        return {path: str(md5) for path, md5 in found.items()}
    first = bad[0]
    if found[first] is None:
        fault = "missing"
    elif found[first] == before.get(first):
        fault = "of an earlier manifest or of other options"
    else:
        fault = "changed" if first in before else "not as in the manifest"
    more = len({Path(path).stem for path in bad}) - 1
    rest = f" (and {more} more slide{'s' if more > 1 else ''})" if more else ""
    raise UserError(f"{folder / first}: {fault}{rest}; {remedy}.")


def strangers(folder: Path, wanted: Iterable[str]) -> list[str]:
    """Return the files in a cohort's folder that do not belong to it; hidden ones do not count."""
    present = (path.relative_to(folder) for path in folder.rglob("[!.]*") if path.is_file())
    return sorted({path.as_posix() for path in present} - set(wanted))


def condition(folder: Path, relpaths: Iterable[str], state: State) -> str:
    """Say fast whether files are as they were when they were last checked.

    Only files whose size or time changed are read. Files that were never checked do not count, nor does a
    folder without any of them, which is yet to be acquired.

    Returns
    -------
    str
        ``whole``, or ``damaged:`` and the names of the first files.
    """
    known = [relpath for relpath in relpaths if relpath in state.files]
    if state.acquiring or not any((folder / relpath).exists() for relpath in known):
        return "whole"
    cache = {relpath: dict(state.files[relpath]) for relpath in known}
    changed = []
    for relpath in known:
        try:
            now = checksums(folder, [relpath], cache)[relpath]
        except UserError:
            now = None
        if now != state.files[relpath].get("md5"):
            changed.append(Path(relpath).stem)
    return f"damaged: {several(changed)}" if changed else "whole"


def several(names: Iterable[str]) -> str:
    """Name the first of some things and count the rest: ``a``, or ``a and 3 more``."""
    unique = list(dict.fromkeys(names))
    return unique[0] + (f" and {len(unique) - 1} more" if len(unique) > 1 else "")


def add_checksums(path: Path, md5: dict[str, tuple[str, str]]) -> None:
    """Write checksums into a manifest; its comments, order and further columns stay.

    Parameters
    ----------
    path
        The CSV file; replaced whole or not at all.
    md5
        MD5 of image and annotation by slide; an empty one leaves the field empty.
    """
    lines = path.read_text().splitlines(keepends=True)
    comments = [line for line in lines if line.startswith("#")]
    rows = list(csv.DictReader(line for line in lines if line.strip() and not line.startswith("#")))
    text = io.StringIO()
    text.writelines(comments)
    columns = [*(column for column in rows[0] if column not in ("md5", "annotation_md5")), "md5", "annotation_md5"]
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    for row in rows:
        image, annotation = md5[row["slide"]]
        table.writerow({**row, "md5": image, "annotation_md5": annotation})
    write_text(path, text.getvalue())


def write_manifest(path: Path, rows: Iterable[Slide], comment: str) -> None:
    """Write a manifest with checksums, the same bytes for the same rows.

    Parameters
    ----------
    path
        The CSV file; replaced whole or not at all.
    rows
        Slides with their checksums, where known.
    comment
        Lines that say how the file was made; each gets a ``#``.

    Raises
    ------
    UserError
        If the rows are no manifest, such as one with a patient in two splits; nothing is written then.
    """
    text = io.StringIO()
    text.writelines(f"# {line}\n" for line in comment.splitlines())
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*COLUMNS, "md5", "annotation_md5"])
    for row in rows:
        facts = (row.slide, row.patient, row.group, row.split)
        table.writerow([*facts, row.md5 or "", row.annotation_md5 or ""])
    parse_manifest(text.getvalue(), path)
    write_text(path, text.getvalue())
