"""The phantom as a cohort: drawing, verifying, damage, repair, DVC."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import one_sentence

from stedm.cohort import Slide, dvc, files, load_cohort, read_manifest
from stedm.cohort.phantom import Options, freeze, manifest_rows
from stedm.config import CohortConfig
from stedm.errors import UserError

PROJECT = Path(__file__).parents[1]
TINY = {"seed": 3, "size": 512, "classes": ["0", "3+"], "train": 1, "validation": 1, "test": 1}


def tiny(name="tiny", **options):
    return CohortConfig(name="phantom", manifest=Path(f"config/cohorts/{name}.csv"), options=TINY | options)


def run(root, *command, check=True):
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "DVC_GLOBAL_CONFIG_DIR": str(root / ".none")}
    command = [sys.executable, "-m", *command] if command[0] == "dvc" else command
    done = subprocess.run(command, cwd=root, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="session")
def frozen(tmp_path_factory):
    """A project with one frozen phantom, its data drawn; only to be copied."""
    root = tmp_path_factory.mktemp("frozen") / "project"
    (root / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore"):
        shutil.copy(PROJECT / name, root / name)
    run(root, "git", "init", "-q")
    (root / ".gitignore").write_text("/data/\n/.stedm/\n")
    freeze(tiny(), root)
    return root


@pytest.fixture
def project(frozen, tmp_path):
    """The frozen project with its data."""
    return Path(shutil.copytree(frozen, tmp_path / "project"))


@pytest.fixture
def clone(frozen, tmp_path):
    """The frozen project as git would give it: without data and without state."""
    return Path(shutil.copytree(frozen, tmp_path / "clone", ignore=shutil.ignore_patterns("data", ".stedm")))


def opened(root, config=None):
    config = config or tiny()
    return load_cohort(config, root), read_manifest(root / config.manifest)


def flip(path, *, keep_times=True):
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if keep_times:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# DVC


def test_directory_hash_is_that_of_real_dvc(project):
    folder = project / "data" / "odd"
    for name in ("b", "a/z.txt", "a b/ü.txt", "a-b", "B", "a.txt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}\r\n")
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in contents(folder).items()}
    (project / ".gitignore").write_text("")
    run(project, "dvc", "add", "-q", "data/odd")
    (out,) = yaml.safe_load((project / "data" / "odd.dvc").read_text())["outs"]
    assert out["md5"] == dvc.directory_hash(md5)
    written = dvc.write_out(project, "data/odd", md5)
    assert (out["size"], out["nfiles"]) == (written.size, written.nfiles)


def test_real_dvc_agrees_with_the_written_file(project):
    before = (project / "data.dvc").read_bytes()
    assert run(project, "dvc", "commit", "-q", "data.dvc", check=False).returncode == 0
    assert run(project, "dvc", "status", "-q", "data/tiny", check=False).returncode == 0
    assert (project / "data.dvc").read_bytes() == before
    flip(next((project / "data/tiny/slides").iterdir()), keep_times=False)
    assert run(project, "dvc", "status", "-q", "data/tiny", check=False).returncode == 1
    assert run(project, "dvc", "commit", "-q", "data.dvc", check=False).returncode != 0


def test_writing_one_out_leaves_the_others(project):
    other = dvc.tracked(project, "data/tiny")
    (project / "data/more").mkdir()
    (project / "data/more/x").write_text("x")
    out = dvc.write_out(project, "data/more", {"x": hashlib.md5(b"x").hexdigest()})
    assert dvc.tracked(project, "data/tiny") == other
    assert dvc.tracked(project, Path("data/more")) == out
    assert dvc.tracked(project, "data") is None
    first = (project / "data.dvc").read_bytes()
    dvc.write_out(project, "data/more", {"x": hashlib.md5(b"x").hexdigest()})
    assert (project / "data.dvc").read_bytes() == first


def test_broken_data_dvc_is_one_sentence(tmp_path):
    for text in ("outs: [", "- 1", "outs: 3", "outs: [3]"):
        (tmp_path / "data.dvc").write_text(text)
        with pytest.raises(UserError) as error:
            dvc.tracked(tmp_path, "data/x")
        assert "data.dvc" in one_sentence(error)


def test_remote_is_seen_without_dvc(project):
    assert not dvc.has_remote(project)
    run(project, "dvc", "remote", "add", "store", "../store")
    assert not dvc.has_remote(project)
    run(project, "dvc", "remote", "default", "--local", "store")
    assert dvc.has_remote(project)


def test_a_remote_is_pulled_instead_of_drawing(project, frozen, monkeypatch):
    run(project, "dvc", "remote", "add", "-d", "store", str(project.parent / "store"))
    run(project, "dvc", "commit", "-q", "data.dvc")
    run(project, "dvc", "push", "-q", "data/tiny")
    monkeypatch.setattr("stedm.cohort.phantom.ordered", lambda *_: pytest.fail("drawn"))
    shutil.rmtree(project / "data")
    shutil.rmtree(project / ".stedm")
    shutil.rmtree(project / ".dvc/cache")
    cohort, slides = opened(project)
    facts = cohort.acquire(slides)
    assert (facts["origin"], facts["data"], facts["comparable"]) == ("pulled", "verified", True)
    assert contents(project / "data") == contents(frozen / "data")
    flip(cohort.slide_path(slides[2]))
    with pytest.raises(UserError, match=f"{slides[2].slide}.tiff: changed"):
        cohort.acquire(slides)
    assert cohort.repair(slides)["origin"] == "pulled"
    assert contents(project / "data") == contents(frozen / "data")


def test_a_failing_pull_is_one_sentence(clone):
    run(clone, "dvc", "remote", "add", "-d", "store", str(clone.parent / "nowhere"))
    cohort, slides = opened(clone)
    with pytest.raises(UserError, match="dvc pull data/tiny") as error:
        cohort.acquire(slides)
    one_sentence(error)
    run(clone, "dvc", "remote", "default", "--unset")
    assert cohort.acquire(slides)["data"] == "verified"


# Drawing and verifying


def test_a_fresh_clone_draws_the_same_bytes(clone, frozen):
    cohort, slides = opened(clone)
    assert cohort.state(slides) == "whole"
    facts = cohort.acquire(slides, workers=2)
    assert (facts["data"], facts["origin"], facts["comparable"]) == ("verified", "drawn", True)
    assert facts["directory"] == dvc.tracked(clone, "data/tiny").md5
    assert contents(clone / "data") == contents(frozen / "data")
    assert cohort.state(slides) == "whole"
    assert cohort.acquire(slides)["origin"] == "found"
    assert cohort.slide_path(slides[0]).is_file() and cohort.mpp(slides[0]) is None


def test_freezing_again_changes_nothing(project, frozen):
    freeze(tiny(), project)
    for name in ("config/cohorts/tiny.csv", "data.dvc"):
        assert (project / name).read_bytes() == (frozen / name).read_bytes()
    slides = read_manifest(project / "config/cohorts/tiny.csv")
    assert all(slide.md5 and slide.annotation_md5 for slide in slides)
    assert [(s.slide, s.patient, s.group, s.split) for s in slides] == [
        (s.slide, s.patient, s.group, s.split) for s in manifest_rows(Options(**TINY))
    ]


def test_annotations_are_read(project):
    pytest.importorskip("stedm.cohort.annotations")
    cohort, slides = opened(project)
    polygons = cohort.annotation(slides[0])
    assert polygons and {polygon.annotated for polygon in polygons} == {"tumour"}


def test_patients_have_styles_of_their_own(project):
    slides = read_manifest(project / "config/cohorts/tiny.csv")
    assert len({slide.md5 for slide in slides}) == len(slides)
    assert len({slide.annotation_md5 for slide in slides}) == len(slides)
    rows = manifest_rows(Options(**TINY | {"train": 2, "slides_per_patient": 2}))
    assert len({row.slide for row in rows}) == 16 and len({row.patient for row in rows}) == 8


@pytest.mark.parametrize("known", [True, False])
def test_a_flipped_byte_is_caught(project, known):
    cohort, slides = opened(project)
    if not known:
        shutil.rmtree(project / ".stedm")
    flip(cohort.slide_path(slides[1]))
    with pytest.raises(UserError) as error:
        cohort.acquire(slides)
    text = one_sentence(error)
    assert f"{slides[1].slide}.tiff" in text and "stedm cohort CONFIG --repair" in text
    assert ("changed" if known else "not as in the manifest") in text


def test_state_is_fast_and_names_what_changed(project, monkeypatch):
    cohort, slides = opened(project)
    with monkeypatch.context() as patch:
        patch.setattr(files, "checksum", lambda *_: pytest.fail("read a file"))
        assert cohort.state(slides) == "whole"
    cohort.slide_path(slides[0]).touch()
    assert cohort.state(slides) == "whole"
    flip(cohort.slide_path(slides[0]), keep_times=False)
    assert cohort.state(slides) == f"damaged: {slides[0].slide}"
    cohort.slide_path(slides[3]).unlink()
    assert cohort.state(slides) == f"damaged: {slides[0].slide} and 1 more"
    shutil.rmtree(project / "data")
    assert cohort.state(slides) == "whole"
    (project / ".stedm/tiny.json").write_text("{")
    assert cohort.state(slides) == "whole"


def test_repair_mends_only_what_is_lost(project, frozen):
    cohort, slides = opened(project)
    untouched = cohort.slide_path(slides[0])
    before = untouched.stat()
    cohort.slide_path(slides[2]).unlink()
    flip(project / f"data/tiny/annotations/{slides[4].slide}.geojson")
    with pytest.raises(UserError, match=f"{slides[2].slide}.tiff: missing \\(and 1 more slide\\)") as error:
        cohort.acquire(slides)
    one_sentence(error)
    facts = cohort.repair(slides)
    assert (facts["data"], facts["origin"]) == ("verified", "drawn")
    assert contents(project / "data") == contents(frozen / "data")
    after = untouched.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert cohort.state(slides) == "whole"
    assert cohort.repair(slides)["origin"] == "found"


def test_a_folder_emptied_by_hand_is_drawn_again(project, frozen):
    cohort, slides = opened(project)
    shutil.rmtree(project / "data")
    assert cohort.acquire(slides)["origin"] == "drawn"
    assert contents(project / "data") == contents(frozen / "data")


@pytest.fixture
def differing(clone):
    """A clone of a manifest frozen on a machine that draws one slide differently; no ``data.dvc``."""
    path = clone / "config/cohorts/tiny.csv"
    slide = read_manifest(path)[1]
    path.write_text(path.read_text().replace(slide.md5, "0" * 32))
    (clone / "data.dvc").unlink()
    return clone


def test_drawn_differently_goes_on_and_damage_is_still_caught(differing, caplog):
    cohort, slides = opened(differing)
    with caplog.at_level(logging.WARNING, "stedm"):
        facts = cohort.acquire(slides)
    assert (facts["data"], facts["comparable"], facts["differing"]) == ("drawn differently", False, 1)
    assert "1 of 6 slides were drawn differently on this machine" in caplog.text
    assert slides[1].slide in caplog.text
    assert cohort.acquire(slides)["comparable"] is False
    assert cohort.state(slides) == "whole"
    flip(cohort.slide_path(slides[1]))
    with pytest.raises(UserError, match=f"{slides[1].slide}.tiff: changed"):
        cohort.acquire(slides)
    assert cohort.repair(slides)["comparable"] is False


def test_drawn_by_older_code_is_no_silent_difference(differing, monkeypatch):
    cohort, slides = opened(differing)
    cohort.acquire(slides)
    monkeypatch.setattr("stedm.cohort.phantom.fingerprint", lambda _: "newer")
    with pytest.raises(UserError, match="of an earlier manifest"):
        cohort.acquire(slides)
    assert cohort.repair(slides)["origin"] == "drawn"


def test_interrupted_drawing_goes_on(clone, frozen, monkeypatch):
    from stedm.cohort import phantom

    cohort, slides = opened(clone)
    draw, drawn = phantom._draw_files, []

    def until_killed(job):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(job[1].slide)
        return draw(job)

    monkeypatch.setattr(phantom, "_draw_files", until_killed)
    with pytest.raises(KeyboardInterrupt):
        cohort.acquire(slides)
    finished = [cohort.slide_path(slide) for slide in slides[:2]]
    times = [path.stat().st_mtime_ns for path in finished]
    (clone / "data/tiny/slides/.phantom-03.tiff.abc.part").write_text("half")
    cohort.slide_path(slides[4]).write_text("not known to the state")
    assert cohort.state(slides) == "whole"
    monkeypatch.setattr(phantom, "_draw_files", draw)
    assert cohort.acquire(slides)["data"] == "verified"
    assert times == [path.stat().st_mtime_ns for path in finished]
    assert contents(clone / "data") == contents(frozen / "data")


def test_a_killed_drawing_leaves_no_process_and_goes_on(tmp_path):
    import psutil

    config = tiny("big", size=4096)
    files.write_manifest(tmp_path / config.manifest, manifest_rows(Options(**config.options)), "by hand")
    code = (
        "from stedm.cohort import *\nfrom stedm.config import CohortConfig\n"
        "if __name__ == '__main__':\n"
        f"    config = CohortConfig.model_validate_json({config.model_dump_json()!r})\n"
        "    load_cohort(config).acquire(read_manifest(config.manifest), workers=2)\n"
    )
    (tmp_path / "run.py").write_text(code)
    process = subprocess.Popen([sys.executable, "run.py"], cwd=tmp_path)
    state, deadline = tmp_path / ".stedm/big.json", time.monotonic() + 60
    while not (state.exists() and files.State.load(state).own):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert children and not psutil.wait_procs(children, timeout=10)[1]
    assert files.State.load(state).acquiring == "drawing"
    cohort, slides = opened(tmp_path, config)
    own = files.State.load(state).own
    assert own and cohort.state(slides) == "whole"
    facts = cohort.acquire(slides[:1])
    assert facts["data"] == "unverified" and own.items() <= files.State.load(state).own.items()


def test_a_manifest_without_checksums_is_drawn_unverified(tmp_path):
    config = tiny("bare")
    path = tmp_path / config.manifest
    files.write_manifest(path, manifest_rows(Options(**TINY)), "by hand")
    assert path.read_text().startswith("# by hand\nslide,patient,class,split,md5,annotation_md5\n")
    cohort, slides = opened(tmp_path, config)
    facts = cohort.acquire(slides)
    assert (facts["data"], facts["comparable"]) == ("unverified", True)
    flip(cohort.slide_path(slides[0]))
    with pytest.raises(UserError, match="changed"):
        cohort.acquire(slides)
    assert cohort.repair(slides)["data"] == "unverified"
    cohort, slides = opened(tmp_path, tiny("bare", colour=50))
    with pytest.raises(UserError, match="of other options"):
        cohort.acquire(slides)


def test_cohorts_do_not_disturb_each_other(project):
    other = tiny("second", seed=4)
    freeze(other, project)
    assert {out["path"] for out in yaml.safe_load((project / "data.dvc").read_text())["outs"]} == {
        "data/second",
        "data/tiny",
    }
    shutil.rmtree(project / "data/second")
    cohort, slides = opened(project)
    assert cohort.acquire(slides)["data"] == "verified"
    cohort, slides = opened(project, other)
    assert cohort.acquire(slides)["data"] == "verified"


def test_strangers_are_named_and_harmless(project, caplog):
    (project / "data/tiny/slides/notes.txt").write_text("mine")
    cohort, slides = opened(project)
    with caplog.at_level(logging.WARNING, "stedm"):
        assert cohort.acquire(slides)["data"] == "verified"
    assert "slides/notes.txt" in caplog.text


def test_manifest_options_and_data_dvc_must_fit(project):
    cohort, slides = opened(project, tiny(colour=120))
    with pytest.raises(UserError, match="frozen from other options") as error:
        cohort.acquire(slides)
    one_sentence(error)
    cohort, _ = opened(project)
    with pytest.raises(UserError, match="'strange'"):
        cohort.acquire([Slide("strange", "p01", "0", "train")])
    path = project / "config/cohorts/tiny.csv"
    path.write_text(path.read_text().replace(slides[0].md5, "0" * 32))
    cohort, slides = opened(project)
    with pytest.raises(UserError, match=r"its checksum of data/tiny is not that of tiny\.csv") as error:
        cohort.acquire(slides)
    one_sentence(error)


def test_a_full_disk_is_seen_before_drawing(clone, monkeypatch):
    cohort, slides = opened(clone)
    usage = shutil.disk_usage(clone)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="6 slides of 512 pixels need about") as error:
        cohort.acquire(slides)
    one_sentence(error)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sise": 4096}, "unknown key 'sise'"),
        ({"size": 100}, "size: "),
        ({"classes": ["4+"]}, "classes.0: "),
        ({"classes": ["0", "0"]}, "stands twice"),
        ({"folder": "../elsewhere"}, "below data/"),
        ({"folder": "data"}, "below data/"),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path, options, words):
    with pytest.raises(UserError, match=r"cohort\.options of phantom") as error:
        load_cohort(tiny(**options), tmp_path)
    assert words in one_sentence(error)


def test_checksums_trust_size_and_time_unless_forced(tmp_path):
    (tmp_path / "a").write_text("some text")
    cache = {}
    first = files.checksums(tmp_path, ["a", "b"], cache)
    assert first == {"a": hashlib.md5(b"some text").hexdigest(), "b": None}
    flip(tmp_path / "a")
    assert files.checksums(tmp_path, ["a", "b"], cache) == first
    assert files.checksums(tmp_path, ["a"], cache, force=True) != {"a": first["a"]}
    assert json.dumps(cache)
