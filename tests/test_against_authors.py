"""The benchmark against the authors' code, as far as it goes without that code."""

import subprocess
import sys

import pytest
from conftest import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
against_authors = pytest.importorskip("against_authors")
ours = pytest.importorskip("ours")


def test_a_folder_without_their_code_is_said_in_one_sentence(tmp_path):
    command = [sys.executable, PROJECT / "benchmarks" / "against_authors.py", "--authors", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr and "git clone https://github.com/OettlM/STEDM" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_at_full_size_the_rows_have_the_published_and_like_sizes():
    paper, _ = ours.settings("paper", pixels=512, divisor=1, style_images_as_theirs=True)
    assert ours.unet_parameters(paper.unet, paper.style.dim) == 234_635_148
    assert paper.style.size == 512
    base, _ = ours.settings("stedm-base", pixels=512, divisor=1)
    wide, _ = ours.settings("stedm-base", pixels=512, divisor=1, as_large=True)
    assert ours.unet_parameters(wide.unet, wide.style.dim) == pytest.approx(234_635_148, rel=0.05)
    proportions = [[width / unet.channels[0] for width in unet.channels] for unet in (base.unet, wide.unet)]
    assert proportions[0] == proportions[1]


def test_ratios_are_taken_within_a_round_and_compare_rates():
    def result(seconds):
        return {"seconds": seconds, "peak_mb": 1.0, "unet_parameters": 1}

    # A machine that halves its speed after the first round.
    found = {
        against_authors.THEIRS: {"training": [result(2.0), result(4.0)], "generation": [result(8.0), result(16.0)]},
        "stedm-base": {"training": [result(1.0), result(2.0)], "generation": [result(1.0), result(2.0)]},
    }
    theirs, base = against_authors.summarise(found, batch=3)
    assert (theirs["training"]["ratio"], theirs["generation"]["ratio"]) == (1, 1)
    assert (base["training"]["ratio"], base["generation"]["ratio"]) == (2, 8)
    assert base["training"]["per_second"] == 2
