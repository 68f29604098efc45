"""Small weights and predictions that a recorded result carries, so that others can start from them.

They lie in ``results/reference/<name>/runs/<segmenter id>/`` as the segmenter left them, with its ``SHA256SUMS``.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

import pandas as pd

from stedm.provenance import SUMS, checksum, read_sums
from stedm.runs import Run
from stedm.study import Study
from stedm.verify.values import OF_RUN, run_values

log = logging.getLogger("stedm")

FOLDER = "runs"
ARMS = ("real", "synthetic")
"""Arms of which the segmenters of one seed at the smallest budget are stored."""
MOST_BYTES = 8_000_000
PREDICTIONS, WEIGHTS = "predictions.parquet", ("last.safetensors", "best.safetensors")


def store(study: Study, out: Path) -> list[Run]:
    """Copy predictions and weights of the chosen segmenters into a recorded result; return which.

    None is copied where a run is missing (its folder deleted, its report kept) or they are larger than `MOST_BYTES`.
    """
    if len(study.plans) > 1:
        log.info("no weights and predictions recorded: those of one fold are not those of the pooled scores")
        return []
    runs = study.plans[0].smallest(ARMS)
    files = {run.id: [run.folder / name for name in (PREDICTIONS, *WEIGHTS, SUMS)] for run in runs}
    flat = [path for paths in files.values() for path in paths]
    if not all(path.is_file() for path in flat):
        log.info("no weights and predictions recorded: %s has none", ", ".join(str(run.folder) for run in runs))
        return []
    size = sum(path.stat().st_size for path in flat)
    if size > MOST_BYTES:
        log.info("no weights and predictions recorded: %.1f MB, more than %.0f", size / 1e6, MOST_BYTES / 1e6)
        return []
    for name, paths in files.items():
        (out / FOLDER / name).mkdir(parents=True)
        for path in paths:
            shutil.copyfile(path, out / FOLDER / name / path.name)
    return runs


def changed(folder: Path, names: tuple[str, ...]) -> list[str]:
    """Return those of a stored segmenter's files that are missing or not as its ``SHA256SUMS`` has them."""
    sums = read_sums(folder) if (folder / SUMS).is_file() else {}
    return [name for name in names if not (folder / name).is_file() or checksum(folder / name) != sums.get(name)]


def recount(study: Study, run: Run, predictions: Path) -> dict:
    """Return a segmenter's values (`OF_RUN`), counted from a predictions file."""
    from stedm.scores.count import count_predictions
    from stedm.tiles.store import TileStore

    facts = {"cohort": study.config.cohort.name, **run.facts, "segmenter": run.id}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scores.parquet"
        count_predictions(predictions, TileStore(study.tiles.folder), facts, out)
        return run_values(pd.read_parquet(out))


def predict_again(study: Study, run: Run, folder: Path, *, exact: bool = False) -> dict:
    """Return a segmenter's values, predicted with the weights in a folder; `exact` in float64."""
    import torch
    from safetensors.torch import load_file

    from stedm.segmenter.network import build_segmenter
    from stedm.segmenter.predict import write_predictions
    from stedm.tiles.store import TileStore

    class InDouble(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network.double()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images.double())

    config = study.config.segmenter.model_copy(update={"path": None})
    networks: dict[str, torch.nn.Module] = {}
    known: dict[str, torch.nn.Module] = {}
    for name in WEIGHTS:
        same = checksum(folder / name)
        if same not in known:
            network = build_segmenter(config).to(memory_format=torch.channels_last)
            network.load_state_dict(load_file(folder / name))
            known[same] = (InDouble(network) if exact else network).eval()
        # Equal weights are predicted once.
        networks[name.removesuffix(".safetensors")] = known[same]
    with tempfile.TemporaryDirectory() as beside:
        out = Path(beside) / PREDICTIONS
        write_predictions(
            out,
            networks,
            TileStore(study.tiles.folder),
            study.plans[0].patients("test"),
            window=config.window,
            margin=config.margin,
            device=torch.device("cpu"),
        )
        return recount(study, run, out)


def arithmetic(study: Study, runs: list[Run]) -> dict[str, float]:
    """Return how far each value moves, at most, when the segmenters predict in float64; empty for no segmenter."""
    moved: dict[str, float] = {}
    for run in runs:
        one, other = (predict_again(study, run, run.folder, exact=exact) for exact in (False, True))
        for name in OF_RUN:
            if one[name] is not None and other[name] is not None:
                moved[name] = max(moved.get(name, 0.0), abs(one[name] - other[name]))
    return moved
