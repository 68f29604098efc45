"""The project's one ``data.dvc``: what DVC tracks, read and written without importing DVC.

``data.dvc`` has one out for each cohort. ``dvc add`` would overwrite such a file, and ``dvc commit`` of one
out fails while another is missing, so that outs are written and compared here, in DVC 3's own format.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from stedm.errors import UserError
from stedm.provenance import write_text

FILE = "data.dvc"


@dataclass(frozen=True)
class Out:
    """One out of ``data.dvc``: a folder and what is in it."""

    path: str
    """Folder, relative to the project's root, with forward slashes."""
    md5: str
    """DVC's checksum of the folder; ends in ``.dir``."""
    size: int
    """Bytes of all its files."""
    nfiles: int
    """Number of its files."""


def directory_hash(files: dict[str, str]) -> str:
    """Return the checksum that DVC 3 gives a folder.

    Parameters
    ----------
    files
        MD5 of each file by its path relative to the folder, with forward slashes.

    Returns
    -------
    str
        MD5 of DVC's listing of the folder, followed by ``.dir``.
    """
    listing = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(listing).encode()).hexdigest() + ".dir"


def tracked(root: Path, path: str | Path) -> Out | None:
    """Return what ``data.dvc`` says of a folder, or None where it does not name it.

    Raises
    ------
    UserError
        If ``data.dvc`` is no valid DVC file.
    """
    wanted = PurePosixPath(path).as_posix()
    for entry in _read(Path(root) / FILE).get("outs", []):
        if PurePosixPath(str(entry.get("path"))).as_posix() == wanted:
            return Out(wanted, str(entry.get("md5")), entry.get("size", 0), entry.get("nfiles", 0))
    return None


def write_out(root: Path, path: str | Path, files: dict[str, str]) -> Out:
    """Write or replace one out of ``data.dvc``; the others stay as they are.

    Parameters
    ----------
    root
        The project's root.
    path
        The folder, relative to `root`.
    files
        MD5 of each of its files by path relative to the folder.

    Raises
    ------
    UserError
        If ``data.dvc`` is no valid DVC file.
    """
    root, name = Path(root), PurePosixPath(path).as_posix()
    size = sum((root / name / file).stat().st_size for file in files)
    out = Out(name, directory_hash(files), size, len(files))
    values = _read(root / FILE)
    entry = {"md5": out.md5, "size": out.size, "nfiles": out.nfiles, "hash": "md5", "path": out.path}
    others = [other for other in values.get("outs", []) if str(other.get("path")) != name]
    values["outs"] = sorted([*others, entry], key=lambda other: str(other.get("path")))

    import yaml

    write_text(root / FILE, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return out


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return {}
    except yaml.YAMLError:
        values = None
    else:
        values = {} if values is None else values
    outs = (values.get("outs") or []) if isinstance(values, dict) else None
    if not isinstance(outs, list) or not all(isinstance(out, dict) and "path" in out for out in outs):
        raise UserError(f"{path}: not a valid DVC file; restore it with `git checkout {path.name}`.")
    return {**values, "outs": outs}


def has_remote(root: Path) -> bool:
    """Say whether this project has a default DVC remote; see :func:`remote`."""
    return remote(root) is not None


def remote(root: Path) -> str | None:
    """Return where this project's default DVC remote is, None where it has none.

    Only ``.dvc/config`` and ``.dvc/config.local`` count: a remote in a user's global configuration belongs
    to their other projects.

    Returns
    -------
    str or None
        The remote's URL; a relative path is made one from the working folder.

    Raises
    ------
    UserError
        If one of the two is no valid configuration.
    """
    name, urls = "", {}
    for path in (Path(root) / ".dvc" / "config", Path(root) / ".dvc" / "config.local"):
        config = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            config.read(path, encoding="utf-8")
        except configparser.Error:
            raise UserError(f"{path}: not a valid DVC configuration; correct or remove it.") from None
        name = config.get("core", "remote", fallback=name).strip()
        for section in config.sections():
            if url := config.get(section, "url", fallback=""):
                # DVC quotes the section of a remote: 'remote "store"'.
                urls[section.strip("'").removeprefix("remote ").strip('"')] = (path.parent, url.strip())
    if not name:
        return None
    folder, url = urls.get(name, (Path(root), name))
    return url if "://" in url else str(folder / url)


def pull(root: Path, path: str | Path) -> None:
    """Bring one out of ``data.dvc`` from the default remote.

    Raises
    ------
    UserError
        If DVC fails: its first error and what to do.
    """
    command = [sys.executable, "-m", "dvc", "pull", "--force", PurePosixPath(path).as_posix()]
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        command,
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "no message")
        reason = reason.removeprefix("ERROR:").strip().rstrip(".")
        raise UserError(
            f"{path}: `dvc pull {path}` failed ({reason}); mend the remote (`dvc remote list`) "
            "and run again, or unset it (`dvc remote default --unset`) to have the data drawn."
        )
