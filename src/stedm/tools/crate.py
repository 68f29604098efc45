"""A finished run as a Workflow Run RO-Crate: files and how each was made, for archives and their tools.

A crate is a folder with ``ro-crate-metadata.json`` (RO-Crate 1.1, https://w3id.org/ro/crate/1.1; profiles Workflow Run
Crate and Provenance Run Crate 0.5, https://w3id.org/ro/wfrun/provenance/0.5). In it lie the workflow, the
configuration, what the report consists of, and of each product the provenance record and the checksums; products stay
where they are.
"""

from __future__ import annotations

import datetime
import json
import re
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
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
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


def write_crate(study: Study, out: Path, *, author: str | None = None, orcid: str | None = None) -> Path:
    """Write a finished run's crate into the folder `out`, which must not exist; return its metadata file.

    Parameters
    ----------
    study
        The study.
    out
        New folder.
    author, orcid
        Name of the person who ran it and answers for it, and an ORCID (``https://orcid.org/0000-…``); left out where
        nobody is named, for no record of ours says who it was.

    Raises
    ------
    UserError
        If the run has no report, `out` exists, or the ORCID is none.
    """
    out = Path(out)
    if orcid is not None and (author is None or not re.fullmatch(r"https://orcid\.org/(\d{4}-){3}\d{3}[\dX]", orcid)):
        raise UserError(f"--orcid: {orcid!r}; give https://orcid.org/ with its sixteen digits, and a name as --author.")
    if not (study.view / "report.html").is_file():
        raise UserError(f"{study.view}/report.html: missing; run `snakemake` for this configuration first.")
    if out.exists():
        raise UserError(f"--out: {out} exists; name a new folder.")
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    _copy(study, beside)
    metadata = _metadata(study, beside, _person(author, orcid))
    (beside / METADATA).write_text(json.dumps(metadata, indent=1, ensure_ascii=False) + "\n")
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


def _person(name: str | None, orcid: str | None) -> Entity | None:
    return None if name is None else {"@id": orcid or "#author", "@type": "Person", "name": name}


def _reference(*names: str) -> list[Entity] | Entity:
    """Refer to entities; to one alone without a list, as RO-Crate recommends."""
    found = [{"@id": name} for name in names]
    return found[0] if len(found) == 1 else found


def _metadata(study: Study, out: Path, author: Entity | None) -> Entity:
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    products = _products(study)
    actions = [_job(study, folder, run, sources) for folder, (run, sources) in products.items()]
    datasets = [_dataset(study, folder, files) for folder in products]
    whole = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Run of the workflow with the configuration {study.config.name}",
        "description": "All jobs behind the report, as `snakemake --configfile config.yaml` runs them.",
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
    if author:
        root["author"] = _reference(author["@id"])
        for action in (whole, *actions):
            action["agent"] = _reference(author["@id"])
        graph.append(author)
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
                "hasPart": {"@id": COMMAND},
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
