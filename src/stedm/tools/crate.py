"""A finished run as a Workflow Run RO-Crate: files and how each was made, for archives and their tools.

A crate is a folder with ``ro-crate-metadata.json`` (RO-Crate 1.1, https://w3id.org/ro/crate/1.1; profile Workflow Run
Crate 0.5, https://w3id.org/ro/wfrun/workflow/0.5). In it lie the workflow, the configuration, what the report consists
of, and of each product the provenance record and the checksums; products themselves stay where they are.
"""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

from stedm import __version__
from stedm.errors import UserError
from stedm.provenance import RECORD, SUMS, checksum, read_record
from stedm.runs import Run
from stedm.study import Study

METADATA = "ro-crate-metadata.json"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
WORKFLOW = ("Snakefile", "workflow", "environment.yaml", "requirements.lock", "README.md", "LICENSE", "docs/ledger.csv")
VIEW = ("report.html", "claims.csv", "scores.parquet", "config.yaml", "tables", "figures")
FORMATS = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".tex": "application/x-tex",
    ".yaml": "application/yaml",
}
ENGINE, COMMAND = "#snakemake", "#stedm"
Entity = dict[str, Any]


def write_crate(study: Study, out: Path) -> Path:
    """Write a finished run's crate into the folder `out`, which must not exist; return its metadata file.

    Raises
    ------
    UserError
        If the run has no report, or `out` exists.
    """
    out = Path(out)
    if not (study.view / "report.html").is_file():
        raise UserError(f"{study.view}/report.html: missing; run `snakemake` for this configuration first.")
    if out.exists():
        raise UserError(f"--out: {out} exists; name a new folder.")
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    _copy(study, beside)
    (beside / METADATA).write_text(json.dumps(_metadata(study, beside), indent=1, ensure_ascii=False) + "\n")
    beside.replace(out)
    return out / METADATA


def _products(study: Study) -> dict[Path, tuple[Run, list[Path]]]:
    """Return each product behind the report: its folder, its run, and the folders that it was made from."""
    jobs, found = study.config.execution.synthetic_jobs, {}

    def add(run: Run) -> None:
        sources = [folder for source in run.inputs.values() for folder in source.folders(jobs)]
        for source in run.inputs.values():
            add(source)
        found.update(dict.fromkeys(run.folders(jobs), (run, sources)))

    for run in study.scores:
        add(run)
    return {folder: made for folder, made in found.items() if read_record(folder)}


def _name(study: Study, folder: Path) -> str:
    return folder.relative_to(study.root / "results").as_posix()


def _copy(study: Study, out: Path) -> None:
    sources = {name: study.root / name for name in (*WORKFLOW, str(study.config.cohort.manifest))}
    sources |= {name: study.view / name for name in VIEW}
    for folder in _products(study):
        sources |= {f"{_name(study, folder)}/{name}": folder / name for name in (RECORD, SUMS)}
    for name, source in sources.items():
        if source.exists():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            copy(source, out / name)


def _reference(*names: str) -> list[Entity]:
    return [{"@id": name} for name in names]


def _metadata(study: Study, out: Path) -> Entity:
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    products = _products(study)
    actions = [_job(study, folder, run, sources) for folder, (run, sources) in products.items()]
    datasets = [_dataset(study, folder, files) for folder in products]
    whole = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Run of the workflow with the configuration {study.config.name}",
        "instrument": {"@id": "Snakefile"},
        "object": _reference("config.yaml", str(study.config.cohort.manifest)),
        "result": _reference(*(name for name in files if name.startswith(("tables/", "figures/"))), *VIEW[:3]),
        "startTime": min(action["startTime"] for action in actions),
        "endTime": max(action["endTime"] for action in actions),
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": study.config.title or study.config.name,
        "description": "Style-Extracting Diffusion Models, from slides to tables, figures and claims: one run of the "
        "workflow, with how each of its products was made.",
        "datePublished": whole["endTime"],
        "license": {"@id": "https://spdx.org/licenses/MIT"},
        "conformsTo": _reference(*PROFILES),
        "hasPart": _reference(*files, *(dataset["@id"] for dataset in datasets)),
        "mainEntity": {"@id": "Snakefile"},
        "mentions": _reference("#run", *(action["@id"] for action in actions)),
    }
    graph = [_descriptor(), root, *_context_entities(study), *map(_file(out), files), *datasets, whole, *actions]
    return {"@context": CONTEXT, "@graph": graph}


def _descriptor() -> Entity:
    conforms = _reference("https://w3id.org/ro/crate/1.1", list(PROFILES)[-1])
    return {"@id": METADATA, "@type": "CreativeWork", "about": {"@id": "./"}, "conformsTo": conforms}


def _context_entities(study: Study) -> list[Entity]:
    versions: dict[str, str] = {}
    for folder in _products(study):
        versions |= (read_record(folder) or {}).get("versions", {})
    return [
        *(
            {"@id": url, "@type": "CreativeWork", "name": name, "version": url.rsplit("/", 1)[-1]}
            for url, name in PROFILES.items()
        ),
        {"@id": "https://spdx.org/licenses/MIT", "@type": "CreativeWork", "name": "MIT License"},
        {
            "@id": ENGINE,
            "@type": "ComputerLanguage",
            "name": "Snakemake",
            "url": {"@id": "https://snakemake.readthedocs.io"},
            "version": versions.get("snakemake") or "",
        },
        {
            "@id": COMMAND,
            "@type": "SoftwareApplication",
            "name": "stedm",
            "description": "The commands that the workflow runs, one a stage.",
            "softwareVersion": __version__,
        },
    ]


def _file(out: Path):
    def describe(name: str) -> Entity:
        path = out / name
        entity = {"@id": name, "@type": "File", "name": path.name, "contentSize": str(path.stat().st_size)}
        entity |= {"sha256": checksum(path), "encodingFormat": FORMATS.get(path.suffix, "text/plain")}
        if name == "Snakefile":
            entity |= {
                "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
                "name": "STEDM-workflow",
                "programmingLanguage": {"@id": ENGINE},
                "version": __version__,
                "license": {"@id": "https://spdx.org/licenses/MIT"},
            }
        if name == "README.md":
            entity |= {"about": {"@id": "./"}}
        return entity

    return describe


def _dataset(study: Study, folder: Path, files: list[str]) -> Entity:
    name = _name(study, folder)
    kept = [file for file in (f"{name}/{RECORD}", f"{name}/{SUMS}") if file in files]
    said = (
        "A product of the workflow: its provenance record and the checksums of its files, which stay where it was made."
    )
    return {"@id": f"{name}/", "@type": "Dataset", "name": name, "description": said, "hasPart": _reference(*kept)}


def _job(study: Study, folder: Path, run: Run, sources: list[Path]) -> Entity:
    record = read_record(folder) or {}
    ended = datetime.datetime.fromisoformat(record["time"])
    began = ended - datetime.timedelta(seconds=record.get("wall_seconds") or 0)
    return {
        "@id": f"#{_name(study, folder)}",
        "@type": "CreateAction",
        "name": f"{run.stage} {run.id}",
        "description": record.get("command") or "",
        "instrument": {"@id": COMMAND},
        "object": _reference("config.yaml", *(f"{_name(study, source)}/" for source in sources)),
        "result": _reference(f"{_name(study, folder)}/"),
        "startTime": began.isoformat(timespec="seconds"),
        "endTime": ended.isoformat(timespec="seconds"),
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }
