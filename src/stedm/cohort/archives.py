"""Tar archives that others made: their members are checked before anything is taken from them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from stedm.errors import UserError


def members(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield the files of a tar archive, compressed or not, in its order: name and content.

    Nothing is unpacked by name. All the same an archive is refused whose members would leave the folder that
    it is unpacked in, since whoever made it meant harm or made a mistake.

    Raises
    ------
    UserError
        If the archive is missing, cut short or no tar archive, or has a member with an absolute path or ``..``,
        a link that leaves the archive, or a device.
    """
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                _check(path, member)
                if member.isfile():
                    content = archive.extractfile(member)
                    yield PurePosixPath(member.name), content.read() if content else b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); fetch the archive again.") from None
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path}: no whole tar archive ({error}); fetch it again.") from None


def _check(path: Path, member: tarfile.TarInfo) -> None:
    where = f"{path}: its member {member.name!r}"
    remedy = "do not use this archive, get it from its source"
    if _leaves(PurePosixPath(member.name)):
        raise UserError(f"{where} would be written outside of its folder; {remedy}.")
    if member.issym() or member.islnk():
        # A symbolic link counts from where it lies, a hard link from the archive's top.
        folder = PurePosixPath(member.name).parent if member.issym() else PurePosixPath()
        if _leaves(folder / member.linkname):
            raise UserError(f"{where} is a link to {member.linkname!r}, outside of its folder; {remedy}.")
    elif not (member.isfile() or member.isdir()):
        raise UserError(f"{where} is neither file nor folder; {remedy}.")


def _leaves(name: PurePosixPath) -> bool:
    depth = 0
    for part in name.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return name.is_absolute()
