rule report:
    input:
        lambda wildcards: [
            path
            for _, run in studies.named(wildcards.name).scored
            for path in sums(run)
        ],
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
        "results/logs/{name}/report.log",
    benchmark:
        "results/benchmarks/{name}/report.tsv"
    conda:
        "../../environment.yaml"
    resources:
        settings=view_settings,
        mem_mb=2000,
        runtime=60,
    params:
        code=fingerprint("stedm.report"),
        settings=lambda wildcards: studies.named(wildcards.name).shown,
    message:
        "Report {wildcards.name}: tables, figures and claims"
    shell:
        "stedm report {resources.settings} --log {log}"


rule colour_search:
    input:
        lambda wildcards: [
            path
            for run in studies.named(wildcards.name).searched
            for path in sums(run)
        ],
    output:
        f"{VIEW}/colour-search.csv",
    log:
        "results/logs/{name}/colour-search.log",
    conda:
        "../../environment.yaml"
    resources:
        settings=view_settings,
        mem_mb=1000,
        runtime=30,
    params:
        code=fingerprint("stedm.scores.metrics"),
    message:
        "Search {wildcards.name}: the strength of colour augmentation, on training patients"
    shell:
        "stedm search {resources.settings} --log {log}"
