"""The command line: `stedm VERB …`. Each job of the workflow is one of these commands."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from stedm import __version__
from stedm.errors import MadeMeanwhile, Stopped, UserError

log = logging.getLogger("stedm")

STAGES = {
    "cohort": "acquire and verify the slides",
    "tiles": "cut slides into the tile store",
    "autoencoder": "train the generator's first stage on the cohort's tiles",
    "generator": "train a diffusion model",
    "synthetic": "draw labelled images in the styles of unlabelled patients",
    "segmenter": "train a segmenter and predict the test patients",
    "scores": "count predictions against labels",
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a known error is one sentence and exit code 2, another 1, a stopped training 75, Ctrl-C 130."""
    options = _parser().parse_args(arguments)
    _start_log(options.log)
    try:
        options.run(options)
    except UserError as error:
        log.error("error: %s", error)
        sys.exit(2)
    except Stopped as stopped:
        log.error("%s; run the same command again to go on", stopped)
        sys.exit(75)
    except MadeMeanwhile as made:
        log.info("%s", made)
    except KeyboardInterrupt:
        log.error("interrupted; run the same command again to go on")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except Exception:
        # So that the traceback stands in the job's log, too.
        log.exception("unexpected error; please report it")
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stedm", description="Style-Extracting Diffusion Models, from slides to tables and claims."
    )
    parser.add_argument("--version", action="version", version=f"stedm {__version__}")
    verbs = parser.add_subparsers(
        title="verbs",
        description="cohort to report are the stages of the workflow, in its order; the others help a user.",
        required=True,
        metavar="VERB",
    )

    def verb(name: str, text: str, run) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.add_argument("--log", type=Path, help="also write plain lines to this file")
        added.set_defaults(run=run)
        return added

    def stage(name: str) -> argparse.ArgumentParser:
        added = verb(name, STAGES[name], _run_stage)
        added.add_argument("config", type=Path, help="configuration, such as results/demo/config.yaml")
        added.add_argument("id", help="run, as `stedm plan CONFIG --runs` lists it")
        added.set_defaults(stage=name)
        return added

    cohort = verb("cohort", STAGES["cohort"], _run_cohort)
    cohort.add_argument("config", type=Path, help="configuration, such as config/demo.yaml")
    what = cohort.add_mutually_exclusive_group()
    what.add_argument("--repair", action="store_true", help="mend lost or changed files, and only those")
    what.add_argument(
        "--freeze", action="store_true", help="accept the files (a phantom is drawn anew): record checksums"
    )

    tiles = verb("tiles", STAGES["tiles"] + ": of a configuration's cohort, or of slides by path", _run_tiles)
    tiles.add_argument("source", nargs="+", type=Path, help="a configuration (.yaml), or slides")
    tiles.add_argument("--out", type=Path, help="folder of the tile store (slides by path)")
    tiles.add_argument("--mpp", type=float, help="working resolution in µm per pixel")
    tiles.add_argument("--downsample", type=float, help="working resolution as a factor of level 0")
    tiles.add_argument("--slide-mpp", type=float, help="resolution of level 0 where the file does not state it")
    tiles.add_argument("--tile", type=int, default=256, help="side of a tile in working pixels (default 256)")
    tiles.add_argument("--annotations", type=Path, help="QuPath GeoJSON of the slide, or a folder of <slide>.geojson")
    tiles.add_argument("--classes", nargs="+", help="annotated classes to keep (default: tumour)")

    for name in ("autoencoder", "generator", "synthetic", "segmenter", "scores"):
        added = stage(name)
        if name == "synthetic":
            added.add_argument("--part", type=int, default=0, help="which of execution.synthetic_jobs parts")

    for name, text, run in (
        ("headline", "print the headline table of a finished run", _run_headline),
        ("search", "compare strengths of colour augmentation on training patients", _run_search),
        ("check", "check a configuration and print it with all defaults", _run_check),
        ("manifest", "write a cohort's manifest from its own tables and files", _run_manifest),
    ):
        verb(name, text, run).add_argument("config", type=Path, help="configuration, such as config/demo.yaml")
    report = verb("report", "write tables, figures, claims and the report", _run_report)
    report.add_argument("config", type=Path, help="configuration, such as config/demo.yaml")
    report.add_argument("--recorded", action="store_true", help="of the recorded scores, in results/review")

    record = verb("record", "copy a run's results to results/reference", _run_record)
    record.add_argument("config", type=Path, help="configuration, such as config/demo.yaml")
    record.add_argument("--again", action="store_true", help="only make what follows from the recorded scores anew")

    verify = verb("verify", "compare recorded results with what can be made again here, cell by cell", _run_verify)
    verify.add_argument("config", nargs="?", type=Path, help="configuration, such as config/demo.yaml (default: --all)")
    verify.add_argument("--all", action="store_true", help="every result under results/reference")
    verify.add_argument("--sign", action="store_true", help="append who, when, commit and machine to REPRODUCED.md")
    verify.add_argument("--out", type=Path, metavar="DIR", help="folder of verification.json and .html")

    plan = verb("plan", "say what would run for a configuration, and what it takes", _run_plan)
    plan.add_argument("config", type=Path, help="configuration, such as config/paper.yaml")
    plan.add_argument("--runs", action="store_true", help="list the runs instead, and which are done")
    fetch = verb("fetch", "say where a cohort comes from, and download it", _run_fetch)
    fetch.add_argument("config", type=Path, help="configuration, such as config/flowers.yaml")
    fetch.add_argument("--yes", action="store_true", help="consent to licence and size, and download")

    export = verb("export", "write layouts, tile grids and predictions as GeoJSON for QuPath", _run_export)
    export.add_argument("config", type=Path, help="configuration, such as config/demo.yaml")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the files")
    export.add_argument("--segmenter", nargs="+", default=[], metavar="ID", help="runs whose predictions are exported")
    export.add_argument("--checkpoint", choices=("last", "best"), default="last", help="of the runs (default last)")
    export.add_argument("--slides", nargs="+", default=[], metavar="NAME", help="slides (default all)")
    export.add_argument(
        "--tolerance",
        type=float,
        default=0.35,
        help="move outlines by at most so many working pixels to simplify them (default 0.35: no pixel changes sides)",
    )

    crate = verb("crate", "write a finished run as a Workflow Run RO-Crate, for an archive", _run_crate)
    crate.add_argument("config", type=Path, help="configuration, such as config/demo.yaml")
    crate.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder of the crate")
    crate.add_argument("--author", metavar="NAME", help="who ran it and answers for it (default: nobody is named)")
    crate.add_argument("--orcid", metavar="URL", help="the author's https://orcid.org/…")

    doctor = verb("doctor", "examine the machine, a configuration's cohort, and slides by path", _run_doctor)
    doctor.add_argument("config", nargs="?", type=Path, help="configuration, such as config/demo.yaml")
    doctor.add_argument("--slides", nargs="+", type=Path, default=[], metavar="PATH", help="slides of no cohort")
    doctor.add_argument("--json", type=Path, metavar="FILE", help="also write the findings to this file")

    verb("docs", "write the configuration's reference page and schema, and the numbers that pages show", _run_docs)
    return parser


