"""Drawing in parts: four jobs, two at once, against one job. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from stedm.config import load_config
from stedm.provenance import environment, write_text
from stedm.runs import Plan, Run
from stedm.tiles.store import TileStore


def draw(root: Path, plan: Plan, run: Run, jobs: int, at_once: int) -> float:
    """Return the seconds in which so many jobs draw a run, some of them at once."""
    values = plan.config.model_dump(mode="json")
    values["execution"] |= {"synthetic_jobs": jobs, "synthetic_workers": 0, "threads": 1}
    path = root / f"jobs-{jobs}.yaml"
    path.write_text(yaml.safe_dump(values))
    waiting, running = list(range(jobs)), []
    began = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < at_once:
            part = str(waiting.pop(0))
            arguments = ("synthetic", str(path), run.id, "--part", part)
            running.append(subprocess.Popen([sys.executable, "-m", "stedm.cli", *arguments], cwd=root))
        for process in [process for process in running if process.poll() is not None]:
            assert process.returncode == 0
            running.remove(process)
        time.sleep(0.05)
    return time.perf_counter() - began


def samples(store: TileStore) -> dict[str, tuple]:
    """Return what a store holds of each image: pixels, layout, and the index's row without its place."""
    rows = store.index.drop_columns(["shard", "record"]).to_pylist()
    return {row["slide"]: (*store.tile_at(number), row) for number, row in enumerate(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="configuration of a finished run, such as config/demo.yaml")
    parser.add_argument("--count", type=int, default=2048, help="images (default 2,048; the paper draws 20,000)")
    parser.add_argument("--parts", type=int, default=4, help="jobs (default 4)")
    parser.add_argument("--at-once", type=int, default=2, help="of them at once (default 2)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    config = load_config(options.config)
    config = config.model_copy(update={"synthetic": config.synthetic.model_copy(update={"count": options.count})})
    plan = Plan(config)
    run = plan.synthetic(min(config.budgets), config.seeds[0], config.generator.style.sampling)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for needed in (run.inputs["tiles"], run.inputs["generator"]):
            (root / needed.folder).parent.mkdir(parents=True)
            (root / needed.folder).symlink_to(needed.folder.resolve())
        for name in ("config", "data.dvc"):
            if Path(name).exists():
                (root / name).symlink_to(Path(name).resolve())
        one = draw(root, plan, run, 1, 1)
        several = draw(root, plan, run, options.parts, options.at_once)
        whole = samples(TileStore(*(root / part for part in run.parts(1))))
        union = samples(TileStore(*(root / part for part in run.parts(options.parts))))
        assert whole.keys() == union.keys()
        for name, (image, label, row) in whole.items():
            assert np.array_equal(image, union[name][0]) and np.array_equal(label, union[name][1])
            assert row == union[name][2], name
        shutil.rmtree(root / run.folder)
    found = {"images": len(whole), "parts": options.parts, "at_once": options.at_once}
    found |= {"one_job_s": round(one, 1), "parts_s": round(several, 1), "times_as_fast": round(one / several, 2)}
    print(json.dumps(found | {"equal": True}, indent=1))
    if options.json:
        write_text(options.json, json.dumps(found | environment(), indent=1) + "\n")


if __name__ == "__main__":
    main()
