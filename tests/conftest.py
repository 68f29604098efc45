"""Small projects on which the real workflow runs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("STEDM_SHARED", PROJECT.parent / "shared" / "data"))
"""Real files, where they are at hand; they are not part of the project."""

MINI = {
    "name": "mini",
    "cohort": {
        "name": "phantom",
        "manifest": "config/cohorts/mini.csv",
        "options": {"seed": 5, "size": 768, "classes": ["0", "3+"], "train": 2, "validation": 1, "test": 2},
    },
    "tiles": {"mpp": 1.0, "tile": 32},
    "budgets": [1],
    "seeds": [0],
    "arms": ["real", "synthetic"],
    "generator": {
        "steps": 30,
        "checkpoint_every": 5,
        "batch": 8,
        "unet": {"channels": [16, 32], "blocks": 1},
        "style": {"size": 16, "channels": [8, 16], "dim": 16},
    },
    "synthetic": {"count": 20, "steps": 4, "micro_batch": 8},
    "segmenter": {
        "steps": 30,
        "checkpoint_every": 5,
        "validate_every": 10,
        "batch": 4,
        "channels": [8, 16],
        "window": 64,
        "margin": 8,
    },
    "report": {"resamples": 200},
    "execution": {"device": "cpu", "threads": 1},
}


def write_config(root: Path, values: dict, name: str = "mini") -> Path:
    path = root / "config" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def command(root: Path, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
    """Run `stedm …` or `snakemake …` as a user would, in a project."""
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | environment
    done = subprocess.run(arguments, cwd=root, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


def copy_project(root: Path) -> Path:
    """Copy what the workflow needs of this repository, as a clone without data would hold it."""
    root.mkdir(parents=True)
    for name in ("Snakefile", "environment.yaml", ".dvcignore"):
        shutil.copy(PROJECT / name, root / name)
    for name in ("workflow", "profiles", "docs", "config", ".dvc"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("cache", "tmp"))
    return root


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Put a real file system of a few megabytes in a folder's place, or skip the test that needs it."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def one_sentence(error) -> str:
    """Return the text of an error, which is one sentence."""
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text, text
    return text


def shared(name: str) -> Path:
    """Return a real file or folder, or skip the test that needs it."""
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED / name} is not here (STEDM_SHARED names the folder)")
    return SHARED / name


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A project whose small phantom is drawn and frozen; to be copied, not used."""
    root = copy_project(tmp_path_factory.mktemp("template") / "project")
    write_config(root, MINI)
    command(root, "stedm", "cohort", "config/mini.yaml", "--freeze")
    return root


@pytest.fixture
def project(template, tmp_path):
    """A project with its data and no results."""
    return Path(shutil.copytree(template, tmp_path / "project"))


@pytest.fixture(scope="session")
def built(template, tmp_path_factory):
    """A project that has been run with two jobs at once; to be copied or read, not changed."""
    root = Path(shutil.copytree(template, tmp_path_factory.mktemp("built") / "project"))
    command(root, "snakemake", "--cores", "2", "--configfile", "config/mini.yaml")
    return root


@pytest.fixture
def finished(built, tmp_path):
    """A copy of a finished run, times kept, so that nothing needs to run again."""
    root = tmp_path / "project"
    subprocess.run(["cp", "-a", str(built), str(root)], check=True)
    return root