def _start_log(path: Path | None) -> None:
    from stedm.progress import use_bars

    log.setLevel(logging.INFO)
    log.propagate = False
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [shown]
    # Jobs of the workflow have a log and share one terminal: lines there, bars only for a command alone.
    use_bars(path is None)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = logging.FileHandler(path, mode="a")
        kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(kept)


def _studies(path: Path):
    from stedm.config import load_configs
    from stedm.study import Studies

    return Studies(load_configs(path))


def _study(path: Path):
    from stedm.config import load_config
    from stedm.study import Study

    return Study(load_config(path))


def _run_stage(options: argparse.Namespace) -> None:
    from stedm import stages
    from stedm.tools import gpus
    from stedm.tools.scheduler import start_on_all_nodes

    plan, run = _studies(options.config).having(options.stage, options.id).find(options.stage, options.id)
    execution = plan.config.execution
    if options.stage == "generator":
        start_on_all_nodes(execution)
    with gpus.held(gpus.numbers(execution), gpus.needed(execution, run)):
        if options.stage == "synthetic":
            stages.make_synthetic(plan, run, options.part)
        else:
            getattr(stages, f"make_{options.stage}")(plan, run)


def _run_cohort(options: argparse.Namespace) -> None:
    from stedm.cohort import load_cohort
    from stedm.config import load_config
    from stedm.stages import make_cohort
    from stedm.study import Study

    config = load_config(options.config)
    if not (options.freeze or options.repair):
        plan = Study(config).plans[0]
        make_cohort(plan, plan.cohort)
        return
    cohort, workers = load_cohort(config.cohort), config.execution.slide_workers
    if not hasattr(cohort, "freeze" if options.freeze else "repair"):
        raise UserError(
            f"{options.config}: the cohort {config.cohort.name!r} is not drawn by code; its files "
            "are mended where they came from."
        )
    if options.freeze:
        log.info("wrote %s and data.dvc; commit both", cohort.freeze(workers=workers))
    else:
        facts = cohort.repair(Study(config).plans[0].slides, workers=workers)
        log.info("%s: %s", cohort.data, facts["data"])


