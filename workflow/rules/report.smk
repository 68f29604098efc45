VIEW = f"results/{settings.name}"


rule report:
    input:
        [path for run in study.scores for path in sums(run)],
    output:
        report=report(
            f"{VIEW}/report.html", caption="../report/report.rst", category="Report"
        ),
        claims=report(
            f"{VIEW}/claims.csv", caption="../report/claims.rst", category="Claims"
        ),
        scores=f"{VIEW}/scores.parquet",
        headline=report(
            f"{VIEW}/tables/headline.csv",
            caption="../report/table-headline.rst",
            category="Tables",
        ),
        figures=report(
            directory(f"{VIEW}/figures"),
            patterns=["{figure}.png"],
            caption="../report/figures.rst",
            category="Figures",
        ),
    log:
        f"results/logs/{settings.name}/report.log",
    benchmark:
        f"results/benchmarks/{settings.name}/report.tsv"
    conda:
        "../../environment.yaml"
    resources:
        settings=RESOLVED,
        mem_mb=2000,
        runtime=60,
    params:
        code=fingerprint("stedm.report"),
        settings=settings.report.model_dump(mode="json"),
    message:
        "Report {settings.name}: tables, figures and claims"
    shell:
        "stedm report {resources.settings} --log {log}"


rule colour_search:
    input:
        [path for run in study.searched for path in sums(run)],
    output:
        f"{VIEW}/colour-search.csv",
    log:
        f"results/logs/{settings.name}/colour-search.log",
    conda:
        "../../environment.yaml"
    resources:
        settings=RESOLVED,
        mem_mb=1000,
        runtime=30,
    params:
        code=fingerprint("stedm.scores.metrics"),
    message:
        "Search {settings.name}: the strength of colour augmentation, on training patients"
    shell:
        "stedm search {resources.settings} --log {log}"
