"""Products and where they came from: identities, checksums, atomic folders, provenance records.

A *product* is a folder that appears whole or not at all: it is written beside its place and renamed. In it
lie ``SHA256SUMS``, which is the same whenever the contents are (and can be checked with ``sha256sum -c``), and
``provenance.json``, which says what made it from what, when and on which machine.
"""

from __future__ import annotations

import ast
import datetime
import functools
import hashlib
import json
import logging
import os
import platform
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from stedm.config import canonical
from stedm.errors import MadeMeanwhile, UserError

log = logging.getLogger("stedm")

RECORD = "provenance.json"
SUMS = "SHA256SUMS"
SOURCE = Path(__file__).parent
PATIENCE = 600
"""Seconds that a helping process waits for the leading one."""

RECORDED_PACKAGES = (
    *("numpy", "pandas", "pyarrow", "scipy", "torch", "pytorch-lightning", "snakemake", "dvc"),
    *("openslide-python", "openslide-bin", "pyvips", "pyvips-binary", "opencv-python-headless"),
    *("simplejpeg", "tifffile", "seaborn", "matplotlib"),
)


def digest(value: Any, length: int = 8) -> str:
    """Return the first hex digits of the SHA-256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def checksum(path: Path, algorithm: str = "sha256") -> str:
    """Return the checksum of a file in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


@functools.cache
def fingerprint(module: str) -> str:
    """Identify the code of a module and of all of this package that it imports.

    The syntax tree is hashed without docstrings, so that comments, formatting and documentation do not
    count. ``stedm.config`` is left out: the settings themselves are part of a run's identity.

    Parameters
    ----------
    module
        Dotted name of a module or package of ``stedm``; a package counts with all its modules.
    """
    pending, trees = [module], {}
    while pending:
        name = pending.pop()
        path = _source(name)
        if path is None or name in trees or name in ("stedm", "stedm.config"):
            continue
        tree = ast.parse(path.read_text())
        _strip_docstrings(tree)
        trees[name] = ast.dump(tree)
        pending += _imports(tree, name, path.name == "__init__.py")
        if path.name == "__init__.py" and name == module:
            pending += [f"{name}.{p.stem}" for p in path.parent.glob("*.py") if p.stem != "__init__"]
    return digest(trees, 12)


def _source(name: str) -> Path | None:
    base = SOURCE.parent.joinpath(*name.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def _strip_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                statement
                for statement in node.body
                if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
            ]