def _run_tiles(options: argparse.Namespace) -> None:
    if all(path.suffix in (".yaml", ".yml") for path in options.source) and len(options.source) == 1:
        from stedm.stages import make_tiles

        plan = _study(options.source[0]).plans[0]
        make_tiles(plan, plan.tiles)
        return
    from pydantic import ValidationError

    from stedm.config import TilesConfig, describe
    from stedm.tiles.cut import cut_files

    if options.out is None:
        raise UserError("--out: name a folder for the tile store.")
    classes = options.classes or ["tumour"]
    try:
        config = TilesConfig(
            mpp=options.mpp,
            downsample=options.downsample,
            tile=options.tile,
            classes=classes,
            foreground=classes,
        )
    except ValidationError as error:
        raise UserError(f"tiles: {describe(error)}") from None
    cut_files(options.source, options.out, config, mpp=options.slide_mpp, annotations=options.annotations)
    log.info("wrote %s; its preview/ shows each slide", options.out)


def _run_report(options: argparse.Namespace) -> None:
    from stedm.stages import make_report

    headline = make_report(_study(options.config), recorded=options.recorded)
    # In the workflow other lines follow; `make` prints the headline at the end.
    if options.log is None:
        print(headline)


def _run_headline(options: argparse.Namespace) -> None:
    from stedm.report import headline_text

    view = _study(options.config).view
    if not (view / "claims.csv").is_file():
        raise UserError(f"{view}/claims.csv: missing; run `snakemake` for this configuration first.")
    print(headline_text(view))


def _run_search(options: argparse.Namespace) -> None:
    from stedm.stages import make_search

    print(make_search(_study(options.config)))


def _run_record(options: argparse.Namespace) -> None:
    from stedm.tools.record import record_again, record_reference

    study = _study(options.config)
    log.info("recorded %s", (record_again if options.again else record_reference)(study))


def _run_verify(options: argparse.Namespace) -> None:
    from stedm.verify.command import verify_results

    said, sound = verify_results(options.config, everything=options.all, sign=options.sign, out=options.out)
    print(said)
    if not sound:
        sys.exit(1)


def _run_plan(options: argparse.Namespace) -> None:
    from stedm.tools.listing import list_runs
    from stedm.tools.pricing import price

    studies = _studies(options.config)
    print("\n".join(map(list_runs, studies.all)) if options.runs else price(studies))


def _run_check(options: argparse.Namespace) -> None:
    import yaml

    study = _study(options.config)
    print(yaml.safe_dump(study.config.model_dump(mode="json"), sort_keys=False), end="")


def _run_manifest(options: argparse.Namespace) -> None:
    from stedm.cohort import load_cohort
    from stedm.cohort.files import write_manifest
    from stedm.config import load_config

    config = load_config(options.config).cohort
    cohort = load_cohort(config)
    if not hasattr(cohort, "list_slides"):
        raise UserError(
            f"{options.config}: the cohort {config.name!r} has no table of slides; write its manifest by hand."
        )
    rows, comment = cohort.list_slides()
    write_manifest(config.manifest, rows, comment)
    log.info("wrote %s: %d slides; commit it", config.manifest, len(rows))


def _run_fetch(options: argparse.Namespace) -> None:
    from stedm.tools.fetch import fetch_cohort

    fetch_cohort(options.config, consent=options.yes)


def _run_export(options: argparse.Namespace) -> None:
    from stedm.tools.export import export

    summary = export(
        _study(options.config),
        options.out,
        segmenters=options.segmenter,
        checkpoint=options.checkpoint,
        slides=options.slides,
        tolerance=options.tolerance,
    )
    log.info("wrote %s; %s states the error of each file", options.out, summary)


def _run_crate(options: argparse.Namespace) -> None:
    from stedm.tools.crate import write_crate

    study = _study(options.config)
    log.info("wrote %s", write_crate(study, options.out, author=options.author, orcid=options.orcid))


def _run_doctor(options: argparse.Namespace) -> None:
    from stedm.tools.doctor import examine
    from stedm.tools.findings import report, sound, write_json

    rows = examine(options.config, options.slides)
    print(report(rows))
    if options.json:
        write_json(options.json, rows)
    if not sound(rows):
        sys.exit(1)


def _run_docs(options: argparse.Namespace) -> None:
    from stedm.tools.reference import write_reference

    for path in write_reference(Path()):
        log.info("wrote %s", path)


if __name__ == "__main__":
    main()
