"""Copies of tile stores on a node's own disk, with real processes that share them."""

import json
import logging
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import MINI, one_sentence
from stores import squares

from stedm import stages
from stedm.config import parse_config
from stedm.errors import Stopped, UserError
from stedm.provenance import SUMS, product
from stedm.runs import Plan
from stedm.staging import KEY_DIGITS, staged
from stedm.tiles.store import TileStore

JOB = """
import sys, time, logging
from pathlib import Path
from stedm.staging import staged
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
with staged(sys.argv[1], Path(sys.argv[2])) as [near]:
    print("near", near, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def store(tmp_path):
    """A small tile store that is a product."""
    with product(tmp_path / "shared" / "tiles", stage="tiles", settings={}) as making:
        squares(making.folder)
    return tmp_path / "shared" / "tiles"


@pytest.fixture
def scratch(tmp_path):
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def said(caplog, monkeypatch):
    """What was logged, by level."""
    caplog.set_level(logging.INFO, "stedm")
    monkeypatch.setattr(logging.getLogger("stedm"), "propagate", True)
    return lambda level: [r.getMessage() for r in caplog.records if r.levelname == level]


class Job:
    """A process that reads a store and goes on to hold it until it is told to end."""

    def __init__(self, scratch: Path, store: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOB, str(scratch), str(store)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []

    def near(self) -> Path:
        while not self.lines or not self.lines[-1].startswith("near "):
            line = self.process.stdout.readline()
            assert line, self.lines
            self.lines.append(line.strip())
        return Path(self.lines[-1].split()[1])

    def end(self) -> None:
        self.process.communicate("\n", timeout=30)
        assert self.process.returncode == 0


def copies(scratch: Path) -> list[Path]:
    return [path for path in scratch.glob("stedm-*/*") if path.is_dir()]


def pixels(folder: Path) -> np.ndarray:
    store = TileStore(folder)
    return np.stack([store.tile_at(row)[0] for row in range(len(store))])


def test_jobs_share_one_copy_and_the_last_removes_it(store, scratch):
    jobs = [Job(scratch, store) for _ in range(3)]
    [near] = {job.near() for job in jobs}
    assert copies(scratch) == [near] and len(near.name) == KEY_DIGITS
    assert sum("copied to" in line for job in jobs for line in job.lines) == 1
    assert sum("copy" in line and "of another job" in line for job in jobs for line in job.lines) == 2
    assert np.array_equal(pixels(near), pixels(store)) and (near / SUMS).read_text() == (store / SUMS).read_text()
    jobs[0].end()
    # Killed, so that it removes nothing; the third one still reads.
    jobs[1].process.kill()
    jobs[1].process.communicate()
    assert copies(scratch) == [near]
    jobs[2].end()
    assert copies(scratch) == [] and [p.name for p in scratch.glob("stedm-*/*")] == ["lock"]


def test_what_killed_jobs_left_goes_with_the_next_job(store, scratch, tmp_path):
    job = Job(scratch, store)
    near = job.near()
    job.process.kill()
    job.process.communicate()
    assert copies(scratch) == [near]
    half = near.with_name(f".{near.name}.partial")
    half.mkdir()
    with product(tmp_path / "other", stage="tiles", settings={"other": 1}) as making:
        squares(making.folder, "xyz")
    with staged(str(scratch), tmp_path / "other") as [other]:
        assert copies(scratch) == [other]


def test_a_changed_copy_is_made_again(store, scratch, said):
    with staged(str(scratch), store) as [near]:
        shard = near / "shard-000.bin"
        expected = shard.read_bytes()
        for damage in (b"\0" + expected[1:], expected[:-1]):
            shard.write_bytes(damage)
            with staged(str(scratch), store) as [again]:
                assert again == near and shard.read_bytes() == expected
        assert len(said("WARNING")) == 2 and all("made again" in line for line in said("WARNING"))


def test_a_store_that_is_not_what_it_says_is_refused(store, scratch):
    shard = store / "shard-000.bin"
    shard.write_bytes(b"\0" + shard.read_bytes()[1:])
    with pytest.raises(UserError, match="not what SHA256SUMS says") as error, staged(str(scratch), store):
        pass
    one_sentence(error)
    assert copies(scratch) == []


@pytest.mark.parametrize(
    ("given", "why"), [("{scratch}/none", "there is no folder"), ("$STEDM_UNSET/x", "a variable of it is not set")]
)
def test_without_a_scratch_folder_the_shared_one_is_read_and_an_error_is_logged(store, scratch, said, given, why):
    with staged(given.format(scratch=scratch), store) as [near]:
        assert near == store
    [line] = said("ERROR")
    assert why in line and str(store) in line


def test_what_cannot_be_written_leaves_nothing_and_the_shared_folder_is_read(store, scratch, said):
    """No file may grow beyond 16 kB, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, before[1]))
    try:
        with staged(str(scratch), store) as [near]:
            assert near == store and copies(scratch) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in said("ERROR")[0]


def test_a_variable_of_the_environment_names_the_folder(store, scratch, monkeypatch):
    monkeypatch.setenv("SCRATCH_OF_NODE", str(scratch))
    with staged("$SCRATCH_OF_NODE", store) as [near]:
        assert near.is_relative_to(scratch)


def test_a_copy_that_vanishes_is_read_to_the_end_or_named(store, scratch, said):
    with staged(str(scratch), store) as [near]:
        opened, expected = TileStore(near), pixels(store)
        shutil.rmtree(scratch)
        assert np.array_equal(np.stack([opened.tile_at(row)[0] for row in range(len(opened))]), expected)
    [line] = said("WARNING")
    assert "vanished while it was in use" in line
    scratch.mkdir()
    with pytest.raises(UserError, match="vanished while it was read") as error, staged(str(scratch), store) as [near]:
        shutil.rmtree(near)
        TileStore(near)
    one_sentence(error)
    for reason in (Stopped("kept"), ValueError("other")):
        with pytest.raises(type(reason)), staged(str(scratch), store):
            raise reason


def test_stages_make_the_same_from_copies(finished, scratch, said, monkeypatch):
    """A drawing, and a segmenter that reads a real and a synthetic store."""
    opened, init = [], TileStore.__init__
    monkeypatch.setattr(TileStore, "__init__", lambda self, *folders: (opened.extend(folders), init(self, *folders))[1])
    values = MINI | {"execution": MINI["execution"] | {"scratch": str(scratch)}}
    plan = Plan(parse_config(values), finished)
    segmenter = plan.segmenter("synthetic", 1, 0)
    drawn = segmenter.inputs["synthetic"]
    folders = [drawn.parts(1)[0], segmenter.folder]
    before = [(folder / SUMS).read_text() for folder in folders]
    for folder in folders:
        shutil.rmtree(folder)
    stages.make_synthetic(plan, drawn)
    stages.make_segmenter(plan, segmenter)
    assert [(folder / SUMS).read_text() for folder in folders] == before
    assert opened and all(folder.is_relative_to(scratch) for folder in opened)
    assert sum("copied to" in line for line in said("INFO")) == 3 and copies(scratch) == []
    record = json.loads((segmenter.folder / "provenance.json").read_text())
    assert not any(Path(source["path"]).is_relative_to(scratch) for source in record["inputs"].values())