def _imports(tree: ast.AST, name: str, is_package: bool) -> list[str]:
    found = []
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [module for module in found if module.split(".")[0] == "stedm"]


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[bool]:
    """Hold the lock file at `path`: a second process waits (and is told so), and a killed one lets go."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    waited = False
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another process is at work on it; waiting for it to finish", what)
            fcntl.flock(file, fcntl.LOCK_EX)
            waited = True
        yield waited


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`; what is written there takes its place if nothing was raised."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text)


@dataclass
class Product:
    """A product in the making."""

    folder: Path
    """Where to write; takes its final place when the work is done."""
    facts: dict[str, Any] = field(default_factory=dict)
    """More to record in the provenance: device, threads, counts."""


@contextmanager
def product(
    out: Path,
    *,
    stage: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Path] | None = None,
    keep: tuple[str, ...] = (),
    leads: bool = True,
) -> Iterator[Product]:
    """Make a product folder, whole or not at all.

    The folder ``.<name>.partial`` beside `out` holds the work. After a kill it is taken up again, so that
    stages can resume, unless code, settings or inputs have changed since.

    Parameters
    ----------
    out
        Final folder; replaced when the work is done.
    stage
        Name of the stage's package, whose code is fingerprinted.
    settings
        All that the result depends on beside the inputs; recorded.
    inputs
        Product folders or files used, by role.
    keep
        Names in the working folder that belong to resuming and not to the product: deleted at the end.
    leads
        False in a process that helps the one which makes the product: it waits for the folder and writes nothing.

    Raises
    ------
    UserError
        If an input is missing, the disk is full, or the process to be helped does not come.
    MadeMeanwhile
        If another process has just made the same product.
    """
    out, inputs = Path(out), dict(inputs or {})
    sources = {role: identify(path) for role, path in inputs.items()}
    code = fingerprint(f"stedm.{stage}")
    identity = digest({"stage": stage, "settings": settings, "inputs": sources, "code": code}, 64)
    partial = out.with_name(f".{out.name}.partial")
    if not leads:
        _await(partial / ".identity", identity)
        yield Product(partial)
        return
    with exclusive(out.with_name(f".{out.name}.lock"), str(out)) as waited:
        if waited and (read_record(out) or {}).get("identity") == identity:
            raise MadeMeanwhile(f"{out}: made by the other process; nothing is left to do")
        stamp = partial / ".identity"
        if partial.exists() and (not stamp.exists() or stamp.read_text() != identity):
            shutil.rmtree(partial)
        if stamp.exists():
            log.info("%s: taking up the work that an earlier process left", out)
        partial.mkdir(parents=True, exist_ok=True)
        stamp.write_text(identity)
        began, cpu = time.monotonic(), time.process_time()
        making = Product(partial)
        try:
            yield making
            for name in (*keep, ".identity"):
                _remove(partial / name)
            record = {
                "stage": stage,
                "id": out.name,
                "identity": identity,
                "settings": json.loads(canonical(settings)),
                "code": code,
                "inputs": {role: {"path": str(inputs[role]), **source} for role, source in sources.items()},
                "outputs": _write_sums(partial),
                **environment(),
                "comparable": all(source.get("comparable", True) for source in sources.values()),
                "wall_seconds": round(time.monotonic() - began, 2),
                "cpu_seconds": round(time.process_time() - cpu, 2),
                "peak_mb": peak_mb(),
                **making.facts,
            }
            write_text(partial / RECORD, json.dumps(record, indent=1, sort_keys=True, default=str) + "\n")
        except OSError as error:
            raise _explain(error, out) from error
        _remove(out)
        partial.replace(out)


def _await(stamp: Path, identity: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (stamp.exists() and stamp.read_text() == identity):
        if time.monotonic() > deadline:
            raise UserError(
                f"{stamp.parent}: the leading process has not prepared this folder within {PATIENCE} s; "
                "start all processes with the same code and configuration, on one file system."
            )
        time.sleep(0.2)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _explain(error: OSError, out: Path) -> Exception:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(out.parent).free / 2**20
        return UserError(f"{out}: the disk is full ({free:.0f} MB free); make room and run again.")
    return error


def identify(path: Path) -> dict[str, Any]:
    """Return what an input is: the checksums in its provenance record, or its own.

    Raises
    ------
    UserError
        If there is nothing at `path`, or a folder has no provenance record.
    """
    path = Path(path)
    if path.is_dir():
        record = read_record(path)
        if record is None or not (path / SUMS).is_file():
            raise UserError(f"{path}: no {RECORD} in this folder; run the stage that makes it again.")
        return {"sha256": checksum(path / SUMS), "comparable": record.get("comparable", True)}
    if not path.is_file():
        raise UserError(f"{path}: missing; run the stage that makes it first.")
    return {"sha256": checksum(path)}


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the provenance record of a product folder, or None where there is none."""
    path = Path(folder) / RECORD
    return json.loads(path.read_text()) if path.is_file() else None


def _write_sums(folder: Path) -> dict[str, str]:
    """Write the checksums of a product's files; its preview is a picture of them and does not count."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.parent.name != "preview")
    sums = {p.relative_to(folder).as_posix(): checksum(p) for p in files if p.name != SUMS}
    write_text(folder / SUMS, "".join(f"{value}  {name}\n" for name, value in sums.items()))
    return sums


def read_sums(folder: Path) -> dict[str, str]:
    """Return the checksums of a product's files, by name, as its ``SHA256SUMS`` has them."""
    lines = (Path(folder) / SUMS).read_text().splitlines()
    return {name: value for value, name in (line.split("  ", 1) for line in lines)}


def peak_mb() -> float:
    """Return the peak resident memory of this process and its largest finished child, in MB."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(max(own, children) / unit, 1)


def environment() -> dict[str, Any]:
    """Return who made something, when, with what: commit, versions, machine, command."""
    return {
        **_commit(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "stedm": _version("stedm")}
        | {name: _version(name) for name in RECORDED_PACKAGES},
    }


def _commit() -> dict[str, Any]:
    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(SOURCE), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    if shutil.which("git") is None:
        return {"commit": None, "dirty": None}
    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
