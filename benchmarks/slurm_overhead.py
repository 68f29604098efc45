"""What Slurm costs: jobs of one second through profiles/slurm and on this machine. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import slurm

from stedm.provenance import environment, write_text

PROFILE = Path(__file__).parents[1] / "profiles" / "slurm"
RULES = """
rule all:
    input:
        expand("done/{{n}}", n=range({jobs})),


rule second:
    output:
        "done/{{n}}",
    shell:
        "sleep 1; touch {{output}}"
"""


def run(folder: Path, jobs: int, *arguments: str) -> float:
    """Return the seconds that Snakemake takes for so many jobs of one second."""
    folder.mkdir()
    (folder / "Snakefile").write_text(RULES.format(jobs=jobs))
    command = [sys.executable, "-m", "snakemake", *arguments]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((folder / "done").iterdir())) == jobs
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100, help="jobs of one second (default 100)")
    parser.add_argument("--at-once", type=int, default=4, help="at once: the cores of the two nodes (default 4)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    if reason := slurm.missing():
        parser.exit(1, f"{reason}\n")
    with tempfile.TemporaryDirectory() as scratch, slurm.cluster(Path(scratch) / "slurm"):
        local = run(Path(scratch) / "local", options.jobs, "--cores", str(options.at_once))
        quick = ("--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2")
        resources = ("--default-resources", "mem_mb=500", "runtime=5")
        limits = ("--jobs", str(options.at_once), "--latency-wait", "5", *quick, *resources)
        remote = run(Path(scratch) / "slurm-run", options.jobs, "--profile", str(PROFILE), *limits)
    ideal = options.jobs / options.at_once
    found = {"jobs": options.jobs, "at_once": options.at_once, "ideal_s": ideal}
    found |= {"local_s": round(local, 1), "slurm_s": round(remote, 1)}
    found["overhead_a_job_s"] = round((remote - local) * options.at_once / options.jobs, 2)
    print(json.dumps(found, indent=1))
    if options.json:
        write_text(options.json, json.dumps(found | environment(), indent=1) + "\n")


if __name__ == "__main__":
    main()
