"""Copies of products on a node's own disk: one a node, checked, shared by its jobs, removed by the last of them.

Where many jobs read windows of one tile store at random, a shared file system is asked for each of them; a copy on the
node is read from the shared folder once. A copy lies in ``<scratch>/stedm-<user>/<key>``, where the key is the
checksum of the product's ``SHA256SUMS``, so that equal products of all projects are one copy. Beside it lies
``<key>.users``, on which each job holds a shared lock; what nobody holds is removed by the next job that comes or
goes, be it after a ``kill -9``. Making and removing happens under one lock of the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from stedm.errors import MadeMeanwhile, Stopped, UserError
from stedm.provenance import SUMS, checksum, exclusive, identify, read_sums

log = logging.getLogger("stedm")

LOCK, USERS = "lock", ".users"
KEY_DIGITS = 16


@contextmanager
def staged(scratch: str | None, *folders: Path) -> Iterator[list[Path]]:
    """Yield folders that hold the products of `folders`: copies on this node's disk, or the folders themselves.

    The copies are for this job until the context ends, even if others remove what they no longer need. Where no copy
    can be made an error is logged, and the shared folder is read.

    Parameters
    ----------
    scratch
        Folder on the node's own disk, in which variables of the environment may stand (``$TMPDIR``); it must exist.
        None copies nothing.
    folders
        Product folders, with their ``SHA256SUMS``.

    Raises
    ------
    UserError
        If a product is not what its checksums say, or if the work failed and a copy has vanished in the meantime.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(_staged(Path(folder), scratch)) for folder in folders]


@contextmanager
def _staged(folder: Path, scratch: str | None) -> Iterator[Path]:
    if scratch is None:
        yield folder
        return
    try:
        copy, users = _take(folder, _root(scratch))
    except OSError as error:
        log.error("error: execution.scratch %s: %s; %s is read where it lies", scratch, error, folder)
        yield folder
        return
    try:
        yield copy
    except (Stopped, MadeMeanwhile):
        raise
    except Exception as error:
        if _is_there(copy):
            raise
        raise UserError(
            f"{copy}: this node's copy of {folder} vanished while it was read; run the same command again, which goes "
            "on from what is done."
        ) from error
    finally:
        _leave(copy, users)


def _root(scratch: str) -> Path:
    expanded = Path(os.path.expandvars(scratch)).expanduser()
    if "$" in str(expanded):
        raise OSError("a variable of it is not set on this node")
    if not expanded.is_dir():
        raise OSError(f"there is no folder {expanded} on this node")
    root = expanded / f"stedm-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    return root


def _take(folder: Path, root: Path) -> tuple[Path, IO[str]]:
    """Return a sound copy and the open file whose lock keeps it."""
    key = identify(folder)["sha256"][:KEY_DIGITS]
    copy = root / key
    with exclusive(root / LOCK, str(copy)):
        _sweep(root, but=key)
        users = (root / f"{key}{USERS}").open("w")
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            if found := copy.is_dir():
                log.info("%s: read from the copy %s of another job", folder, copy)
            else:
                _copy(folder, copy)
        except BaseException:
            users.close()
            raise
    try:
        # Without the lock: as many jobs as come at once check at once.
        if found and _wrong_file(copy):
            with exclusive(root / LOCK, str(copy)):
                if wrong := _wrong_file(copy):
                    log.warning("%s: not what its checksums say; the copy is made again", wrong)
                    shutil.rmtree(copy)
                    _copy(folder, copy)
    except BaseException:
        users.close()
        raise
    return copy, users


def _leave(copy: Path, users: IO[str]) -> None:
    root = copy.parent
    try:
        # Unlocked before it is closed: forked processes that prepare batches hold the file, too.
        fcntl.flock(users, fcntl.LOCK_UN)
        users.close()
        if not _is_there(copy):
            log.warning("%s: this copy vanished while it was in use; what was open of it was read to the end", copy)
        if root.is_dir():
            with exclusive(root / LOCK, str(root)):
                _sweep(root)
    except OSError as error:
        log.warning("%s: the copy could not be removed (%s)", copy, error)


def _sweep(root: Path, but: str | None = None) -> None:
    """Remove what no job uses; the folder's lock is held."""
    for path in root.glob(f"*{USERS}"):
        if path.stem == but:
            continue
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            for rest in (root / path.stem, _beside(root / path.stem)):
                if rest.exists():
                    shutil.rmtree(rest)
            path.unlink()


def _copy(folder: Path, copy: Path) -> None:
    beside, began, size = _beside(copy), time.monotonic(), 0
    if beside.exists():
        shutil.rmtree(beside)
    try:
        beside.mkdir()
        for name, expected in read_sums(folder).items():
            source, target = folder / name, beside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            if checksum(target) != expected:
                if checksum(source) != expected:
                    raise UserError(f"{source}: not what {SUMS} says; remove {folder} and run the workflow again.")
                raise OSError(f"what was written to {target} is not what was copied")
            size += target.stat().st_size
        shutil.copyfile(folder / SUMS, beside / SUMS)
        beside.replace(copy)
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(beside)
        raise
    log.info("%s: copied to %s, %.0f MB in %.1f s", folder, copy, size / 1e6, time.monotonic() - began)


def _beside(copy: Path) -> Path:
    return copy.with_name(f".{copy.name}.partial")


def _is_there(copy: Path) -> bool:
    return (copy / SUMS).is_file() and all((copy / name).is_file() for name in read_sums(copy))


def _wrong_file(copy: Path) -> Path | None:
    """Return the first file of a copy that is missing or differs from its checksum."""
    if not (copy / SUMS).is_file():
        return copy / SUMS
    for name, expected in read_sums(copy).items():
        path = copy / name
        if not path.is_file() or checksum(path) != expected:
            return path
    return None
